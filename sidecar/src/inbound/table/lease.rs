//! Leases: how they are kept alive at the broker and extended by the agent, and what becomes of those that end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::ack::{Answer, Receipt};
use async_nats::Subject;

use super::held::POOL_LINGER;
use super::{Command, Held, Missing, State, Table};
use crate::breaker;
use crate::memory::Key;

/// Longest time a delivery may be held in all, however often it is extended.
pub const HOLD_MAX: Duration = Duration::from_secs(6 * 3600);
const LAPSED: &str = "the broker could not be reached in time; the event comes again in its order";

/// How it stands with those who read a group.
#[derive(Debug, Clone, Copy)]
enum Agent {
    /// One takes the next.
    Free,
    /// None has credit left, or something must not be handed out beside what is out.
    Busy,
    /// Nobody asks.
    Away,
    /// Its breaker is open.
    LeftAlone,
}

/// Which leases a look at the table extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extend {
    /// None: the broker cannot be reached.
    Nothing,
    /// Those that were not extended for a while.
    Due,
    /// All: the connection is new, and what was sent on the old one may be lost.
    Everything,
}

impl Table {
    /// A message that is held already only renews its lease: the broker had lost patience, the agent is still at work.
    pub fn renew(&mut self, key: &Key, receipt: &Receipt, now: Instant) -> bool {
        let Some(held) = self.by_key.get(key).and_then(|id| self.held.get_mut(id)) else { return false };
        held.incoming.receipt = receipt.clone();
        // The broker has given it to us, so it is nobody else's, whatever was before.
        (held.extended, held.asked, held.lapsed) = (now, now, false);
        true
    }

    /// Looks after all leases: extends, ends those over their deadline, returns what nobody asks for.
    pub fn tick(&mut self, now: Instant, extend: Extend) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut over = Vec::new();
        let mut idle = Vec::new();
        let mut lapsed = Vec::new();
        for (id, held) in &mut self.held {
            if held.is_lapsed(now) {
                // Not renewed any more: it may be somebody else's by now. A settle under way learns it at its end.
                held.lapsed = true;
                if !matches!(held.state, State::Settling { .. }) {
                    lapsed.push(id.clone());
                }
                continue;
            }
            match held.state {
                State::Out { deadline, .. } if now >= deadline => over.push(id.clone()),
                State::Waiting if now.duration_since(held.taken) >= POOL_LINGER => idle.push(id.clone()),
                _ => {}
            }
            let due = match extend {
                Extend::Nothing => false,
                Extend::Due => now.duration_since(held.asked) >= held.extend_every(),
                Extend::Everything => true,
            };
            if due && !held.fresh.at_most_once {
                held.asked = now;
                let subject = held.incoming.receipt.subject.clone();
                commands.push(if held.group.keeps_order() {
                    Command::Renew(id.to_string(), subject)
                } else {
                    held.extended = now;
                    Command::Answer(subject, Answer::Progress)
                });
            }
        }
        for id in lapsed {
            self.take_away(&id, LAPSED);
        }
        for id in over {
            let Some(held) = self.held.get(&id) else { continue };
            let cause = format!("not settled within {:?} (ack deadline)", held.worked(now).unwrap_or_default());
            self.tell_lost(&id, &cause);
            if let Some(held) = self.lose(&id) {
                commands.push(Command::Fail(held, cause));
            }
        }
        let mut agents = BTreeMap::new();
        for id in idle {
            let Some(held) = self.held.get(&id) else { continue };
            let agent = *agents.entry(held.key.group.clone()).or_insert_with(|| self.agent(&held.key.group));
            let linger = match agent {
                Agent::Free => None,
                Agent::Busy => held.linger(true),
                Agent::Away => held.linger(false),
                Agent::LeftAlone => held.may_go_back().then_some(Duration::ZERO),
            };
            if linger.is_some_and(|linger| now.duration_since(held.taken) >= linger) {
                commands.extend(self.lose(&id).map(Command::GiveBack));
            }
        }
        commands
    }

    /// How it stands with whoever would take what waits of a group.
    fn agent(&self, group: &Arc<str>) -> Agent {
        let mut readers = self.subscribers.values().filter(|s| s.credit > 0 && s.groups.contains(group)).peekable();
        if self.bounds.state(group) == breaker::State::Open {
            Agent::LeftAlone
        } else if readers.peek().is_none() {
            Agent::Away
        } else if self.room(group) > 0 && self.has_taker(group) {
            Agent::Free
        } else {
            Agent::Busy
        }
    }

    /// Moves a deadline: `by` from now, within the hard ceiling. Returns how long it is until then.
    pub fn extend(&mut self, id: &str, by: Duration, now: Instant) -> Result<(Duration, Subject), Missing> {
        let held = self.held.get_mut(id).ok_or(Missing::Unknown)?;
        let State::Out { to, since, .. } = held.state else { return Err(Missing::Unknown) };
        let deadline = (now + by).min(held.taken + HOLD_MAX);
        held.state = State::Out { to, since, deadline };
        if !held.group.keeps_order() {
            // There only the broker's word counts.
            held.extended = now;
        }
        Ok((deadline.saturating_duration_since(now), held.incoming.receipt.subject.clone()))
    }

    /// The broker has said that a lease was renewed; the request for it was sent `at` this time. What has lapsed until `now`
    /// stays so: the broker says yes to whoever had it once.
    pub fn renewed(&mut self, id: &str, at: Instant, now: Instant) {
        if let Some(held) = self.held.get_mut(id) {
            held.lapsed |= held.is_lapsed(now);
            held.extended = held.extended.max(at);
        }
    }

    /// Takes a delivery away whose order can no longer be vouched for: its lease has lapsed. To be called before a settle.
    pub fn take_lapsed(&mut self, id: &str, now: Instant) {
        if self.held.get(id).is_some_and(|held| held.is_lapsed(now)) {
            self.take_away(id, LAPSED);
        }
    }

    /// Whether the lease of a delivery, of which the caller has a copy or which was taken from the table, has lapsed
    /// meanwhile. To be asked before every word to the broker about it.
    pub fn has_lapsed(&self, held: &Held, now: Instant) -> bool {
        let here = self.by_key.get(&held.key).and_then(|id| self.held.get(id));
        // Another one under the same key is a later delivery, whose lease says nothing about this one.
        let same = here.filter(|here| here.taken == held.taken);
        same.map_or(held, AsRef::as_ref).is_lapsed(now)
    }

    /// The broker is another one than before: what it has forgotten, it hands out again, so no order can be vouched for.
    pub fn take_ordered(&mut self) {
        for id in self.ids(|held| held.group.keeps_order() && !held.fresh.at_most_once) {
            match self.held.get_mut(&id) {
                Some(held) if matches!(held.state, State::Settling { .. }) => held.lapsed = true,
                _ => self.take_away(&id, "the broker was restarted; the event comes again in its order"),
            }
        }
    }

    /// Nothing is said to the broker: it may be somebody else's by now.
    fn take_away(&mut self, id: &str, cause: &str) {
        self.tell_lost(id, cause);
        self.lose(id);
    }
}
