//! One group of a grant: what it reads, in which order, and how failures are handled.

use std::collections::BTreeMap;
use std::time::Duration;

use agentbus_proto::EventHead;
use agentbus_runtime::backoff::Backoff;
use serde::{Deserialize, Serialize};

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

impl GroupGrant {
    /// Whether an event that its consumers read is handed out: by type and attributes, which filters on the broker do not
    /// look at.
    pub fn wants(&self, head: &EventHead) -> bool {
        let by_type = self.types.is_empty() || self.types.iter().any(|wanted| wanted == head.effective_type());
        by_type && self.attributes.iter().all(|(name, value)| head.attributes.get(name) == Some(value))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_policy_means_the_default() {
        let group: GroupGrant = serde_json::from_str(r#"{"name":"readers","patterns":["a.>"]}"#).unwrap();
        assert_eq!(group.policy, Policy::default());
    }
}
