//! What the control plane hands to a sidecar, and the words both exchange while it starts.
//!
//! Shared here because sidecar and control plane never import each other. Everything is JSON: one object per line on
//! the sidecar's stdin and stdout ([`ToSidecar`], [`FromSidecar`]), request and reply on `abc.<ns>.<agent>.<verb>`
//! ([`ControlRequest`], [`ControlReply`]) afterwards. No secret of the agent ever travels in a grant: the key pair is
//! born in the sidecar, and only its public half leaves it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentbus_proto::Code;
use serde::{Deserialize, Serialize};

use agentbus_runtime::backoff::Backoff;

/// Everything a sidecar may do on the bus, signed into `jwt` and spelled out for its own checks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Agent name; the sender token of every subject this sidecar publishes on.
    pub agent: String,
    /// Which of the agent's replicas this is, for example `check-2`.
    pub instance: String,
    /// Namespace, the trust zone.
    pub namespace: String,
    /// Broker addresses, `nats://host:port`.
    pub servers: Vec<String>,
    /// User JWT for the sidecar's own public key.
    pub jwt: String,
    /// When the JWT expires, in seconds since the Unix epoch.
    pub expires: u64,
    /// The groups this agent takes part in.
    pub groups: Vec<GroupGrant>,
    /// Address patterns the agent may publish to: `file.*`, `@reviewer`, `#engineering`, `#all`. The broker enforces the
    /// same list.
    pub publish: Vec<String>,
    /// Largest encoded event, in bytes: the broker's `max_payload` less 16 KiB, so that copies always fit.
    pub event_bytes_max: usize,
    /// What seals this agent's message ids (see `msg_id`). Known to the agent's sidecars only.
    #[serde(default)]
    pub secret: String,
    /// What seals the successors' ids of each group. Known to the group's sidecars only.
    #[serde(default)]
    pub group_secrets: BTreeMap<String, String>,
    /// The addresses that are declared: where events to agents, pools and channels can go.
    #[serde(default)]
    pub directory: Directory,
    /// What the agent may use.
    #[serde(default)]
    pub limits: AgentLimits,
    /// When a destination or the agent itself is left alone for a while; none = never.
    #[serde(default)]
    pub breaker: Option<BreakerPolicy>,
}

/// Declared addresses of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Directory {
    /// Agents, each with the agent that takes its events while it is away; empty = none.
    pub agents: BTreeMap<String, String>,
    /// Pools with their members.
    pub pools: BTreeMap<String, Vec<String>>,
    /// Channels; `all` is always one.
    pub channels: BTreeSet<String>,
}

/// Limits of one agent; absent = none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentLimits {
    /// Events published per second, averaged over a second.
    pub publish_per_second: Option<f64>,
    /// Largest encoded event, in bytes.
    pub event_bytes_max: Option<usize>,
    /// Deliveries held at once.
    pub in_flight_max: Option<usize>,
    /// Bytes of events stored per day, in all.
    pub stored_bytes_max: Option<u64>,
}

/// One group: who shares deliveries, what it reads, and how failures are handled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupGrant {
    /// Group name; also the name of its durable consumer.
    pub name: String,
    /// Address patterns: topics with `*` for one token and a final `>` for the rest, `@agent`, `#channel`.
    pub patterns: Vec<String>,
    /// Only these event types; empty = all. Others are acked and counted by the sidecar.
    #[serde(default)]
    pub types: Vec<String>,
    /// Only events that carry all these attributes. Others are acked and counted by the sidecar.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Strict order: one delivery at a time, failures are retried in place.
    #[serde(default)]
    pub ordered: bool,
    /// Order within each ordering key: one consumer per part, one delivery of a part at a time.
    #[serde(default)]
    pub by_key: bool,
    /// One consumer per priority lane, pulled 8:4:1.
    #[serde(default)]
    pub split_lanes: bool,
    /// What the group reads.
    #[serde(default)]
    pub kind: GroupKind,
    /// Written in `agentbus.yaml` (true) or joined by request (false).
    #[serde(default)]
    pub declared: bool,
    /// How failures are handled.
    #[serde(default)]
    pub policy: Policy,
}

