//! A real sidecar process, started over stdio as the supervisor does it.

use std::process::Stdio;
use std::time::Duration;

use agentbus_nats::grant::{
    AgentLife, AgentLimits, BreakerPolicy, Directory, FromSidecar, GroupGrant, SpoolOptions, Start, ToSidecar,
};
use bytes::Bytes;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::broker::Broker;
use crate::http::request;
use crate::wait::PATIENCE;

/// Who the sidecar is for and what it may do.
#[derive(Debug, Clone, Default)]
pub struct Member<'a> {
    /// Agent name.
    pub agent: &'a str,
    /// Instance; empty = the agent's name.
    pub instance: &'a str,
    /// Its groups.
    pub groups: &'a [GroupGrant],
    /// Where it may publish.
    pub publish: &'a [&'a str],
    /// Agent API address; empty = a free port.
    pub listen: &'a str,
    /// Token; empty = one derived from the agent's name.
    pub token: &'a str,
    /// What a drain by the admin listener must show; none = there is no such drain.
    pub admin_token: Option<&'a str>,
    /// OTLP endpoint.
    pub otlp: Option<&'a str>,
    /// Path of a unix socket.
    pub unix: Option<&'a str>,
    /// Its own folder.
    pub state: Option<&'a str>,
    /// Keep events there while the broker is away.
    pub spool: Option<SpoolOptions>,
    /// What it may use.
    pub limits: AgentLimits,
    /// When it leaves a destination alone.
    pub breaker: Option<BreakerPolicy>,
    /// The addresses that are declared.
    pub directory: Directory,
    /// Broker address, `host:port`, when it is not the broker's own: that of a proxy.
    pub server: Option<&'a str>,
}

/// A running sidecar process. Killed when dropped.
pub struct SidecarProcess {
    /// The process.
    pub child: Child,
    /// Base URL of the agent API.
    pub url: String,
    /// Base URL of the admin listener.
    pub admin: String,
    /// The agent's token.
    pub token: String,
    stdin: Option<ChildStdin>,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl SidecarProcess {
    /// Starts one and waits until it is ready.
    pub async fn start(broker: &Broker, member: Member<'_>) -> Self {
        Self::try_start(broker, member)
            .await
            .unwrap_or_else(|(code, message)| panic!("sidecar failed: {code}: {message}"))
    }

    /// Starts one; the error is what it told its parent: code and message.
    pub async fn try_start(broker: &Broker, member: Member<'_>) -> Result<Self, (String, String)> {
        let mut command = Command::new(crate::binary::agentbus());
        command.args(["sidecar", "--stdio"]);
        if let Some(otlp) = member.otlp {
            command.args(["--otlp", otlp]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("sidecar starts");
        let mut stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let FromSidecar::Hello { public_key, .. } = line(&mut stdout).await else { panic!("no hello") };
        let instance = if member.instance.is_empty() { member.agent } else { member.instance };
        let token =
            if member.token.is_empty() { format!("token-of-{}", member.agent) } else { member.token.to_owned() };
        let mut grant = broker.grant(member.agent, instance, &public_key, member.groups, member.publish);
        (grant.limits, grant.breaker) = (member.limits.clone(), member.breaker);
        grant.directory = member.directory;
        if let Some(server) = member.server {
            grant.servers = vec![format!("nats://{server}")];
        }
        let start = Start {
            grant,
            token: token.clone(),
            listen: if member.listen.is_empty() { "127.0.0.1:0".to_owned() } else { member.listen.to_owned() },
            admin: "127.0.0.1:0".to_owned(),
            admin_token: member.admin_token.map(str::to_owned),
            unix: member.unix.map(str::to_owned),
            drain_ms: 5000,
            state: member.state.map(str::to_owned),
            spool: member.spool,
        };
        say(&mut stdin, &ToSidecar::Start(Box::new(start))).await;
        match line(&mut stdout).await {
            FromSidecar::Ready { url, admin, .. } => {
                Ok(Self { child, url, admin, token, stdin: Some(stdin), _stdout: stdout })
            }
            FromSidecar::Failed { code, message } => Err((code, message)),
            line => panic!("not ready but {line:?}"),
        }
    }

    /// `127.0.0.1:<port>` of the agent API, to be used by a replacement.
    pub fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// Tells it that the agent process is gone.
    pub async fn agent_exited(&mut self) {
        let stdin = self.stdin.as_mut().expect("not draining");
        say(stdin, &ToSidecar::Agent(AgentLife::Exited)).await;
    }

    /// Tells it that the agent process was killed, as when memory runs out.
    pub async fn agent_killed(&mut self) {
        let stdin = self.stdin.as_mut().expect("not draining");
        say(stdin, &ToSidecar::Agent(AgentLife::Killed)).await;
    }

    /// Asks it to drain and waits for its end.
    pub async fn drain(&mut self) -> std::process::ExitStatus {
        let mut stdin = self.stdin.take().expect("not draining");
        say(&mut stdin, &ToSidecar::Drain {}).await;
        timeout(PATIENCE, self.child.wait()).await.expect("ends in time").expect("ends")
    }

    /// Asks it to end with SIGTERM and waits for its end.
    pub async fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal(Signal::TERM);
        timeout(PATIENCE, self.child.wait()).await.expect("ends in time").expect("ends")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("running");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    /// One series of `/metrics`, for example `agentbus_published_total{outcome="stored"}`; 0 while there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        let admin = self.admin.trim_start_matches("http://");
        let answer = request(admin, "GET", "/metrics", &[], Bytes::new()).await.expect("metrics");
        let text = answer.body.as_str().expect("text").to_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// How many deliveries of a group ended like this.
    pub async fn outcome(&self, group: &str, outcome: &str) -> f64 {
        self.metric(&format!(r#"agentbus_deliveries_total{{group="{group}",outcome="{outcome}"}}"#)).await
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.child.start_kill().expect("killed");
        self.child.wait().await.expect("reaped");
    }

    /// Resident memory in bytes (Linux).
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.child.id().expect("running");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }
}

async fn line(stdout: &mut Lines<BufReader<ChildStdout>>) -> FromSidecar {
    let line = timeout(Duration::from_secs(30), stdout.next_line()).await.expect("answers in time");
    let line = line.expect("stdout reads").expect("a line before the end");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

async fn say(stdin: &mut ChildStdin, line: &ToSidecar) {
    let text = serde_json::to_string(line).expect("serializes") + "\n";
    stdin.write_all(text.as_bytes()).await.expect("written");
    stdin.flush().await.expect("flushed");
}
