//! The keys of an installation on disk: `<state>/keys/authority.json`, made once, for the owner alone.
//!
//! Whoever can read the file can mint any token. A file that is there and cannot be read is an error, never replaced:
//! new keys would lock every running sidecar out of the broker.

use std::io;
use std::path::{Path, PathBuf};

use agentbus_nats::identity::{Authority, AuthorityError};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::state;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder or file cannot be made.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The file is there and cannot be read.
    #[error("cannot read the keys in `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is there and holds no keys.
    #[error("the keys in `{}` are damaged: restore the file, or remove it and the broker's store for a fresh start", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: AuthorityError,
    },
    /// The keys are for another namespace.
    #[error("the keys in `{}` are for namespace `{found}`, not `{wanted}`: use another state folder for it (--dir)", path.display())]
    Namespace {
        /// The file.
        path: PathBuf,
        /// Theirs.
        found: String,
        /// The project's.
        wanted: String,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        Fault::new(Code::BadConfig, format!("{error}{}", source.unwrap_or_default()))
    }
}

/// Where the keys are.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("keys").join("authority.json")
}

/// Reads the keys.
pub fn load(state_dir: &Path) -> Result<Authority, Error> {
    let path = file(state_dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => Authority::from_json(&text).map_err(|source| Error::Damaged { path, source }),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// Reads the keys, or makes and stores new ones.
pub fn load_or_create(state_dir: &Path, namespace: &str) -> Result<Authority, Error> {
    let path = file(state_dir);
    let authority = match load(state_dir) {
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => create(&path, namespace)?,
        read => read?,
    };
    if authority.namespace() != namespace {
        let (found, wanted) = (authority.namespace().to_owned(), namespace.to_owned());
        return Err(Error::Namespace { path, found, wanted });
    }
    Ok(authority)
}

fn create(path: &Path, namespace: &str) -> Result<Authority, Error> {
    state::create_private(path.parent().unwrap_or(Path::new(".")))?;
    let authority = Authority::generate(namespace);
    let text = authority.to_json().map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    state::write_private(path, text.as_bytes())?;
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_create(folder.path(), "default").unwrap();
        let again = load_or_create(folder.path(), "default").unwrap();
        assert_eq!(first.system_account(), again.system_account());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file(folder.path())), 0o600);
        assert_eq!(mode(&folder.path().join("keys")), 0o700);
    }

    #[test]
    fn damaged_or_foreign_keys_are_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        load_or_create(folder.path(), "default").unwrap();
        assert!(matches!(load_or_create(folder.path(), "other"), Err(Error::Namespace { .. })));
        std::fs::write(file(folder.path()), "{}").unwrap();
        let fault = Fault::from(load_or_create(folder.path(), "default").map(drop).unwrap_err());
        assert_eq!(fault.code, Code::BadConfig);
        assert!(fault.message.contains("authority.json"), "{fault}");
        assert_eq!(std::fs::read_to_string(file(folder.path())).unwrap(), "{}");
    }
}
