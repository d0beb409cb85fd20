//! The sidecar's process: its start, the bootstrap over its stdin and stdout, and the task that holds it to its end.
//!
//! The bootstrap (one JSON object per line): it says `hello` with the public key it made, gets `start` with its grant,
//! and says `ready` or `failed`. Every step is bounded. Closing its stdin means to it: drain and leave.

use std::time::Duration;

use agentbus_nats::grant::{FromSidecar, Grant, SpoolOptions, Start, ToSidecar};
use agentbus_runtime::logs::{LogFile, Stream};
use agentbus_runtime::process::{Child, Input, Output, Spec};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Take};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::agent::with_source;
use super::child::{Place, Said, is_harmless};
use super::host;

/// From its start to `ready`, the broker included. A broker that is just being restarted takes a few seconds.
pub(super) const READY_MAX: Duration = Duration::from_secs(30);
/// Beyond its own drain time, once for deliveries and once for connections, before it is killed.
pub(super) const DRAIN_MARGIN: Duration = Duration::from_secs(3);
/// Longest wait for a line to be taken: it fits into a pipe many times.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// After its exit: a descendant may hold the pipe open.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);
/// Bytes read from a sidecar's stdout without a line that makes sense.
const STDOUT_BYTES_MAX: u64 = 1 << 20;
/// Longest path of a unix socket, less the sidecar's own suffix: macOS allows 104 bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Makes a grant for a sidecar's public key.
pub(super) type Issue = Box<dyn Fn(&str) -> Result<Grant, agentbus_proto::Fault> + Send>;

/// One run of a sidecar.
pub(super) struct Job {
    pub instance: String,
    pub issue: Issue,
    /// What the agent must show.
    pub token: String,
    /// Addresses of an earlier run, to be used again.
    pub addresses: Option<Addresses>,
    /// Keep events on disk while the broker is away.
    pub spool: Option<SpoolOptions>,
    pub log: LogFile,
}

/// Where a sidecar listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    pub agent: String,
    pub admin: String,
}

impl Addresses {
    /// From what the sidecar said; `http://127.0.0.1:4001` becomes `127.0.0.1:4001`.
    pub fn from_urls(url: &str, admin: &str) -> Self {
        let bare = |url: &str| url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { agent: bare(url), admin: bare(admin) }
    }
}

/// Holds one run. Lines for the sidecar come through `orders`; when that ends, it drains. Dropping the future kills it.
pub(super) async fn hold(job: Job, place: Place, said: mpsc::Sender<Said>, orders: mpsc::Receiver<ToSidecar>) {
    if let Some(host) = place.host.clone() {
        return host::hold(job, place, host, said, orders).await;
    }
    let log = job.log.clone();
    let cause = match spec(&job, &place).spawn().await {
        Ok(child) => {
            log.line(Stream::Supervisor, &format!("sidecar started, process {}", child.pid()));
            let _ = said.send(Said::SidecarStarted { pid: child.pid() }).await;
            Run::new(job, &place, child).until_it_ends(&said, orders).await
        }
        Err(error) => with_source(&error),
    };
    log.line(Stream::Supervisor, &format!("sidecar ended: {cause}"));
    // Fails only when the instance is gone, and then nobody wants to know.
    let _ = said.send(Said::SidecarExited { cause }).await;
}

fn spec(job: &Job, place: &Place) -> Spec {
    let wanted = |key: &str| {
        is_harmless(key)
            || key.starts_with("OTEL_")
            || key.starts_with("SSL_CERT_")
            || matches!(key, "AGENTBUS_LOG" | "RUST_BACKTRACE" | "NO_COLOR")
            // Where a program built for `.ci/coverage` writes its counters.
            || key == "LLVM_PROFILE_FILE"
    };
    let mut env = place.env_where(wanted);
    // Not on the command line, which everybody can read: the address of a collector may hold a password.
    env.extend(place.otlp.iter().map(|otlp| ("AGENTBUS_OTLP".to_owned(), otlp.clone())));
    Spec {
        argv: vec![place.executable.clone().into_os_string(), "sidecar".into(), "--stdio".into()],
        env,
        cwd: Some(place.state_dir.clone()),
        stdin: Input::Piped,
        stdout: Output::Piped,
        stderr: Output::Log(job.log.clone()),
        launcher: place.launcher(),
    }
}

struct Run<'p> {
    job: Job,
    place: &'p Place,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Option<Lines<BufReader<Take<ChildStdout>>>>,
    ready: bool,
    /// Why it will end, when that is known before it does.
    cause: Option<String>,
    /// When it is killed.
    deadline: Option<Instant>,
}

impl<'p> Run<'p> {
    fn new(job: Job, place: &'p Place, mut child: Child) -> Self {
        let lines = child.stdout().map(|stdout| BufReader::new(stdout.take(STDOUT_BYTES_MAX)).lines());
        let deadline = Some(Instant::now() + READY_MAX);
        Self { job, place, stdin: child.stdin(), lines, child, ready: false, cause: None, deadline }
    }

