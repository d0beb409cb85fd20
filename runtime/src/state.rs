//! The state folder of a project: where it is, who may read it, and which process holds it now.
//!
//! It lies under the user's state folder and never in the project, since agents may read that. All of it is private (0700, 0600),
//! and a file is replaced as a whole or not at all. A folder that others own or could replace is refused (`ownership`): the keys of
//! the bus would be theirs. This file knows no names inside the folder except `lock`.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::ownership;

/// How often, and how far apart, a taken lock is tried: long enough to outlast someone who only looks ([`InstanceLock::holder`]).
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why state cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither `XDG_STATE_HOME` nor `HOME` says where state goes.
    #[error("no place for state: set HOME or XDG_STATE_HOME to an absolute path, or give --dir")]
    NoHome,
    /// The folder cannot be made or written.
    #[error("cannot write to state folder `{}`: give another with --dir, or set XDG_STATE_HOME", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns it, or could put another one in its place.
    #[error("`{}` is not safe as a state folder: `{}` {why}; name a folder of your own with --dir", path.display(), step.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// It, or what leads to it.
        step: PathBuf,
        /// What is wrong with that.
        why: String,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process holds the folder.
    #[error("state folder `{}` is in use by process {pid}: stop it first, or give another folder with --dir", path.display())]
    Running {
        /// The folder.
        path: PathBuf,
        /// The process, `?` when it did not say.
        pid: String,
    },
}

/// The folder for a project: `$XDG_STATE_HOME/agentbus/<name>-<8 hex>`, else `~/.local/state/agentbus/…`, on macOS
/// `~/Library/Application Support/agentbus/…`. The hex digits are of the whole path, so that two projects of one name do not meet.
/// Makes nothing.
pub fn default_dir(project_dir: &Path) -> Result<PathBuf, Error> {
    let var = |key| std::env::var_os(key).map(PathBuf::from);
    let project = project_dir.canonicalize().unwrap_or_else(|_| project_dir.to_owned());
    dir_in(&project, var("XDG_STATE_HOME"), var("HOME"), cfg!(target_os = "macos")).ok_or(Error::NoHome)
}

fn dir_in(project: &Path, xdg: Option<PathBuf>, home: Option<PathBuf>, mac: bool) -> Option<PathBuf> {
    // Relative paths do not count, says the XDG base directory specification.
    let absolute = |path: Option<PathBuf>| path.filter(|path| path.is_absolute());
    let usual = if mac { "Library/Application Support" } else { ".local/state" };
    let base = absolute(xdg).or_else(|| absolute(home).map(|home| home.join(usual)))?;
    let digest = Sha256::digest(project.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let name = project.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy());
    Some(base.join("agentbus").join(format!("{name}-{hex}")))
}

/// Refuses a folder that others own or may write to, or could put another one in place of. One that does not exist is fine.
/// For who reads: the administrator may read what is one other user's alone, but not [write](create_private) there.
pub fn check(dir: &Path) -> Result<(), Error> {
    refuse(dir, ownership::danger_to_read(dir))
}

fn check_to_write(dir: &Path) -> Result<(), Error> {
    refuse(dir, ownership::danger(dir))
}

fn refuse(dir: &Path, danger: Option<(PathBuf, String)>) -> Result<(), Error> {
    match danger {
        None => Ok(()),
        Some((step, why)) => Err(Error::Unsafe { path: dir.to_owned(), step, why }),
    }
}

/// Makes `dir` and its parents, for the user alone (0700), and proves that files can be written there. A folder that exists is
/// [checked](check), and its mode left alone, but for what earlier versions left open inside a state folder.
pub fn create_private(dir: &Path) -> Result<(), Error> {
    // Twice: nothing is made through a link of somebody else, and somebody may have been quicker.
    shut(dir);
    check_to_write(dir)?;
    make_private(dir)?;
    check_to_write(dir)
}

/// Earlier versions made folders inside a state folder with the user's umask, so that the group may write to some. Where nobody
/// else may enter the state folder none of them was ever there, and it is shut instead of refused. When that fails, it is refused.
fn shut(dir: &Path) {
    // Without a slash at the end, which would lead through a link.
    let dir: PathBuf = dir.components().collect();
    // Behind `..` a folder need not lie in what the path names before.
    if dir.components().any(|step| step == Component::ParentDir) || !ownership::is_left_open(&dir) {
        return;
    }
    let is_state = |folder: &Path| folder.join("lock").is_file() && ownership::is_shut(folder);
    if dir.ancestors().skip(1).any(is_state) {
        let _ = fs::set_permissions(&dir, Permissions::from_mode(0o700));
    }
}

