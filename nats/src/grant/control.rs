//! What sidecars ask of the control plane while they run, and its answers.

use agentbus_proto::Code;
use serde::{Deserialize, Serialize};

use super::{Grant, GroupGrant};

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

/// Asks, with the verb `letters`, for room to store a dead letter of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LettersRequest {
    /// The group that gives an event up.
    pub group: String,
    /// What the letter takes.
    pub bytes: u64,
}

/// The control plane's answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LettersAnswer {
    /// What the group may store now, in advance of more letters. Less than was asked for: its share is used up.
    pub bytes: u64,
}

/// The control plane's answer to the verb `standby`, which sidecars ask that are a fallback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyAnswer {
    /// Agents that are away and whose own events the asking agent is to take now.
    pub take: Vec<String>,
}
