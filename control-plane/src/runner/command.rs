//! One child process for one event: data in, output and last words out, and nothing of it left behind.
//!
//! The child leads a group of its own, and the whole group ends with it, by itself or by time-out. What it writes is
//! bounded: stdout to 64 MiB, of stderr the last 2 KiB are kept while every line also goes to our own stderr.

use std::ffi::OsString;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentbus_runtime::process::{Child, Input, Output, Spec};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::verdict::Ending;

/// Most output of one command, in bytes.
pub(super) const STDOUT_BYTES_MAX: usize = 64 << 20;
/// What is kept of stderr, in bytes.
const STDERR_TAIL_BYTES: usize = 2048;
/// Longest line copied in one piece, in bytes.
const LINE_BYTES_MAX: usize = 8192;
/// Between SIGTERM and SIGKILL of a command that has to end.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// After the end, how long the rest of the pipes may take: somebody may have left the group with them.
const LAST_BYTES_WAIT: Duration = Duration::from_secs(1);

/// What to run and how.
#[derive(Debug, Clone)]
pub(super) struct Command {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// The launcher stage, empty for none.
    pub launcher: Vec<OsString>,
    /// Whole environment.
    pub env: Vec<(String, String)>,
    /// Whether stdout is wanted; else it goes to our own.
    pub output: bool,
    /// When it is killed.
    pub timeout: Duration,
}

/// How it went.
#[derive(Debug)]
pub(super) struct Ended {
    pub ending: Ending,
    pub stdout: Vec<u8>,
    /// Its last line on stderr that was not blank.
    pub said: String,
}

impl Command {
    /// Runs it to its end. Dropping the future kills it.
    pub(super) async fn run(&self, data: Bytes, stop: &CancellationToken) -> Ended {
        let spec = Spec {
            argv: self.argv.clone(),
            env: self.env.clone(),
            stdin: Input::Piped,
            stdout: if self.output { Output::Piped } else { Output::Inherit },
            stderr: Output::Piped,
            launcher: self.launcher.clone(),
            ..Spec::default()
        };
        let mut child = match spec.spawn().await {
            Ok(child) => child,
            Err(error) => return Ended { ending: not_started(&error), stdout: Vec::new(), said: String::new() },
        };
        let mut pipes = Pipes::start(&mut child, data);
        let ending = self.end(&mut child, &pipes.flooded, stop).await;
        pipes.finish().await;
        Ended { ending, stdout: pipes.stdout.take(), said: last_line(&pipes.stderr.take()) }
    }

    async fn end(&self, child: &mut Child, flooded: &Notify, stop: &CancellationToken) -> Ending {
        // Losing branches lose nothing: waiting for a child is cancel-safe, the others have no state.
        let ending = tokio::select! {
            exit = child.wait() => return match exit {
                Ok(exit) => Ending::Exited(exit),
                Err(error) => Ending::NotStarted(error.to_string()),
            },
            () = flooded.notified() => Ending::Flooded(STDOUT_BYTES_MAX),
            () = tokio::time::sleep(self.timeout) => Ending::TimedOut(self.timeout),
            () = stop.cancelled() => Ending::Stopped,
        };
        if let Err(error) = child.terminate(TERM_GRACE).await {
            tracing::warn!(pid = child.pid(), %error, "cannot end the command");
        }
        ending
    }
}

fn not_started(error: &(dyn std::error::Error + 'static)) -> Ending {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Ending::NotStarted(format!("{error}{cause}"))
}

/// Bytes that a reader adds to and that stay when it has to be cut off.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self) -> Vec<u8> {
        self.with(std::mem::take)
    }
}

struct Pipes {
    tasks: Vec<JoinHandle<()>>,
    flooded: Arc<Notify>,
    stdout: Kept,
    stderr: Kept,
}

impl Pipes {
    fn start(child: &mut Child, data: Bytes) -> Self {
        let mut pipes =
            Self { tasks: Vec::new(), flooded: Arc::default(), stdout: Kept::default(), stderr: Kept::default() };
        if let Some(stdin) = child.stdin() {
            // Not waited for at the end: a command need not read what it is given.
            tokio::spawn(feed(stdin, data));
        }
        if let Some(stdout) = child.stdout() {
            pipes.tasks.push(tokio::spawn(collect(stdout, pipes.stdout.clone(), pipes.flooded.clone())));
        }
        if let Some(stderr) = child.stderr() {
            pipes.tasks.push(tokio::spawn(copy_lines(stderr, pipes.stderr.clone())));
        }
        pipes
    }