/// What a group is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Whatever its patterns say.
    #[default]
    Patterns,
    /// An agent's own address: begins with everything that was ever sent there.
    Inbox,
    /// A pool's address, shared by its members: work of a dead one goes to another within 5 s.
    Pool,
}

/// A group's failure policy. All durations are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Attempts in all, the first included; then the event is dead-lettered as `EXHAUSTED`.
    pub max_attempts: u32,
    /// Delay before the second attempt.
    pub initial_ms: u64,
    /// Each further delay is this much longer.
    pub factor: f64,
    /// Longest delay.
    pub max_ms: u64,
    /// Random share of the delay, 0 to 1, so that a burst of failures does not come back as a burst.
    pub jitter: f64,
    /// How long an agent may hold a delivery without settling or extending it.
    pub ack_deadline_ms: u64,
    /// How often a delivery may take its agent down before it is dead-lettered as `CRASH`.
    pub crash_limit: u32,
    /// Write down who acked each event, and when; without it only for events whose sender wants it.
    pub receipts: bool,
}

impl Default for Policy {
    fn default() -> Self {
        // 3 retries within 2 to 10 s: long enough for a restart or a short outage, short enough to be watched.
        Self {
            max_attempts: 4,
            initial_ms: 2_000,
            factor: 2.0,
            max_ms: 10_000,
            jitter: 0.2,
            ack_deadline_ms: 60_000,
            crash_limit: 5,
            // One more message per delivery.
            receipts: false,
        }
    }
}

impl Policy {
    /// The retry delays as the process kit computes them.
    pub fn backoff(&self) -> Backoff {
        Backoff {
            initial: Duration::from_millis(self.initial_ms),
            max: Duration::from_millis(self.max_ms),
            factor: self.factor,
            jitter: self.jitter,
        }
    }

    /// How long an agent may hold a delivery.
    pub fn ack_deadline(&self) -> Duration {
        Duration::from_millis(self.ack_deadline_ms)
    }
}

/// Lines from a sidecar to the process that started it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSidecar {
    /// First line: the public half of the key pair just made.
    Hello {
        /// User public key, `U…`.
        public_key: String,
        /// Process id of the sidecar.
        pid: u32,
    },
    /// It listens and has reached the broker.
    Ready {
        /// Base URL of the agent API.
        url: String,
        /// Base URL of the admin listener.
        admin: String,
        /// Path of the unix socket, if one was asked for.
        unix: Option<String>,
    },
    /// How it is; after `ready` only.
    Report(SidecarReport),
    /// It cannot start; the process ends after this line.
    Failed {
        /// Stable error code.
        code: String,
        /// What happened and what to do.
        message: String,
    },
}

/// What a sidecar tells about itself when it changes, once a second at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SidecarReport {
    /// Events that wait on disk for the broker.
    pub spool_events: u64,
    /// Size of the spool, in bytes.
    pub spool_bytes: u64,
    /// Events of the spool that were refused for good.
    pub spool_refused: u64,
    /// What is left alone now, or tried.
    pub breakers: Vec<BreakerReport>,
}

/// A breaker that is not closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerReport {
    /// `publish` to an address, `deliver` the events of a group.
    pub side: String,
    /// The address, or the group.
    pub name: String,
    /// `open` or `half-open`.
    pub state: String,
}

/// Lines from the starting process to its sidecar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSidecar {
    /// The answer to `hello`.
    Start(Box<Start>),
    /// The agent process started or exited; on exit its un-acked deliveries go back at once.
    Agent(AgentLife),
    /// Stop taking work, finish or give back what is held, leave.
    Drain {},
}

