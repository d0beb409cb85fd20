//! The launcher stage: a short life between the supervisor's fork and the child's own program.
//!
//! `agentbus launch -- argv…` (hidden) makes the process a session of its own, so that a Ctrl-C in the terminal reaches the
//! supervisor only and one signal reaches all of the child's descendants; asks the kernel to kill it when the supervisor
//! dies (Linux); then becomes `argv`. It is a program because this must happen inside the child, and code between fork and exec
//! would be `unsafe`. Isolation will be added here, layer by layer.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::files;

/// Tells the launcher who started it: the supervisor's process id. Not passed on.
pub(crate) const PARENT_VARIABLE: &str = "AGENTBUS_LAUNCH_PARENT";

/// Tells the launcher the limit of open files that its program is to have. Not passed on.
pub(crate) const FILES_VARIABLE: &str = "AGENTBUS_LAUNCH_FILES";

/// This very program after its file was replaced or removed, as after a build.
const OWN_IMAGE: &str = "/proc/self/exe";

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `launch` without a program.
    #[error("nothing to launch")]
    NoProgram,
    /// The process that asked for the launch is gone.
    #[error("the supervisor died before the launch")]
    Orphaned,
    /// The session or the death signal was refused.
    #[error("cannot detach from the supervisor")]
    Detach(#[source] io::Error),
    /// The program cannot be executed.
    #[error("cannot start `{program}`: {source}")]
    Exec {
        /// As given.
        program: String,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// The exit code, as shells choose it: 127 not found, 126 not executable, 125 the launcher itself failed.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            _ => 125,
        }
    }
}

/// Becomes `argv`, or says why not on stderr and exits. To be called first thing in `main`, before threads exist.
pub fn run(argv: Vec<OsString>) -> ! {
    let error = exec(argv);
    eprintln!("agentbus launch: {error}");
    std::process::exit(error.exit_code())
}

/// Becomes `argv`; returns only on failure.
pub fn exec(argv: Vec<OsString>) -> Error {
    let mut argv = argv.into_iter();
    let Some(program) = argv.next() else { return Error::NoProgram };
    if let Err(error) = detach() {
        return error;
    }
    if let Some(before) = std::env::var(FILES_VARIABLE).ok().and_then(|limit| limit.parse().ok()) {
        files::give_back(before);
    }
    let mut command = Command::new(&program);
    if program == OWN_IMAGE {
        command.arg0("agentbus");
    }
    let source = command.args(argv).env_remove(PARENT_VARIABLE).env_remove(FILES_VARIABLE).exec();
    Error::Exec { program: program.to_string_lossy().into_owned(), source }
}

fn detach() -> Result<(), Error> {
    rustix::process::setsid().map_err(|error| Error::Detach(error.into()))?;
    die_with_parent()
}

/// The death signal is set first and the parent looked at second: whenever it dies, one of the two notices.
#[cfg(target_os = "linux")]
fn die_with_parent() -> Result<(), Error> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::Detach(error.into()))?;
    let expected = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse::<i32>().ok());
    let actual = getppid().map(|pid| pid.as_raw_nonzero().get());
    if expected.is_some() && expected != actual { Err(Error::Orphaned) } else { Ok(()) }
}

/// Elsewhere there is no such signal; children notice by the end of their stdin, or by their supervisor's next start.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> Result<(), Error> {
    Ok(())
}

/// This very program, to be started again. Its file may be gone by then (rebuilt, upgraded); its image in memory is not.
pub fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(if !path.exists() && cfg!(target_os = "linux") { PathBuf::from(OWN_IMAGE) } else { path })
}

/// What to put before an argv so that it goes through the launcher stage of this very program.
pub fn prefix() -> io::Result<Vec<OsString>> {
    Ok(vec![own_program()?.into_os_string(), "launch".into(), "--".into()])
}

/// Whether a program stands for this very one.
pub(crate) fn is_own_image(program: &OsStr) -> bool {
    program == OWN_IMAGE
}
