//! What people and publishers are told about groups that keep the stream from being trimmed.

use agentbus_nats::moves;
use agentbus_proto::Fault;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Alarms;
use super::decide::{Alarm, Why};
use crate::control::Verb;
use crate::spec::OnLag;

/// A group that is in the way, as `status` and the audit stream show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagging {
    /// The group.
    pub group: String,
    /// `holds` (half of the space), `lags` (unread for too long), `fills` (the stream is nearly full) or `missing`.
    pub why: String,
    /// Its oldest unsettled event.
    pub first_seq: u64,
    /// When that was stored, RFC 3339; empty when unknown.
    pub since: String,
    /// What is kept because of it, in bytes; an estimate.
    pub held_bytes: u64,
    /// What happens: `park` or `block`.
    pub on_lag: String,
    /// All of it for people.
    pub message: String,
}

impl Lagging {
    pub(super) fn new(alarm: &Alarm, on_lag: OnLag, bytes_max: u64, letters_full: bool) -> Self {
        let since = alarm.since.map(moves::rfc3339).unwrap_or_default();
        let (group, why) = (alarm.group.clone(), word(alarm.why).to_owned());
        let message = message(alarm, &since, on_lag, bytes_max, letters_full);
        let (first_seq, held_bytes) = (alarm.first_seq, alarm.held_bytes);
        Self { group, why, first_seq, since, held_bytes, on_lag: on_lag.as_str().to_owned(), message }
    }

    /// Whether it says the same, apart from numbers that change all the time.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.group, &self.why) == (&other.group, &other.why)
    }
}

fn word(why: Why) -> &'static str {
    match why {
        Why::Holds => "holds",
        Why::Lags => "lags",
        Why::Fills => "fills",
        Why::Missing => "missing",
    }
}

fn message(alarm: &Alarm, since: &str, on_lag: OnLag, bytes_max: u64, letters_full: bool) -> String {
    let held = human(alarm.held_bytes);
    let since = if since.is_empty() { String::new() } else { format!(" since {since}") };
    match (alarm.why, on_lag) {
        (Why::Missing, _) => "has no consumer: nothing is removed until it has one again".to_owned(),
        (Why::Holds, _) => format!("has not read{since} and holds {held} of {}", human(bytes_max)),
        (_, OnLag::Park) if letters_full => format!(
            "has not read{since} and holds {held}; the dead letters have no room for it: start it, or set `retention.dead_letters`"
        ),
        (_, OnLag::Park) => format!("has not read{since}: its oldest events become dead letters (RETENTION)"),
        (_, OnLag::Block) => format!("has not read{since} and holds {held}: start it, or set `on_lag: park`"),
    }
}

fn human(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1 << 30 {
        (1_u64 << 30, "GiB")
    } else if bytes >= 1 << 20 {
        (1 << 20, "MiB")
    } else {
        (1 << 10, "KiB")
    };
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// Why the stream is full, for those who publish; none when no group is to blame.
fn because(alarms: &[Lagging]) -> Option<String> {
    let of = |why: Why| alarms.iter().find(move |alarm| alarm.why == word(why));
    let alarm = of(Why::Fills).or_else(|| of(Why::Missing))?;
    Some(format!("group `{}` {}", alarm.group, alarm.message))
}

/// Answers sidecars whose agents hear `STREAM_FULL`: which group it is because of.
pub struct Space {
    /// What is known.
    pub alarms: Alarms,
}

#[async_trait]
impl Verb for Space {
    async fn answer(&self, _agent: &str, _request: &[u8]) -> Result<Value, Fault> {
        Ok(json!({"because": because(&self.alarms.borrow())}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(why: Why) -> Alarm {
        let since = Some(std::time::UNIX_EPOCH);
        Alarm { group: "readers".into(), why, first_seq: 7, since, held_bytes: 3 << 20 }
    }

    #[test]
    fn publishers_hear_of_the_group_that_fills_the_stream() {
        let told = |why, on_lag| because(&[Lagging::new(&alarm(why), on_lag, 4 << 20, false)]);
        assert_eq!(
            told(Why::Fills, OnLag::Block).unwrap(),
            "group `readers` has not read since 1970-01-01T00:00:00.000Z and holds 3.0 MiB: start it, or set `on_lag: park`"
        );
        assert!(told(Why::Fills, OnLag::Park).unwrap().contains("become dead letters"));
        assert_eq!(told(Why::Holds, OnLag::Block), None);
        assert!(told(Why::Missing, OnLag::Park).unwrap().contains("has no consumer"));
        let full = Lagging::new(&alarm(Why::Fills), OnLag::Park, 4 << 20, true);
        assert!(full.message.contains("no room for it"), "{}", full.message);
    }
}
