//! A whole bus in a test of yours: streams and sidecars inside one process, no broker, nothing to install.
//!
//! ```no_run
//! use agentbus_sidecar::embed::{Embedded, Member, reads};
//!
//! # async fn example() -> Result<(), agentbus_proto::Fault> {
//! let bus = Embedded::start().await?;
//! let writer = bus.sidecar(Member::new("writer").publishes("notes.>")).await?;
//! let reader = bus.sidecar(Member::new("reader").takes(reads("readers", &["notes.>"]))).await?;
//! // From here on as any agent, over HTTP or gRPC: `writer.url` and `reader.url`, with the token of `Member::token`.
//! # drop((writer, reader));
//! # Ok(())
//! # }
//! ```
//!
//! Deliveries, retries, dead letters and order are those of a broker: one suite of tests holds both to it. What is missing
//! is the control plane: groups are made here, and addresses other than topics have nobody who declares them.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentbus_nats::bus::{Bus, Memory, memory};
use agentbus_nats::consumers;
use agentbus_nats::grant::{Grant, GroupGrant, Start};
use agentbus_nats::names::Names;
use agentbus_nats::plan;
use agentbus_nats::topology::Sizes;
use agentbus_proto::Fault;
use agentbus_runtime::trace::Tracer;

use crate::app::Sidecar;

/// The namespace of an embedded bus.
pub const NAMESPACE: &str = "default";
/// Token of a member that names none.
pub const TOKEN: &str = "embedded";
/// Most that all streams together hold, in bytes: room for a test's events, and no surprise for its machine.
const BYTES_MAX: i64 = 64 << 20;
/// Room for headers in a message, in bytes.
const HEADER_ROOM_BYTES: usize = 16 * 1024;
/// There is nothing to renew: seconds since the Unix epoch, in the year 2100.
const EXPIRES: u64 = 4_102_444_800;
/// How long a sidecar may take to finish when it is drained, in milliseconds.
const DRAIN_MS: u64 = 2_000;

/// A bus in this process. Cheap to clone; it ends with its last clone and sidecar.
#[derive(Clone)]
pub struct Embedded {
    memory: Memory,
    bus: Arc<dyn Bus>,
    names: Names,
    event_bytes_max: usize,
}

/// Who a sidecar is for, and what it may do.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Agent name.
    pub agent: String,
    /// Which replica; empty = the agent's name.
    pub instance: String,
    /// Groups it takes part in. Each is made when it is not there yet.
    pub groups: Vec<GroupGrant>,
    /// Topic patterns it may publish to.
    pub publish: Vec<String>,
    /// What its agent must show; empty = [`TOKEN`].
    pub token: String,
}

impl Member {
    /// One that may do nothing yet.
    pub fn new(agent: impl Into<String>) -> Self {
        Self { agent: agent.into(), ..Self::default() }
    }

    /// Lets it publish to these topics.
    #[must_use]
    pub fn publishes(mut self, pattern: impl Into<String>) -> Self {
        self.publish.push(pattern.into());
        self
    }

    /// Makes it a member of this group.
    #[must_use]
    pub fn takes(mut self, group: GroupGrant) -> Self {
        self.groups.push(group);
        self
    }
}

/// A group that reads these topics from now on.
pub fn reads(group: impl Into<String>, patterns: &[&str]) -> GroupGrant {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    GroupGrant { name: group.into(), patterns, declared: true, ..GroupGrant::default() }
}

impl Embedded {
    /// Starts a bus with empty streams. Needs a tokio runtime for as long as it lives.
    pub async fn start() -> Result<Self, Fault> {
        Self::start_with(Sizes::within(BYTES_MAX)).await
    }

    /// Starts one whose streams have these sizes.
    pub async fn start_with(sizes: Sizes) -> Result<Self, Fault> {
        let memory = Memory::start(memory::Options::default());
        let bus = memory.connect("EMBEDDED");
        let names = Names::new(NAMESPACE);
        plan::apply(&*bus, &names, &sizes).await?;
        let event_bytes_max = bus.server().message_bytes_max.saturating_sub(HEADER_ROOM_BYTES);
        Ok(Self { memory, bus, names, event_bytes_max })
    }

    /// The bus itself: to look at streams, or to put something in past every check.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// The same bus as others connect to it.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Names of its streams.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Makes a group before anybody is in it, so that it misses nothing.
    pub async fn group(&self, group: &GroupGrant) -> Result<(), Fault> {
        consumers::ensure(&*self.bus, &self.names, group).await
    }

    /// Starts a sidecar. It listens on a free port of this machine, and ends when it is drained or dropped with its runtime.
    pub async fn sidecar(&self, member: Member) -> Result<Sidecar, Fault> {
        for group in &member.groups {
            self.group(group).await?;
        }
        let start = self.start_of(member);
        let bus = self.memory.connect(&start.grant.agent);
        Box::pin(Sidecar::start_on(start, bus, Tracer::disabled())).await
    }

    fn start_of(&self, member: Member) -> Start {
        let Member { agent, instance, groups, publish, token } = member;
        // Everybody is in this process, so the secrets keep nobody out: they only have to be the same every time.
        let group_secrets: BTreeMap<String, String> =
            groups.iter().map(|group| (group.name.clone(), format!("group-{}", group.name))).collect();
        let grant = Grant {
            instance: if instance.is_empty() { agent.clone() } else { instance },
            namespace: NAMESPACE.to_owned(),
            expires: EXPIRES,
            groups,
            publish,
            event_bytes_max: self.event_bytes_max,
            secret: format!("agent-{agent}"),
            group_secrets,
            agent,
            ..Grant::default()
        };
        let any = || "127.0.0.1:0".to_owned();
        Start {
            grant,
            token: if token.is_empty() { TOKEN.to_owned() } else { token },
            listen: any(),
            admin: any(),
            admin_token: None,
            unix: None,
            drain_ms: DRAIN_MS,
            state: None,
            spool: None,
        }
    }
}
