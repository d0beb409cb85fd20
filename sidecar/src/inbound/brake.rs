//! Tells the table how handling goes, and acts when a group is to be left alone or tried again.

use std::sync::Arc;
use std::time::Instant;

use super::hub::Hub;
use super::table::Held;
use crate::breaker::State;

impl Hub {
    /// The agent failed on this one: it ran over the deadline, or said so. (Of its death the table takes note itself.)
    pub(super) fn handling_failed(&self, held: &Held) {
        let opened = self.table().bounds.failed(&held.key.group, Some(&held.fresh.head.id), Instant::now());
        if opened {
            self.leave_alone(&held.key.group);
        }
    }

    /// A group's breaker has opened: what waits here goes to other members, if there are any. What is still on its way in
    /// follows at the next look at the table.
    pub(super) fn leave_alone(&self, group: &Arc<str>) {
        let given_back = self.table().give_waiting_of(group);
        tracing::warn!(%group, "the agent keeps failing: its group is left alone for a while");
        self.metrics().breaker("deliver", group, State::Open);
        self.spawn(given_back);
    }

    /// The agent handled an event of this group.
    pub(super) fn handling_succeeded(&self, group: &str) {
        let closed = self.table().bounds.succeeded(group);
        if closed {
            self.breaker_closed(group);
        }
    }

    /// A group's try went well.
    pub(super) fn breaker_closed(&self, group: &str) {
        tracing::info!(%group, "the agent is well again: its group goes on");
        self.metrics().breaker("deliver", group, State::Closed);
        self.after(group);
    }

    /// Lets one delivery through where it is time for a try.
    pub(super) fn try_again(&self) {
        let due = self.table().bounds.tick(Instant::now());
        for group in due {
            tracing::info!(%group, "one event is tried");
            self.metrics().breaker("deliver", &group, State::HalfOpen);
            self.after(&group);
        }
    }

    /// Groups that are left alone or being tried, by name.
    pub fn open_breakers(&self) -> Vec<(String, State)> {
        self.table().bounds.open()
    }
}
