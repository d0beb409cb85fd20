//! How a group reads the events stream: through one consumer, through one per priority lane, or through one per ordering
//! part. Values only; [`crate::topology`] makes consumers of them.
//!
//! - In one piece: all lanes and parts as they come. With `ordered`, one delivery at a time.
//! - By lanes (`split_lanes`): a sidecar weighs what waits in each lane before it asks.
//! - By parts (`by_key`): events of one ordering key are in one part, and a part has one delivery out at a time. Events
//!   without a key have a part of their own.
//!
//! Which of them a group has is fixed for as long as the broker knows it: other consumers would begin somewhere else.

use std::time::Duration;

use agentbus_proto::{Code, Fault};

use crate::grant::{GroupGrant, GroupKind};
use crate::names::Names;
use crate::subject::Lane;
use crate::topology::ACK_WAIT;

/// As [`ACK_WAIT`], for pools: work of a dead member is with another one within 5 s.
pub const POOL_ACK_WAIT: Duration = Duration::from_secs(4);

/// As [`ACK_WAIT`], where order is kept: a standby goes on within 10 s of a kill, with some time to spare.
pub const ORDERED_ACK_WAIT: Duration = Duration::from_secs(8);

/// A standby takes over when the pinned sidecar has not asked for this long, and what it held is due again.
const PIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for pools: below their ack wait, so that this is what counts.
const POOL_PIN_TIMEOUT: Duration = Duration::from_secs(3);

/// What one consumer of a group reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// Everything.
    Whole,
    /// One priority lane.
    Lane(Lane),
    /// One ordering part, `0`–`f`, or `-`: what has no key.
    Part(char),
}

/// The parts of ordering keys, and what has no key.
const PARTS: &str = "0123456789abcdef-";
const LANES: [Lane; 3] = [Lane::High, Lane::Normal, Lane::Low];

impl Slice {
    /// The slices of every layout.
    pub(crate) fn layouts() -> [Vec<Self>; 3] {
        [vec![Self::Whole], LANES.map(Self::Lane).into(), PARTS.chars().map(Self::Part).collect()]
    }

    /// How much a slice is worth when all have something waiting.
    pub fn weight(self) -> u32 {
        match self {
            Self::Lane(Lane::High) => 8,
            Self::Lane(Lane::Normal) => 4,
            Self::Whole | Self::Lane(Lane::Low) | Self::Part(_) => 1,
        }
    }

    /// Narrows a filter of the events stream to this slice.
    pub(crate) fn narrow(self, filter: &str) -> String {
        let (at, token) = match self {
            Self::Whole => return filter.to_owned(),
            Self::Lane(lane) => (LANE_AT, lane.token().to_owned()),
            Self::Part(part) => (PART_AT, part.to_string()),
        };
        let mut tokens: Vec<&str> = filter.split('.').collect();
        if let Some(slot) = tokens.get_mut(at) {
            *slot = &token;
        }
        tokens.join(".")
    }
}

/// Where lane and part stand in a subject of the events stream.
const LANE_AT: usize = 2;
const PART_AT: usize = 5;

impl GroupGrant {
    /// Whether deliveries come in an order that must be kept: failures are retried in place, and whoever cannot renew a
    /// lease gives it up.
    pub fn keeps_order(&self) -> bool {
        self.ordered || self.by_key
    }

    /// What its consumers read, one each.
    pub fn slices(&self) -> Vec<Slice> {
        let [whole, lanes, parts] = Slice::layouts();
        match self {
            _ if self.by_key => parts,
            _ if self.split_lanes => lanes,
            _ => whole,
        }
    }

    /// Names of its consumers on the events stream, in the order of [`Self::slices`].
    pub fn consumers(&self) -> Vec<String> {
        self.slices().into_iter().map(|slice| Names::slice_consumer(&self.name, slice)).collect()
    }

    /// How long the broker waits for an ack of this group.
    pub fn ack_wait(&self) -> Duration {
        match self.kind {
            GroupKind::Pool => POOL_ACK_WAIT,
            _ if self.keeps_order() => ORDERED_ACK_WAIT,
            _ => ACK_WAIT,
        }
    }

    /// After how long without a request of the pinned sidecar another one is asked; none where nobody is pinned.
    pub fn pin_timeout(&self) -> Option<Duration> {
        let timeout = if self.kind == GroupKind::Pool { POOL_PIN_TIMEOUT } else { PIN_TIMEOUT };
        self.keeps_order().then_some(timeout)
    }

    /// Refuses what cannot be had together (`BAD_CONFIG`).
    pub fn check_layout(&self) -> Result<(), Fault> {
        let both = match (self.ordered, self.by_key, self.split_lanes) {
            (true, true, _) => "strict order and order by key",
            (true, _, true) => "strict order and split lanes",
            (_, true, true) => "order by key and split lanes",
            _ => return Ok(()),
        };
        let why = format!(
            "group `{}` asks for {both}: an event that overtakes another one is out of order; choose one, or name two groups",
            self.name
        );
        Err(Fault::new(Code::BadConfig, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupGrant {
        GroupGrant { name: "g".into(), patterns: vec!["a.>".into()], ..GroupGrant::default() }
    }

    #[test]
    fn consumers_are_named_by_what_they_read_and_told_back() {
        assert_eq!(group().consumers(), ["g"]);
        let lanes = GroupGrant { split_lanes: true, ..group() };
        assert_eq!(lanes.consumers(), ["g+h", "g+n", "g+l"]);
        let keyed = GroupGrant { by_key: true, ..group() };
        assert_eq!((keyed.consumers().len(), keyed.consumers()[16].as_str()), (17, "g+x"));
        for group in [group(), lanes, keyed] {
            assert!(group.consumers().iter().all(|name| Names::group_of(name) == "g"));
        }
    }

    #[test]
    fn a_filter_is_narrowed_at_its_place() {
        let check = |slice: Slice, wanted: &str| assert_eq!(slice.narrow("ab.ns.*.*.agent.*.x.>"), wanted);
        check(Slice::Whole, "ab.ns.*.*.agent.*.x.>");
        check(Slice::Lane(Lane::High), "ab.ns.h.*.agent.*.x.>");
        check(Slice::Part('-'), "ab.ns.*.*.agent.-.x.>");
    }

    #[test]
    fn order_and_what_breaks_it_are_not_had_together() {
        for (ordered, by_key, split_lanes, good) in [
            (false, false, true, true),
            (true, false, false, true),
            (true, true, false, false),
            (true, false, true, false),
            (false, true, true, false),
        ] {
            let group = GroupGrant { ordered, by_key, split_lanes, ..group() };
            assert_eq!(group.check_layout().is_ok(), good, "{ordered} {by_key} {split_lanes}");
        }
    }

    #[test]
    fn every_key_has_a_part_with_a_consumer() {
        let parts: Vec<Slice> = GroupGrant { by_key: true, ..group() }.slices();
        for key in ["", "a", "order-7", "ü"] {
            assert!(parts.contains(&Slice::Part(crate::subject::part(key))), "{key}");
        }
    }
}
