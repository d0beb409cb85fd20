//! What sidecars and the control plane say to each other about replays: the verb `replay`, a page of stored events.

use serde::{Deserialize, Serialize};

/// The verb.
pub const VERB: &str = "replay";

/// Asks for a page, or for more of one event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Address patterns.
    pub patterns: Vec<String>,
    /// Begin at this sequence; goes before `since_ns`. Neither: at the oldest event.
    pub from_seq: Option<u64>,
    /// Begin with what was stored at this moment, in nanoseconds since the Unix epoch.
    pub since_ns: Option<u64>,
    /// The last sequence wanted; none = the newest one there is when this is asked.
    pub to_seq: Option<u64>,
    /// The last moment wanted, in nanoseconds since the Unix epoch.
    pub until_ns: Option<u64>,
    /// The rest of an event that was too large for the page, instead of a page.
    pub part: Option<Part>,
}

/// Which bytes of which event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The event.
    pub seq: u64,
    /// From this byte on.
    pub offset: usize,
}

/// A page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Page {
    /// In the order in which they were stored.
    pub events: Vec<Stored>,
    /// Go on here; none = that was all.
    pub next: Option<u64>,
    /// Where it ends: to be asked for again with the next page.
    pub to_seq: u64,
}

/// One stored event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, in nanoseconds since the Unix epoch.
    pub stored_ns: u64,
    /// Its whole length, in bytes. More than what is here: ask for the rest with [`Part`].
    pub bytes: usize,
    /// The encoded event, or its beginning, in base64.
    pub payload: String,
}
