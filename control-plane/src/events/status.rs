//! The forms in which the status of an event and the story of a chain are told. Plain data, shared with the command line.
//!
//! All times are RFC 3339 in UTC with milliseconds; a time that is not known is left out, never guessed without saying so.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dead_letters::Redriven;

/// How far an event is for one group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Handed out or waiting, and nobody who could tell answered.
    #[default]
    Unknown,
    /// Stored, not handed out yet.
    Accepted,
    /// Handed out, not settled yet.
    Delivered,
    /// Done.
    Acked,
    /// Failed and waiting for the next attempt.
    Retrying,
    /// A dead letter.
    Dead,
    /// Expired before anybody took it.
    Expired,
}

impl State {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Acked => "acked",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }
}

/// One try of one agent at an event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// Which, from 1.
    pub attempt: u32,
    /// Who had it; empty when unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// When it was handed to the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handed: Option<String>,
    /// When it was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// `acked`, `failed`, `rejected`, `returned`, `expired`, or `working` while it is out.
    pub outcome: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Its end is told by the event that was published because of it, not by a record of its own.
    #[serde(skip_serializing_if = "is_false")]
    pub inferred: bool,
}

/// Where one event is for one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// Which group.
    pub group: String,
    /// How far it is.
    pub state: State,
    /// The latest attempt; 0: not handed out yet, or not recorded.
    pub attempt: u32,
    /// Who holds it or held it last; empty: nobody yet, or not recorded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// Which instance of it, while it holds the event.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Since when it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When the next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// Why it is retrying or dead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Class of its dead letter.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub class: String,
    /// Number of its newest dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<u64>,
    /// That dead letter was redriven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redriven: Option<Redriven>,
    /// What there is to add, in words: how sure this is, what is waited for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// From being stored to being handed out the first time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_wait_ms: Option<u64>,
    /// The tries that are recorded somewhere, in order.
    pub attempts: Vec<Attempt>,
}

/// Where one event is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventStatus {
    /// The event in its JSON form; in the story of a chain without its data.
    pub event: Value,
    /// Stream that holds it.
    pub stream: String,
    /// Its number there.
    pub seq: u64,
    /// When the broker stored it.
    pub stored_at: String,
    /// One per group that it is for, by name.
    pub groups: Vec<GroupStatus>,
}

/// The answer to a question for one event. More than one when it was sent again to everybody.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shown {
    /// In the order in which they were stored.
    pub events: Vec<EventStatus>,
}

/// The story of a chain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chain {
    /// What all its events have in common.
    pub correlation_id: String,
    /// When it was looked at.
    pub at: String,
    /// False when not all of the stream was looked at, or the chain is longer than is told.
    pub complete: bool,
    /// Events of the stream that were looked at.
    pub scanned: u64,
    /// In the order in which they were stored.
    pub events: Vec<EventStatus>,
}

/// Serde gives a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}
