//! Names of the assets of a namespace on the broker: streams, buckets, consumers. The only place that spells them.

use crate::layout::Slice;

/// In the names of groups that the bus makes itself; nobody else's name may contain it.
const OWN: &str = "--";

/// Stands where an agent's name is wanted for what the control plane does itself. Upper case: no agent can have this name.
pub const CONTROL_PLANE: &str = "CONTROL-PLANE";

/// A namespace's asset names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    namespace: String,
}

impl Names {
    /// For a namespace whose name has been validated.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into() }
    }

    /// The namespace itself.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Stream of all events, the history.
    pub fn events(&self) -> String {
        format!("AB_{}_EVENTS", self.namespace)
    }

    /// Stream of events that wait for their next attempt.
    pub fn retry(&self) -> String {
        format!("AB_{}_RETRY", self.namespace)
    }

    /// Stream of dead letters.
    pub fn dead_letters(&self) -> String {
        format!("AB_{}_DLQ", self.namespace)
    }

    /// Stream of events for later.
    pub fn schedules(&self) -> String {
        format!("AB_{}_SCHEDULES", self.namespace)
    }

    /// Stream of the control plane's facts.
    pub fn audit(&self) -> String {
        format!("AB_{}_AUDIT", self.namespace)
    }

    /// Stream of receipts: who was through with an event, and when. Made on first use.
    pub fn receipts(&self) -> String {
        format!("AB_{}_RECEIPTS", self.namespace)
    }

    /// Bucket of declared and live agents.
    pub fn registry(&self) -> String {
        format!("AB_{}_REGISTRY", self.namespace)
    }

    /// Group of an agent's own address.
    pub fn inbox_group(agent: &str) -> String {
        format!("{agent}{OWN}inbox")
    }

    /// Group of the channels an agent reads in order, `#all` among them.
    pub fn channels_group(agent: &str) -> String {
        format!("{agent}{OWN}channels")
    }

    /// Group of a pool's address, shared by its members.
    pub fn pool_group(pool: &str) -> String {
        format!("pool{OWN}{pool}")
    }

    /// Whether a name is kept for groups that the bus makes itself.
    pub fn is_reserved(name: &str) -> bool {
        name.contains(OWN)
    }

    /// Durable consumer of a group on the events stream.
    pub fn consumer(group: &str) -> String {
        group.to_owned()
    }

    /// Durable consumer of a group on the events stream that reads one slice. A group's name has no `+`, so no two groups
    /// can have consumers of the same name.
    pub fn slice_consumer(group: &str, slice: Slice) -> String {
        match slice {
            Slice::Whole => Self::consumer(group),
            Slice::Lane(lane) => format!("{group}+{}", lane.token()),
            Slice::Part('-') => format!("{group}+x"),
            Slice::Part(part) => format!("{group}+{part}"),
        }
    }

    /// The group of a consumer on the events stream.
    pub fn group_of(consumer: &str) -> &str {
        consumer.split_once('+').map_or(consumer, |(group, _)| group)
    }

    /// Durable consumer of a group on the retry stream.
    pub fn retry_consumer(group: &str) -> String {
        format!("{group}-retry")
    }
}