fn make_private(dir: &Path) -> Result<(), Error> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        tempfile::tempfile_in(dir)
    };
    make().map(drop).map_err(|source| Error::Folder { path: dir.to_owned(), source })
}

/// Writes a file for the user alone (0600), as a whole: a crash or a full disk leaves the old content.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = || {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The rename itself lasts only once the folder is on disk.
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// The right to use a state folder, held by a lock on its `lock` file. The kernel takes it back when the process dies, however
/// it dies, so that a stale lock does not exist.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    /// Takes the folder for this process, or says who has it. Waits at most 100 ms.
    pub fn acquire(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let failed = |source| Error::Write { path: path.clone(), source };
        let mut file = open(&path).map_err(failed)?;
        for tries_left in (0..LOCK_TRIES).rev() {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries_left > 0 => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Running { path: dir.to_owned(), pid: pid_in(&mut file) });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// The process that holds the folder (`?` when it did not say); `None` when nobody does. Reads only.
    pub fn holder(dir: &Path) -> Option<String> {
        let mut file = File::open(dir.join("lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(pid_in(&mut file)),
            _ => None,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn pid_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    if read.is_ok() && !text.is_empty() { text } else { "?".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text))
    }

    #[test]
    fn the_folder_is_the_users_and_the_projects() {
        let project = Path::new("/src/demo");
        let check = |xdg, home, mac, expect: Option<&str>| {
            let got = dir_in(project, xdg, home, mac);
            assert_eq!(got, expect.map(|base| PathBuf::from(base).join("agentbus/demo-24fb704b")));
        };
        check(path("/state"), path("/home/a"), false, Some("/state"));
        check(path("state"), path("/home/a"), false, Some("/home/a/.local/state"));
        check(None, path("/home/a"), true, Some("/home/a/Library/Application Support"));
        check(None, None, false, None);
        let other = dir_in(Path::new("/other/demo"), path("/state"), None, false);
        assert_ne!(other, dir_in(project, path("/state"), None, false));
    }

    #[test]
    fn files_and_folders_are_private_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        create_private(&dir).unwrap();
        let file = dir.join("secret");
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing left over");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).unwrap();
        for (dir, mode, wanted) in [(shared.clone(), 0o770, "chmod go-w"), (shared.join("state"), 0o777, "--dir")] {
            fs::set_permissions(&shared, Permissions::from_mode(mode)).unwrap();
            let message = create_private(&dir).unwrap_err().to_string();
            assert!(message.contains(wanted) && message.contains(shared.to_str().unwrap()), "{message}");
            assert_eq!(message, check(&dir).unwrap_err().to_string());
        }
        assert!(!shared.join("state").exists());
        fs::set_permissions(&shared, Permissions::from_mode(0o700)).unwrap();
        create_private(&shared.join("state")).unwrap();
    }

    #[test]
    fn what_was_left_open_inside_a_shut_state_folder_is_shut() {
        let folder = tempfile::tempdir().unwrap();
        let (state, part) = (folder.path().join("state"), folder.path().join("state/nats"));
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        fs::create_dir_all(&part).unwrap();
        set(&part, 0o775);
        set(&state, 0o700);
        create_private(&part).unwrap_err();
        // Now it is a state folder, but one that others may enter.
        drop(InstanceLock::acquire(&state).unwrap());
        set(&state, 0o755);
        create_private(&part).unwrap_err();
        set(&state, 0o700);
        std::os::unix::fs::symlink(&part, state.join("link")).unwrap();
        create_private(&state.join("link")).unwrap_err();
        assert_eq!(mode(&part), 0o775, "left alone");
        create_private(&part).unwrap();
        assert_eq!((mode(&part), mode(&state)), (0o700, 0o700));
    }

    #[test]
    fn an_unusable_folder_is_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let dir = file.join("state");
        let message = create_private(&dir).unwrap_err().to_string();
        for part in [dir.to_str().unwrap(), "--dir", "XDG_STATE_HOME"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(matches!(write_private(&dir, b""), Err(Error::Write { .. })));
        // Made, but no file can be written there: for root too.
        assert!(matches!(create_private(Path::new("/proc/self")), Err(Error::Folder { .. })));
    }

    #[test]
    fn one_folder_serves_one_instance() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(InstanceLock::holder(folder.path()), None);
        let lock = InstanceLock::acquire(folder.path()).unwrap();
        let own = std::process::id().to_string();
        assert_eq!(InstanceLock::holder(folder.path()), Some(own.clone()));
        match InstanceLock::acquire(folder.path()) {
            Err(Error::Running { pid, .. }) => assert_eq!(pid, own),
            other => panic!("{other:?}"),
        }
        drop(lock);
        assert_eq!(InstanceLock::holder(folder.path()), None);
        InstanceLock::acquire(folder.path()).unwrap();
    }
}
