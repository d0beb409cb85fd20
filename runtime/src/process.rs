//! Child processes: started with a complete environment, watched, stopped with all their descendants.
//!
//! A child leads a process group of its own (through the launcher stage a session, see [`crate::launch`]), and whatever ends it
//! ends the group: after its exit the rest of the group is killed. Dropping a [`Child`] kills it. Works on a `current_thread`
//! runtime. Whether to start again is decided by [`crate::restart`], not here.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

mod spec;

pub use spec::{Input, Output, Spec};

use crate::logs::{LogFile, Stream};

/// After an exit, how long the last lines may take to arrive: a descendant that left the group may hold the pipe open.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// Why a child did not start. A missing program is reported here only without a launcher; with one, it exits with 127.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Empty `argv`.
    #[error("no program to start")]
    NoProgram,
    /// The system refused.
    #[error("cannot start `{program}`")]
    Spawn {
        /// As given.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How a process ended: by itself with a code, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl Exit {
    /// Exit code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => match signal_name(signal) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
            (None, None) => f.write_str("ended"),
        }
    }
}

/// The names people know; the others are told by number.
fn signal_name(signal: i32) -> Option<&'static str> {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
    ];
    names.into_iter().find_map(|(known, name)| (known.as_raw() == signal).then_some(name))
}

/// A running child. Dropped, it is killed with its group.
#[derive(Debug)]
pub struct Child {
    inner: tokio::process::Child,
    pid: Pid,
    // Kept here and not in `inner`, whose `wait` would close stdin: that means something to the child.
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    captures: Vec<JoinHandle<()>>,
    exit: Option<Exit>,
}

impl Child {
    fn new(mut inner: tokio::process::Child, pid: Pid) -> Self {
        let (stdin, stdout, stderr) = (inner.stdin.take(), inner.stdout.take(), inner.stderr.take());
        Self { inner, pid, stdin, stdout, stderr, captures: Vec::new(), exit: None }
    }

    fn capture(&mut self, log: &LogFile, stream: Stream, pipe: impl AsyncRead + Unpin + Send + 'static) {
        let log = log.clone();
        self.captures.push(tokio::spawn(async move { log.capture(stream, pipe).await }));
    }

    /// Its process id, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Takes the writing end of its stdin, if piped and not taken before.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Takes its stdout, if piped and not taken before.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Takes its stderr, if piped and not taken before.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.stderr.take()
    }

    /// Waits for its end, kills what is left of its group, and waits at most 1 s for its last log lines. Cancel-safe; its stdin
    /// stays open meanwhile if piped and not taken.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        let exit = self.wait_leader().await?;
        while let Some(capture) = self.captures.last_mut() {
            if tokio::time::timeout(LAST_LINES_MAX, &mut *capture).await.is_err() {
                capture.abort();
            }
            self.captures.pop();
        }
        Ok(exit)
    }

    /// Ends it: SIGTERM to the group, after `grace` SIGKILL. Returns when it has ended; at once when it had before.
    pub async fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        if self.exit.is_none() {
            self.signal(Signal::TERM);
            if tokio::time::timeout(grace, self.wait_leader()).await.is_err() {
                self.signal(Signal::KILL);
            }
        }
        self.wait().await
    }

    /// Kills it and its group at once.
    pub async fn kill(&mut self) -> io::Result<Exit> {
        self.terminate(Duration::ZERO).await
    }

    async fn wait_leader(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let exit = Exit::from(self.inner.wait().await?);
        self.exit = Some(exit);
        // The number is free now, but process ids are handed out in turn: it will not come round again within this call.
        let _ = kill_process_group(self.pid, Signal::KILL);
        Ok(exit)
    }

    fn signal(&self, signal: Signal) {
        // No such group: the launcher has not come to its session yet, and is alone.
        if kill_process_group(self.pid, signal).is_err() {
            let _ = kill_process(self.pid, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words_people_know() {
        let check = |code, signal, wanted: &str| assert_eq!(Exit { code, signal }.to_string(), wanted);
        check(Some(3), None, "exit code 3");
        check(None, Some(9), "killed by SIGKILL");
        check(None, Some(11), "killed by SIGSEGV");
        check(None, Some(63), "killed by signal 63");
        check(None, None, "ended");
    }
}
