//! The words on a sidecar's stdin and stdout: how it is started, what it tells about itself, how it is stopped.

use serde::{Deserialize, Serialize};

use super::{Grant, SpoolOptions};

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

/// How a sidecar is to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What it may do.
    pub grant: Grant,
    /// Bearer token the agent must show. Stays the same over restarts.
    pub token: String,
    /// Agent API, `127.0.0.1:0` for a free port.
    pub listen: String,
    /// Admin listener for probes and metrics.
    pub admin: String,
    /// What `POST /drain` on it must show; none = drains are asked for here or by a signal only.
    #[serde(default)]
    pub admin_token: Option<String>,
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
}