    async fn finish(&mut self) {
        for mut task in self.tasks.drain(..) {
            if tokio::time::timeout(LAST_BYTES_WAIT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn feed(mut stdin: impl AsyncWrite + Unpin, data: Bytes) {
    // A closed pipe is the command's choice; its exit code says what it made of it.
    let _ = stdin.write_all(&data).await;
    let _ = stdin.shutdown().await;
}

async fn collect(mut pipe: impl AsyncRead + Unpin, kept: Kept, flooded: Arc<Notify>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        let room = kept.with(|kept| {
            kept.extend_from_slice(&chunk[..read]);
            kept.len() <= STDOUT_BYTES_MAX
        });
        if !room {
            return flooded.notify_one();
        }
    }
}

async fn copy_lines(mut pipe: impl AsyncRead + Unpin, tail: Kept) {
    let mut chunk = vec![0; LINE_BYTES_MAX];
    let mut pending: Vec<u8> = Vec::new();
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        tail.with(|tail| {
            tail.extend_from_slice(&chunk[..read]);
            tail.drain(..tail.len().saturating_sub(STDERR_TAIL_BYTES));
        });
        pending.extend_from_slice(&chunk[..read]);
        let whole = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let out = if pending.len() - whole > LINE_BYTES_MAX { pending.len() } else { whole };
        pass_on(&pending[..out]);
        pending.drain(..out);
    }
    if !pending.is_empty() {
        pending.push(b'\n');
        pass_on(&pending);
    }
}

/// Whole lines at once, so that those of several commands do not mix.
fn pass_on(lines: &[u8]) {
    // Nobody may be listening any more.
    let _ = std::io::stderr().lock().write_all(lines);
}

fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use agentbus_runtime::process::Exit;

    use super::*;

    fn sh(script: &str) -> Command {
        Command {
            argv: ["/bin/sh", "-c", script].map(OsString::from).to_vec(),
            launcher: Vec::new(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            output: true,
            timeout: Duration::from_secs(20),
        }
    }

    async fn run(command: Command, data: &'static str) -> Ended {
        command.run(Bytes::from_static(data.as_bytes()), &CancellationToken::new()).await
    }

    fn exit(code: i32) -> Ending {
        Ending::Exited(Exit { code: Some(code), signal: None })
    }

    #[tokio::test]
    async fn data_goes_in_and_output_and_last_words_come_out() {
        let ended = run(sh("cat; echo first >&2; echo; printf 'last words\\n\\n' >&2; exit 3"), "hello").await;
        assert_eq!(
            (ended.ending, ended.stdout.as_slice(), ended.said.as_str()),
            (exit(3), &b"hello\n"[..], "last words")
        );
    }

    #[tokio::test]
    async fn a_command_need_not_read() {
        let command = sh("exit 0");
        let ended = command.run(Bytes::from(vec![b'x'; 4 << 20]), &CancellationToken::new()).await;
        assert_eq!(ended.ending, exit(0));
    }

    #[tokio::test]
    async fn a_time_out_kills_grandchildren() {
        let timeout = Duration::from_millis(300);
        // The grandchild ignores SIGTERM and would hold the pipe for a minute.
        let script = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait";
        let ended = run(Command { timeout, ..sh(script) }, "").await;
        assert_eq!(ended.ending, Ending::TimedOut(timeout));
        let pid: i32 = String::from_utf8(ended.stdout).unwrap().trim().parse().unwrap();
        let gone = Instant::now() + Duration::from_secs(10);
        while alive(pid) {
            assert!(Instant::now() < gone, "grandchild {pid} is alive");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A killed orphan may stay a zombie where nobody reaps; that is dead enough.
    fn alive(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with(['Z', 'X']))
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_ends_with_it() {
        let began = Instant::now();
        let ended = run(sh("sleep 60 & echo done"), "").await;
        assert_eq!((ended.ending, ended.stdout.as_slice()), (exit(0), &b"done\n"[..]));
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_flood_is_stopped() {
        let ended = run(sh("while :; do head -c 1048576 /dev/zero; done"), "").await;
        assert_eq!(ended.ending, Ending::Flooded(STDOUT_BYTES_MAX));
    }

    #[tokio::test]
    async fn stopping_ends_it() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(sh("sleep 60").run(Bytes::new(), &stop).await.ending, Ending::Stopped);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let ended = run(Command { argv: vec!["/no/such/program".into()], ..sh("") }, "").await;
        let Ending::NotStarted(why) = ended.ending else { panic!("{:?}", ended.ending) };
        assert!(why.contains("/no/such/program") && why.contains("No such file"), "{why}");
    }
}
