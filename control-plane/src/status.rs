//! The state of the whole system as the API, `agentbus status` and the registry show it. Plain data.

use agentbus_nats::consumers::GroupState;
use agentbus_nats::grant::SidecarReport;
use agentbus_nats::identity::Layout;
use serde::{Deserialize, Serialize};

use crate::trimmer::Lagging;

/// What an agent process is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Its sidecar or process is being started.
    #[default]
    Spawning,
    /// It runs.
    Running,
    /// It ended and is started again after a pause.
    Backoff,
    /// It ended too often within the window of its restart budget and is not started again.
    Crashlooping,
    /// It ended, and its restart policy says that this is the end.
    Exited,
    /// It was stopped on purpose.
    Stopped,
}

impl InstanceState {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spawning => "spawning",
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Crashlooping => "crashlooping",
            Self::Exited => "exited",
            Self::Stopped => "stopped",
        }
    }
}

/// One instance of an agent with its sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Agent name.
    pub agent: String,
    /// Which of its replicas, for example `check-2`.
    pub instance: String,
    /// How it is run: `process`, `exec`.
    pub runner: String,
    /// What it is doing.
    pub state: InstanceState,
    /// Process id of the agent, while it has one.
    pub pid: Option<u32>,
    /// Process id of its sidecar, while it has one.
    pub sidecar_pid: Option<u32>,
    /// Base URL of its sidecar.
    pub url: Option<String>,
    /// How often the agent was started again.
    pub restarts: u64,
    /// How often its sidecar was started again.
    pub sidecar_restarts: u64,
    /// How it ended the last time, for people.
    pub last_exit: Option<String>,
    /// Since when it is in this state, RFC 3339.
    pub since: String,
    /// What its sidecar told last: its spool, and what it leaves alone.
    #[serde(default)]
    pub sidecar: SidecarReport,
}

/// Everything at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemStatus {
    /// Namespace.
    pub namespace: String,
    /// The broker.
    pub broker: BrokerStatus,
    /// Its streams; empty while the broker cannot be reached.
    pub streams: Vec<StreamStatus>,
    /// Who reads; empty while the broker cannot be reached.
    pub groups: Vec<GroupStatus>,
    /// Who runs.
    pub agents: Vec<InstanceStatus>,
    /// Groups that keep the events stream from being trimmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Lagging>,
}

/// The broker, as seen from the control plane's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// `nats://host:port`.
    pub url: String,
    /// Its version.
    pub version: String,
    /// How the namespace lies on it.
    #[serde(default)]
    pub layout: Layout,
    /// Whether the control plane is connected now.
    pub connected: bool,
    /// Why not, or what could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Stream name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Most it may hold, in bytes; -1 = no limit.
    pub max_bytes: i64,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Group name.
    pub group: String,
    /// Events it has not been given yet.
    pub lag: u64,
    /// Deliveries not settled.
    pub in_flight: u64,
    /// Deliveries that were made before and are out again.
    pub redelivered: u64,
    /// Events that wait for their next attempt or are on it.
    pub retrying: u64,
    /// Pull requests waiting at the broker: somebody listens.
    pub waiting: u64,
    /// Dead letters it has written, those since redriven included.
    pub dead_letters: u64,
    /// Its dead letters have used up its share of their space: what it gives up now stays where it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stalled: bool,
    /// What is wrong: its state could not be read, and then the numbers say nothing; or it is left on the broker, but
    /// nobody is in it any more, and then the numbers are what waits there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl From<GroupState> for GroupStatus {
    fn from(state: GroupState) -> Self {
        let GroupState { group, lag, in_flight, redelivered, retrying, waiting } = state;
        Self { group, lag, in_flight, redelivered, retrying, waiting, dead_letters: 0, stalled: false, problem: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_one_spelling() {
        use InstanceState::*;
        for state in [Spawning, Running, Backoff, Crashlooping, Exited, Stopped] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