/// Whether the agent beside the sidecar runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentLife {
    /// The agent process runs.
    Started,
    /// The agent process is about to be stopped on purpose: from now on a broken connection is no crash.
    Stopping,
    /// The agent process is gone, unasked: what it held counts as a crash.
    Exited,
    /// The same, by SIGKILL or with exit code 137: what happens when memory runs out.
    Killed,
    /// The agent process was stopped on purpose: what it held goes back uncounted.
    Stopped,
}

/// When an agent's spool is told to last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before each answer; events that come together share one fsync.
    #[default]
    Always,
    /// Every 100 ms; an answer waits for it.
    Interval,
    /// When the system likes: a killed sidecar loses nothing, a machine that loses power may.
    Never,
}

/// Where events wait while the broker is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolOptions {
    /// Most bytes on disk.
    pub bytes_max: u64,
    /// When they last.
    #[serde(default)]
    pub fsync: Fsync,
}

/// When a destination that keeps failing is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// So many failures in a row open it.
    pub failures: u32,
    /// After this long one is tried, in milliseconds.
    pub open_ms: u64,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 5, open_ms: 60_000 }
    }
}

/// How a sidecar is to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What it may do.
    pub grant: Grant,
    /// Bearer token the agent must show. Stays the same over restarts: delivery ids are sealed with it.
    pub token: String,
    /// Agent API, `127.0.0.1:0` for a free port.
    pub listen: String,
    /// Admin listener for probes and metrics.
    pub admin: String,
    /// Unix socket of the agent API.
    #[serde(default)]
    pub unix: Option<String>,
    /// How long a drain may take, in milliseconds.
    #[serde(default = "default_drain_ms")]
    pub drain_ms: u64,
    /// A private folder of this instance alone that survives its restarts; none = nothing is kept on disk.
    #[serde(default)]
    pub state: Option<String>,
    /// Keep events on disk while the broker is away, in that folder; none = refuse them then.
    #[serde(default)]
    pub spool: Option<SpoolOptions>,
}

fn default_drain_ms() -> u64 {
    10_000
}

/// What a sidecar asks of the control plane, on `abc.<ns>.<agent>.<verb>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlRequest {
    /// The sidecar's public key: the new JWT is made for it.
    pub public_key: String,
    /// Which replica asks.
    pub instance: String,
    /// For the verb `subscribe`: the group to join or make.
    #[serde(default)]
    pub group: Option<GroupGrant>,
}

/// The control plane's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlReply {
    /// The newest grant; it replaces the former one.
    Grant(Box<Grant>),
    /// The answer to any other verb, in that verb's own form.
    Answer(serde_json::Value),
    /// Refused.
    Error {
        /// Stable error code.
        code: String,
        /// What happened and what to do.
        message: String,
    },
}

impl ControlReply {
    /// A refusal with its stable code.
    pub fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Error { code: code.as_str().to_owned(), message: message.into() }
    }
}

/// The control plane's answer to the verb `standby`, which sidecars ask that are a fallback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyAnswer {
    /// Agents that are away and whose own events the asking agent is to take now.
    pub take: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tagged_by_their_first_key() {
        let line = serde_json::to_string(&ToSidecar::Agent(AgentLife::Exited)).unwrap();
        assert_eq!(line, r#"{"agent":"exited"}"#);
        let line = serde_json::to_string(&ToSidecar::Drain {}).unwrap();
        assert_eq!(line, r#"{"drain":{}}"#);
        let hello: FromSidecar = serde_json::from_str(r#"{"hello":{"public_key":"UX","pid":7}}"#).unwrap();
        assert_eq!(hello, FromSidecar::Hello { public_key: "UX".into(), pid: 7 });
    }

    #[test]
    fn a_missing_policy_means_the_default() {
        let group: GroupGrant = serde_json::from_str(r#"{"name":"readers","patterns":["a.>"]}"#).unwrap();
        assert_eq!(group.policy, Policy::default());
    }
}
