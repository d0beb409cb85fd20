//! What sidecars and the control plane tell each other about asks: whether anybody serves an address (verb `resolve`), and
//! the replies an asker has missed (verb `replies`). Plain JSON, shared here because neither imports the other.

use serde::{Deserialize, Serialize};

/// Verb: whether anybody serves an address.
pub const RESOLVE: &str = "resolve";
/// Verb: stored replies to asks of the agent that calls.
pub const REPLIES: &str = "replies";

/// Most asks whose replies are looked for at once.
pub const REQUESTS_MAX: usize = 16;
/// Most bytes of replies in one answer, before base64: with it the answer stays below the broker's message size.
pub const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Request of `resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// The address: `@reviewer`, `notes.created`.
    pub to: String,
}

/// Answer of `resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Somebody lives, listens or works there.
    pub served: bool,
    /// If not, why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Request of `replies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies {
    /// Event ids of the asks; [`REQUESTS_MAX`] at most.
    pub requests: Vec<String>,
    /// None of them is older: milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Where the answer before this one ended.
    #[serde(default)]
    pub from: Option<Cursor>,
}

/// A place in the replies: a large one is read in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Sequence of the reply in its stream.
    pub seq: u64,
    /// Bytes of it that are known already.
    pub offset: usize,
}

/// Answer of `replies`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// In the order in which they were stored.
    pub parts: Vec<Part>,
    /// There is more: ask again from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

/// A reply, or the next part of a large one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Sequence in its stream.
    pub seq: u64,
    /// Subject it was stored on: tells who replied.
    pub subject: String,
    /// Trace context, empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// Bytes of it before this part.
    pub offset: usize,
    /// Bytes of all of it.
    pub bytes: usize,
    /// This part as base64.
    pub data: String,
}
