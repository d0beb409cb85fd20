//! What bounds handing out beyond credit: how many deliveries an agent may hold at once, and groups that are left alone
//! because the agent keeps failing on their events. Pure, and nothing at all for agents without.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use agentbus_nats::grant::{BreakerPolicy, Grant};
use rustc_hash::FxHasher;

use crate::breaker::{Breaker, State};

/// The bounds of one sidecar.
#[derive(Debug, Default)]
pub struct Bounds {
    in_flight_max: Option<usize>,
    policy: Option<BreakerPolicy>,
    /// Groups with failures in a row.
    failing: BTreeMap<Arc<str>, Breaker>,
}

impl Bounds {
    /// By a grant.
    pub fn new(grant: &Grant) -> Self {
        Self { in_flight_max: grant.limits.in_flight_max, policy: grant.breaker, failing: BTreeMap::new() }
    }

    /// Whether they bound anything just now.
    pub fn is_loose(&self) -> bool {
        self.in_flight_max.is_none() && self.failing.is_empty()
    }

    /// How many more deliveries there may be, `all` being counted in all groups and `own` in this one.
    pub fn room(&self, group: &str, all: usize, own: usize) -> usize {
        let room = self.in_flight_max.map_or(usize::MAX, |most| most.saturating_sub(all));
        match self.state(group) {
            State::Closed => room,
            State::HalfOpen => room.min(1_usize.saturating_sub(own)),
            State::Open => 0,
        }
    }

    /// The state of a group's breaker.
    pub fn state(&self, group: &str) -> State {
        self.failing.get(group).map(Breaker::state).unwrap_or_default()
    }

    /// The agent handled an event of the group; true when that changes the state.
    pub fn succeeded(&mut self, group: &str) -> bool {
        !self.failing.is_empty() && self.failing.remove(group).is_some_and(|breaker| breaker.state() != State::Closed)
    }

    /// The agent failed on an event of the group, none when it is not known on which; true when that opens it.
    pub fn failed(&mut self, group: &Arc<str>, event: Option<&str>, now: Instant) -> bool {
        let Some(policy) = self.policy else { return false };
        let mark = event.map(|event| {
            let mut mark = FxHasher::default();
            event.hash(&mut mark);
            mark.finish()
        });
        self.failing.entry(group.clone()).or_insert_with(|| Breaker::new(policy)).failed(mark, now)
    }

    /// Groups of which one delivery is tried from now on.
    pub fn tick(&mut self, now: Instant) -> Vec<Arc<str>> {
        let due = self.failing.iter_mut().filter(|(_, breaker)| breaker.state() == State::Open);
        due.filter_map(|(group, breaker)| breaker.tick(now).then(|| group.clone())).collect()
    }

    /// Groups that are not closed, by name.
    pub fn open(&self) -> Vec<(String, State)> {
        let open = self.failing.iter().filter(|(_, breaker)| breaker.state() != State::Closed);
        open.map(|(group, breaker)| (group.to_string(), breaker.state())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agentbus_nats::grant::AgentLimits;

    use super::*;

    fn bounds(in_flight_max: Option<usize>) -> Bounds {
        let limits = AgentLimits { in_flight_max, ..AgentLimits::default() };
        Bounds::new(&Grant { limits, breaker: Some(BreakerPolicy::default()), ..Grant::default() })
    }

    #[test]
    fn no_more_than_the_limit_is_in_flight_over_all_groups() {
        let bounds = bounds(Some(3));
        assert_eq!([0, 2, 3, 9].map(|all| bounds.room("g", all, 0)), [3, 1, 0, 0]);
        assert!(!bounds.is_loose() && super::Bounds::default().is_loose());
    }

    #[test]
    fn an_open_group_gets_nothing_then_one_and_the_others_go_on() {
        let (mut bounds, now, group) = (bounds(None), Instant::now(), Arc::from("g"));
        for event in ["a", "b", "c", "d"] {
            assert!(!bounds.failed(&group, Some(event), now));
        }
        assert!(bounds.failed(&group, Some("e"), now));
        assert_eq!((bounds.room("g", 0, 0), bounds.room("other", 0, 0)), (0, usize::MAX));
        assert!(bounds.tick(now + Duration::from_secs(59)).is_empty());
        assert_eq!(bounds.tick(now + Duration::from_secs(60)), std::slice::from_ref(&group));
        assert_eq!((bounds.room("g", 0, 0), bounds.room("g", 1, 1)), (1, 0));
        assert!(bounds.succeeded("g") && bounds.is_loose());
    }
}