    async fn until_it_ends(mut self, said: &mpsc::Sender<Said>, mut orders: mpsc::Receiver<ToSidecar>) -> String {
        loop {
            // All branches are cancel-safe: lines, orders and the exit are found again in the next round.
            tokio::select! {
                ended = self.child.wait() => {
                    let ended = ended.map_or_else(|error| error.to_string(), |exit| exit.to_string());
                    self.last_words().await;
                    return self.cause.take().map_or(ended.clone(), |cause| format!("{cause} ({ended})"));
                }
                line = next(&mut self.lines) => match line {
                    Some(line) => self.heard(&line, said).await,
                    None => self.lines = None,
                },
                order = orders.recv(), if self.stdin.is_some() => match order {
                    Some(ToSidecar::Drain {}) | None => self.drain().await,
                    Some(order) => self.tell(&order).await,
                },
                () = sleep_until(self.deadline) => {
                    self.because("not ready in time, killed", "did not drain in time, killed");
                    self.kill().await;
                }
                () = self.place.kill.cancelled(), if self.deadline.is_some() || self.stdin.is_some() => self.kill().await,
            }
        }
    }

    /// Why it failed may still be in the pipe when its exit is seen.
    async fn last_words(&mut self) {
        if self.lines.is_none() {
            return;
        }
        let rest = async {
            while let Some(line) = next(&mut self.lines).await {
                if let Ok(FromSidecar::Failed { code, message }) = serde_json::from_str(&line) {
                    self.cause = Some(format!("{code}: {message}"));
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS_MAX, rest).await;
    }

    async fn heard(&mut self, line: &str, said: &mpsc::Sender<Said>) {
        match serde_json::from_str::<FromSidecar>(line) {
            Ok(FromSidecar::Hello { public_key, .. }) => self.start(&public_key).await,
            Ok(FromSidecar::Ready { url, admin, .. }) => {
                self.ready = true;
                if self.stdin.is_some() {
                    self.deadline = None;
                }
                let _ = said.send(Said::SidecarReady { url, admin }).await;
            }
            Ok(FromSidecar::Report(report)) => {
                if let Some(lines) = &mut self.lines {
                    // Each of these lines is small; their number has no bound.
                    lines.get_mut().get_mut().set_limit(STDOUT_BYTES_MAX);
                }
                let _ = said.send(Said::SidecarReport(report)).await;
            }
            Ok(FromSidecar::Failed { code, message }) => self.cause = Some(format!("{code}: {message}")),
            Err(error) => {
                tracing::warn!(instance = self.job.instance, %error, "unreadable line from a sidecar");
                self.job.log.line(Stream::Stdout, line);
            }
        }
    }

    async fn start(&mut self, public_key: &str) {
        let grant = match (self.job.issue)(public_key) {
            Ok(grant) => grant,
            Err(fault) => {
                self.cause = Some(fault.to_string());
                return self.kill().await;
            }
        };
        let start = start_of(&self.job, self.place, grant);
        self.tell(&ToSidecar::Start(Box::new(start))).await;
    }

    async fn tell(&mut self, line: &ToSidecar) {
        let Some(stdin) = &mut self.stdin else { return };
        // No secret can fail to be JSON, but a failed write is not worth a panic either.
        let Ok(mut bytes) = serde_json::to_vec(line) else { return };
        bytes.push(b'\n');
        match tokio::time::timeout(WRITE_MAX, stdin.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            // A closed pipe: it is ending, or it cannot be led any longer and has to.
            Ok(Err(_)) => {
                self.stdin = None;
                self.deadline = Some(Instant::now() + DRAIN_MARGIN);
            }
            Err(_) => {
                self.because("does not read its stdin, killed", "does not read its stdin, killed");
                self.kill().await;
            }
        }
    }

    /// Asks it to finish and closes its stdin, which says the same once more.
    async fn drain(&mut self) {
        self.tell(&ToSidecar::Drain {}).await;
        self.stdin = None;
        self.deadline = Some(Instant::now() + 2 * self.place.drain + DRAIN_MARGIN);
    }

    fn because(&mut self, starting: &str, draining: &str) {
        let cause = if self.ready { draining } else { starting };
        self.cause.get_or_insert_with(|| cause.to_owned());
    }

    async fn kill(&mut self) {
        self.stdin = None;
        self.deadline = None;
        if let Err(error) = self.child.kill().await {
            tracing::warn!(instance = self.job.instance, %error, "sidecar cannot be killed");
        }
    }
}

/// How a sidecar is to run under this grant.
pub(super) fn start_of(job: &Job, place: &Place, grant: Grant) -> Start {
    let any = || "127.0.0.1:0".to_owned();
    let addresses = job.addresses.clone().unwrap_or_else(|| Addresses { agent: any(), admin: any() });
    Start {
        grant,
        token: job.token.clone(),
        listen: addresses.agent,
        admin: addresses.admin,
        admin_token: None,
        unix: socket(place, &job.instance),
        drain_ms: u64::try_from(place.drain.as_millis()).unwrap_or(u64::MAX),
        state: place.sidecar_state(&job.instance).to_str().map(str::to_owned),
        spool: job.spool,
    }
}

/// The next line, or never when there is none to come.
async fn next(lines: &mut Option<Lines<BufReader<Take<ChildStdout>>>>) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A unix socket beside the TCP port, where the path is short enough for one.
fn socket(place: &Place, instance: &str) -> Option<String> {
    let path = place.state_dir.join("run").join(format!("{instance}.sock"));
    path.to_str().filter(|path| path.len() <= SOCKET_PATH_BYTES_MAX).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_urls() {
        let addresses = Addresses::from_urls("http://127.0.0.1:4001", "http://[::1]:4002/");
        assert_eq!(addresses, Addresses { agent: "127.0.0.1:4001".into(), admin: "[::1]:4002".into() });
    }
}
