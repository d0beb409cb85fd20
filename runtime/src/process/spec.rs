//! What to start, and starting it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use rustix::process::Pid;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{Child, Error};
use crate::logs::{LogFile, Stream};
use crate::{files, launch};

/// A child's stdin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// Nothing to read.
    #[default]
    Null,
    /// A pipe; see [`Child::stdin`].
    Piped,
}

/// A child's stdout or stderr.
#[derive(Clone, Debug, Default)]
pub enum Output {
    /// Thrown away.
    #[default]
    Null,
    /// The supervisor's own.
    Inherit,
    /// A pipe; see [`Child::stdout`] and [`Child::stderr`]. Must be read.
    Piped,
    /// Written to a log, line by line.
    Log(LogFile),
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment: nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working folder; none: the supervisor's.
    pub cwd: Option<PathBuf>,
    /// Its stdin.
    pub stdin: Input,
    /// Its stdout.
    pub stdout: Output,
    /// Its stderr.
    pub stderr: Output,
    /// Put before `argv`: [`launch::prefix`] for the launcher stage, without which a killed supervisor leaves orphans.
    pub launcher: Vec<OsString>,
}

impl Spec {
    /// A child with this argv, an empty environment and no streams.
    pub fn new<T: Into<OsString>>(argv: impl IntoIterator<Item = T>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Starts the child. Needs a runtime; capturing of logs begins at once.
    pub async fn spawn(&self) -> Result<Child, Error> {
        let program = self.argv.first().ok_or(Error::NoProgram)?.to_string_lossy().into_owned();
        let spawned = spawn_on_lasting_thread(self.command()).await.and_then(|child| {
            let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            Ok((id.ok_or_else(|| io::Error::other("it has no process id"))?, child))
        });
        let (pid, inner) = spawned.map_err(|source| Error::Spawn { program, source })?;
        let mut child = Child::new(inner, pid);
        if let (Output::Log(log), Some(pipe)) = (&self.stdout, child.stdout.take_if(|_| self.stdout.is_log())) {
            child.capture(log, Stream::Stdout, pipe);
        }
        if let (Output::Log(log), Some(pipe)) = (&self.stderr, child.stderr.take_if(|_| self.stderr.is_log())) {
            child.capture(log, Stream::Stderr, pipe);
        }
        Ok(child)
    }

    fn command(&self) -> tokio::process::Command {
        let mut words = self.launcher.iter().chain(&self.argv);
        let program = words.next().cloned().unwrap_or_default();
        let mut command = tokio::process::Command::new(&program);
        if launch::is_own_image(&program) {
            command.arg0("agentbus");
        }
        command.args(words).env_clear().envs(self.env.iter().map(|(key, value)| (key, value)));
        if self.launcher.is_empty() {
            command.process_group(0);
        } else {
            // The launcher makes a session instead; a group leader could not.
            command.env(launch::PARENT_VARIABLE, std::process::id().to_string());
            command.envs(files::before().map(|limit| (launch::FILES_VARIABLE, limit.to_string())));
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command.stdin(match self.stdin {
            Input::Null => Stdio::null(),
            Input::Piped => Stdio::piped(),
        });
        command.stdout(self.stdout.stdio()).stderr(self.stderr.stdio()).kill_on_drop(true);
        command
    }
}

impl Output {
    fn is_log(&self) -> bool {
        matches!(self, Self::Log(_))
    }

    fn stdio(&self) -> Stdio {
        match self {
            Self::Null => Stdio::null(),
            Self::Inherit => Stdio::inherit(),
            Self::Piped | Self::Log(_) => Stdio::piped(),
        }
    }
}

struct Job {
    command: tokio::process::Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<tokio::process::Child>>,
}

/// Starts the child from a thread that lasts as long as this process. The death signal of the launcher stage fires when the
/// *thread* that forked ends, and runtimes do end theirs: a blocking thread after ten idle seconds.
async fn spawn_on_lasting_thread(command: tokio::process::Command) -> io::Result<tokio::process::Child> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, waiting) = channel::<Job>();
        // Should this thread not start, the channel is closed and every spawn says so.
        let _ = std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for mut job in waiting {
                let _inside = job.runtime.enter();
                let _ = job.answer.send(job.command.spawn());
            }
        });
        jobs
    });
    let gone = |_| io::Error::other("the thread that starts children is gone");
    let (answer, spawned) = oneshot::channel();
    let job = Job { command, runtime: Handle::current(), answer };
    spawner.send(job).map_err(|_| io::Error::other("the thread that starts children is gone"))?;
    spawned.await.map_err(gone)?
}
