//! What the control plane hands to a sidecar, and the words both exchange while it starts.
//!
//! Shared here because sidecar and control plane never import each other. Everything is JSON: one object per line on
//! the sidecar's stdin and stdout ([`ToSidecar`], [`FromSidecar`]), request and reply on `abc.<ns>.<agent>.<verb>`
//! ([`ControlRequest`], [`ControlReply`]) afterwards. No secret of the agent ever travels in a grant: the key pair is
//! born in the sidecar, and only its public half leaves it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::Layout;

mod control;
mod group;
mod limits;
mod stdio;

pub use control::{ControlReply, ControlRequest, LettersAnswer, LettersRequest, StandbyAnswer};
pub use group::{GroupGrant, GroupKind, Policy};
pub use limits::{AgentLimits, BreakerPolicy, Fsync, SpoolOptions};
pub use stdio::{AgentLife, BreakerReport, FromSidecar, SidecarReport, Start, ToSidecar};

/// Everything a sidecar may do on the bus, signed into `jwt` and spelled out for its own checks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Agent name; the sender token of every subject this sidecar publishes on.
    pub agent: String,
    /// Which of the agent's replicas this is, for example `check-2`.
    pub instance: String,
    /// Namespace, the trust zone.
    pub namespace: String,
    /// How the namespace lies on the broker, and so how subjects are spelled there.
    #[serde(default)]
    pub layout: Layout,
    /// Broker addresses, `nats://host:port`.
    pub servers: Vec<String>,
    /// User JWT for the sidecar's own public key.
    pub jwt: String,
    /// When the JWT expires, in seconds since the Unix epoch.
    pub expires: u64,
    /// The groups this agent takes part in.
    pub groups: Vec<GroupGrant>,
    /// Address patterns the agent may publish to: `file.*`, `@reviewer`, `#engineering`, `#all`. The broker enforces the
    /// same list.
    pub publish: Vec<String>,
    /// Largest encoded event, in bytes: the broker's `max_payload` less 16 KiB, so that copies always fit.
    pub event_bytes_max: usize,
    /// What seals this agent's message ids (see `msg_id`) and delivery ids. Known to the agent's sidecars only.
    #[serde(default)]
    pub secret: String,
    /// What seals the successors' ids of each group. Known to the group's sidecars only.
    #[serde(default)]
    pub group_secrets: BTreeMap<String, String>,
    /// The addresses that are declared: where events to agents, pools and channels can go.
    #[serde(default)]
    pub directory: Directory,
    /// What the agent may use.
    #[serde(default)]
    pub limits: AgentLimits,
    /// When a destination or the agent itself is left alone for a while; none = never.
    #[serde(default)]
    pub breaker: Option<BreakerPolicy>,
}

/// Declared addresses of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Directory {
    /// Agents, each with the agent that takes its events while it is away; empty = none.
    pub agents: BTreeMap<String, String>,
    /// Pools with their members.
    pub pools: BTreeMap<String, Vec<String>>,
    /// Channels; `all` is always one.
    pub channels: BTreeSet<String>,
}
