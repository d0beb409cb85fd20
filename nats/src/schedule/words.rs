//! What a sidecar and the control plane say to each other about schedules, as JSON on the verbs `schedule`, `schedules`
//! and `cancel`.

use serde::{Deserialize, Serialize};

/// A cron expression as its sender wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronWords {
    /// Five or six fields.
    pub expression: String,
    /// IANA name; empty = UTC.
    #[serde(default)]
    pub time_zone: String,
}

/// Asks to store a schedule. Exactly one of `at`, `after_ms`, `cron` says when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Subject the event is to have on the events stream; the control plane checks whether the agent may publish there.
    pub subject: String,
    /// The encoded event as base64. Its id is the schedule's.
    pub event: String,
    /// Once, at this moment: milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Once, this many milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// Again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronWords>,
    /// Lifetime of each occurrence, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Trace of whoever schedules; a single occurrence belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The schedule is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its id: that of the event.
    pub id: String,
    /// The next occurrence, in milliseconds since the Unix epoch.
    pub next_ms: u64,
}

/// Asks for a page of schedules: the agent's own, the person's page has everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Begin at this number, the `next` of the page before.
    #[serde(default)]
    pub from: u64,
    /// Most schedules wanted.
    pub limit: usize,
}

/// A page, in the order in which the schedules were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The schedules.
    pub schedules: Vec<Scheduled>,
    /// Where the next page begins; none = this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A stored schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its id.
    pub id: String,
    /// Whose it is: the sender of its events.
    pub agent: String,
    /// How it repeats; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronWords>,
    /// The next occurrence, in milliseconds since the Unix epoch; none: it is firing now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// Lifetime of each occurrence, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The encoded event as base64.
    pub event: String,
}

/// Asks to end a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which one. The person may write `agent/id` where two agents have the same.
    pub id: String,
}

/// The schedule is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// False: there was none.
    pub cancelled: bool,
}
