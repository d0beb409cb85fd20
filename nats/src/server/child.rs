//! Short-lived child processes: run one with a time limit, look a program up on PATH, ask a nats-server for its version.
//!
//! Promises: every run ends within its limit, and the child is killed when the limit passes or the waiting task is dropped.
//! Children stay in our process group, so Ctrl-C in a terminal reaches them and what they started.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::version::Version;

/// `nats-server --version` answers in milliseconds; a slow disk or a cold shim may need a second or two.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Why a file is not a nats-server we can use.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Cannot be started at all: missing, not executable, for another machine.
    #[error("`{path}` cannot be run")]
    Run {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Did not answer `--version` in time.
    #[error("`{path}` did not answer --version within {} s", PROBE_LIMIT.as_secs())]
    Slow {
        /// The file.
        path: PathBuf,
    },
    /// Answered something else than a nats-server does.
    #[error("`{path}` is not a nats-server: --version printed {printed:?}")]
    Stranger {
        /// The file.
        path: PathBuf,
        /// The first line it printed.
        printed: String,
    },
    /// A nats-server older than [`Version::MINIMUM`].
    #[error("`{path}` is too old: it is nats-server {version}, at least {} is needed", Version::MINIMUM)]
    TooOld {
        /// The file.
        path: PathBuf,
        /// What it said it is.
        version: Version,
    },
}

impl ProbeError {
    /// The error and its cause in one line, for lists of what was tried.
    pub(crate) fn in_one_line(&self) -> String {
        match self {
            ProbeError::Run { source, .. } => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}

/// Asks the program at `path` for its version; fails unless it is a nats-server, and new enough.
pub(crate) async fn probe(path: &Path) -> Result<Version, ProbeError> {
    let path = path.to_owned();
    let mut command = Command::new(&path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PROBE_LIMIT, command.output()).await {
        Err(_) => return Err(ProbeError::Slow { path }),
        Ok(Err(source)) => return Err(ProbeError::Run { path, source }),
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
    };
    match Version::from_output(&output) {
        None => Err(ProbeError::Stranger {
            path,
            printed: output.lines().next().unwrap_or_default().chars().take(80).collect(),
        }),
        Some(version) if version < Version::MINIMUM => Err(ProbeError::TooOld { path, version }),
        Some(version) => Ok(version),
    }
}

/// Every executable file called `program` in the folders of `search_path` (the value of PATH), in their order.
pub(crate) fn on_path(program: &str, search_path: Option<&OsStr>) -> Vec<PathBuf> {
    let folders = search_path.map(std::env::split_paths).into_iter().flatten();
    // An empty entry means "the current folder" to a shell; taking a program from there by accident helps nobody.
    folders
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .filter(|file| is_executable(file))
        .collect()
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs `command` to its end; on failure gives the reason in words, with the last lines it wrote to stderr.
pub(crate) async fn run(name: &str, mut command: Command, limit: Duration) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    match tokio::time::timeout(limit, command.output()).await {
        Err(_) => Err(format!("{name} was stopped: not done within {} s", limit.as_secs())),
        Ok(Err(error)) => Err(format!("{name} could not be run: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(format!("{name} failed ({}): {}", output.status, last_words(&output.stderr))),
    }
}

/// The last three lines that say something, as one line of at most 400 characters.
fn last_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words = lines[lines.len().saturating_sub(3)..].join("; ");
    if words.is_empty() { "it said nothing".to_owned() } else { words.chars().take(400).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_takes_too_long_is_stopped() {
        let mut command = Command::new("sleep");
        command.arg("30");
        let reason = run("sleep", command, Duration::from_millis(50)).await.unwrap_err();
        assert!(reason.contains("was stopped"), "{reason}");
    }

    #[tokio::test]
    async fn a_child_that_fails_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&2; echo; echo two >&2; exit 3"]);
        let reason = run("sh", command, Duration::from_secs(5)).await.unwrap_err();
        assert!(reason.contains("one; two") && reason.contains('3'), "{reason}");
    }
}
