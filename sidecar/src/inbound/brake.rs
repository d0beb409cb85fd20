//! Tells the table how handling goes, and acts when a group is to be left alone or tried again.

use std::time::Instant;

use super::hub::Hub;
use super::table::Held;
use crate::breaker::State;

impl Hub {
    /// The agent failed on this one: it died, ran over the deadline, or said so.
    pub(super) fn handling_failed(&self, held: &Held) {
        let group = &held.key.group;
        let given_back = {
            let mut table = self.table();
            if !table.bounds.failed(group, &held.fresh.head.id, Instant::now()) {
                return;
            }
            // What waits here goes to other members, if there are any; an ordered group keeps its line.
            if held.group.ordered { Vec::new() } else { table.give_waiting_of(group) }
        };
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

    /// The agent was killed from outside, as happens when memory runs out: that speaks against all it does, whether it
    /// held something or not.
    pub fn agent_killed(&self) {
        // Each kill is a failure of its own.
        let kill = uuid::Uuid::now_v7().to_string();
        for name in self.declared() {
            let Some(group) = self.group_name(&name) else { continue };
            if self.table().bounds.failed(&group, &kill, Instant::now()) {
                tracing::warn!(%group, "the agent keeps being killed: its group is left alone for a while");
                self.metrics().breaker("deliver", &group, State::Open);
            }
        }
        self.agent_exited();
    }

    /// Groups that are left alone or being tried, by name.
    pub fn open_breakers(&self) -> Vec<(String, State)> {
        self.table().bounds.open()
    }
}
