//! What the control plane asks sidecars about events between what is settled and what is not handed out yet: who has them?
//!
//! The question is a note to all instances of an agent; the answer comes as a request to the control plane, because a
//! sidecar may write nowhere else. Neither says anything about an event but its place in the stream.

use std::time::{Duration, SystemTime};

use agentbus_proto::name;
use serde::{Deserialize, Serialize};

/// Most events asked about at once: the answer to them fits into the smallest request.
pub const WANTED_MAX: usize = 256;

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Goes back with the answer.
    pub id: String,
    /// Which events, for which groups; at most [`WANTED_MAX`].
    pub wanted: Vec<Wanted>,
}

/// One event for one group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The group.
    pub group: String,
    /// Number of the event in the events stream.
    pub seq: u64,
    /// When it was stored, in nanoseconds since the Unix epoch: after a broker lost its store, numbers begin anew.
    pub stored_at: u64,
}

/// The answer of one instance. What it knows nothing of is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the question.
    pub id: String,
    /// Who answers.
    pub instance: String,
    /// What it has or remembers.
    pub held: Vec<Held>,
}

/// What an instance has to say about one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The group.
    pub group: String,
    /// Number of the event in the events stream.
    pub seq: u64,
    /// What it is.
    pub what: What,
    /// Which attempt, from 1; 0 when it only remembers.
    #[serde(default)]
    pub attempt: u32,
    /// Since when, in milliseconds since the Unix epoch; only for what is out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// Where an event is in a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Its agent is at work on it.
    Out,
    /// It waits for its agent.
    Waiting,
    /// It was acked here.
    Acked,
    /// It failed here and stays with the broker for a while, to keep the order.
    Later,
    /// It failed here, and a copy was stored in the retry or the dead-letter stream.
    Moved,
}

/// Whether an instance is one of this agent's: `check` or `check-2` of `check`.
pub fn is_instance(instance: &str, agent: &str) -> bool {
    let own = instance.strip_prefix(agent).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    own && name::lower_name("instance", instance).is_ok()
}

/// A moment as both sides write it: nanoseconds since the Unix epoch.
pub fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// That moment again.
pub fn moment(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_of_one_agent_and_a_plain_name() {
        assert!(is_instance("check", "check") && is_instance("check-2", "check"));
        for other in ["checker", "chec", "other", "", "check-\u{1b}[2J", "check-A"] {
            assert!(!is_instance(other, "check"), "{other:?}");
        }
    }

    #[test]
    fn a_moment_survives_the_way() {
        let now = SystemTime::UNIX_EPOCH + Duration::new(1_763_633_763, 250_000_001);
        assert_eq!(moment(nanos(now)), now);
        assert_eq!(nanos(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0);
    }
}
