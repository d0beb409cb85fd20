//! The lease table: every delivery this sidecar holds, who has it, until when. Pure: time comes in, commands go out.
//!
//! A delivery waits in its group's queue until a subscriber has credit, is then *out* until it is settled, and is
//! *settling* while a retry or dead letter is being stored. All of them are extended at the broker.
//!
//! Here is what comes in and how it leaves; `subscribers` hands out, `lease` keeps what is held, `held` is one delivery,
//! `bounds` and `once` say what holds back beside credit, `crash` finds out what kills the agent, `look` tells where an event
//! is.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use agentbus_nats::ack::Answer;
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::pull::Incoming;
use async_nats::Subject;
use rustc_hash::FxBuildHasher;

use self::bounds::Bounds;
use self::crash::Deaths;
use self::held::State;
use self::once::Once;
use self::subscribers::Subscriber;
use super::admit::Fresh;
use crate::memory::{Key, Memory, Verdict};

pub mod bounds;
mod crash;
mod held;
mod lease;
mod look;
mod once;
mod subscribers;

pub use held::{Held, Replied, good_for};
pub use lease::Extend;
pub use subscribers::{CREDIT_MAX, Gone, Outgoing};

/// Payload bytes held before no more is asked for, all groups together; one event per group is taken all the same.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is to be done after a look at the table.
pub enum Command {
    /// Answer the broker on this ack subject.
    Answer(Subject, Answer),
    /// Renew this lease and tell the table when the broker has said so.
    Renew(String, Subject),
    /// Hand back without counting it as a failure.
    GiveBack(Box<Held>),
    /// The agent failed to settle it: retry or dead letter.
    Fail(Box<Held>, String),
    /// The agent died with it and nothing else in hand: it is to blame.
    Crash(Box<Held>),
    /// The agent died with it and others in hand: hand it on as a suspect.
    Suspect(Box<Held>),
    /// The agent keeps failing on what this group reads.
    LeaveAlone(Arc<str>),
}

/// A delivery id, shared by the places that know it.
type Id = Arc<str>;

/// All deliveries, subscribers and the ack memory of one sidecar.
pub struct Table {
    // A quick hash will do: ids are sealed here and keys come from the broker, so nobody outside can choose them.
    held: HashMap<Id, Box<Held>, FxBuildHasher>,
    by_key: HashMap<Key, Id, FxBuildHasher>,
    ready: BTreeMap<Arc<str>, VecDeque<Id>>,
    counts: HashMap<Arc<str>, usize>,
    bytes: usize,
    subscribers: BTreeMap<u64, Subscriber>,
    next_subscriber: u64,
    once: Once,
    /// Credit kept for what groups that keep an order have asked for.
    promised: BTreeMap<Arc<str>, usize>,
    deaths: Deaths,
    /// Something has left since it was asked last: others may have room now.
    freed: bool,
    /// Settled lately.
    pub memory: Memory,
    /// What bounds handing out beyond credit.
    pub bounds: Bounds,
    /// No new work.
    pub draining: bool,
    /// Groups nothing is asked for: inboxes of agents that are not away.
    pub closed: BTreeSet<String>,
    /// The agent is being stopped on purpose.
    pub agent_stopping: bool,
}

/// Why a settle cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// Not held here.
    Unknown,
    /// Another settle for it is under way.
    Settling,
}

impl Table {
    /// An empty table that remembers this many settled deliveries.
    pub fn new(memory_entries_max: usize, bounds: Bounds) -> Self {
        Self {
            held: HashMap::default(),
            by_key: HashMap::default(),
            ready: BTreeMap::new(),
            counts: HashMap::new(),
            bytes: 0,
            subscribers: BTreeMap::new(),
            next_subscriber: 1,
            once: Once::default(),
            promised: BTreeMap::new(),
            deaths: Deaths::default(),
            freed: false,
            memory: Memory::new(memory_entries_max),
            bounds,
            draining: false,
            closed: BTreeSet::new(),
            agent_stopping: false,
        }
    }

    /// Deliveries held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether an agent is still at work on something.
    pub fn has_work_out(&self) -> bool {
        self.held.values().any(|held| held.state != State::Waiting)
    }

    /// Bytes of payload held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What no agent has yet of this group, as far as it may go back.
    pub fn give_waiting_of(&mut self, group: &str) -> Vec<Command> {
        let ids = self.ids(|held| held.state == State::Waiting && *held.key.group == *group && held.may_go_back());
        ids.iter().filter_map(|id| self.lose(id)).map(Command::GiveBack).collect()
    }

    /// What no agent has yet, for the beginning of a drain.
    pub fn give_waiting_back(&mut self) -> Vec<Command> {
        let ids = self.ids(|held| held.state == State::Waiting);
        ids.iter().filter_map(|id| self.lose(id)).map(Command::GiveBack).collect()
    }

    /// The agent acked under an id of a sidecar before this one: what came again since is not handed out any more.
    pub fn acked_elsewhere(&mut self, key: Key) {
        if let Some(id) = self.by_key.get(&key).cloned()
            && self.held.get(&id).is_some_and(|held| held.state == State::Waiting)
        {
            self.remove(&id);
        }
        self.memory.remember(key, Verdict::Acked);
    }

    /// Everything that is held and not being settled, for the end of a drain.
    pub fn give_all_back(&mut self) -> Vec<Command> {
        let ids = self.ids(|held| !matches!(held.state, State::Settling { .. }));
        ids.iter().filter_map(|id| self.lose(id)).map(Command::GiveBack).collect()
    }

    /// Takes a message in under its delivery id; one that is held is only renewed.
    pub fn insert(
        &mut self,
        id: String,
        incoming: Incoming,
        fresh: Box<Fresh>,
        key: Key,
        group: Arc<GroupGrant>,
        now: Instant,
    ) {
        if self.renew(&key, &incoming.receipt, now) {
            return;
        }
        let replied = Replied { next: 0, delivered: incoming.receipt.delivered };
        let held = Held {
            incoming,
            replied,
            fresh,
            key,
            group,
            span: None,
            context: None,
            state: State::Waiting,
            taken: now,
            extended: now,
            asked: now,
            lapsed: false,
        };
        self.hold(id.into(), Box::new(held));
    }

    /// Takes one in that waits.
    fn hold(&mut self, id: Id, held: Box<Held>) {
        let name = held.key.group.clone();
        self.bytes += held.incoming.payload.len();
        self.by_key.insert(held.key.clone(), id.clone());
        *self.counts.entry(name.clone()).or_default() += 1;
        let queue = self.ready.entry(name).or_default();
        if held.fresh.suspect.is_some() {
            self.deaths.suspects += 1;
            queue.push_front(id.clone());
        } else {
            queue.push_back(id.clone());
        }
        self.once.held(&held);
        self.held.insert(id, held);
    }

    /// Ends a delivery that is out: removes it with its verdict.
    pub fn end(&mut self, id: &str, verdict: Verdict) -> Result<Box<Held>, Missing> {
        match self.held.get(id).map(|held| held.state) {
            Some(State::Out { .. }) => {}
            Some(State::Settling { .. }) => return Err(Missing::Settling),
            _ => return Err(Missing::Unknown),
        }
        let held = self.remove(id).ok_or(Missing::Unknown)?;
        self.memory.remember(held.key.clone(), verdict);
        Ok(held)
    }

    /// Starts a settle that takes a while; the delivery stays held and extended.
    pub fn settling(&mut self, id: &str) -> Result<&Held, Missing> {
        let held = self.held.get_mut(id).ok_or(Missing::Unknown)?;
        match held.state {
            State::Out { to, since, deadline } => held.state = State::Settling { to, since, deadline },
            State::Settling { .. } => return Err(Missing::Settling),
            State::Waiting => return Err(Missing::Unknown),
        }
        Ok(held)
    }

    /// One more reply of a delivery is stored.
    pub fn replied(&mut self, id: &str) {
        if let Some(held) = self.held.get_mut(id) {
            held.replied.next = held.replied.next.saturating_add(1);
        }
    }

    /// Ends a settle: with a verdict the delivery is removed, without one it is out again.
    pub fn settled(&mut self, id: &str, verdict: Option<Verdict>) -> Option<Box<Held>> {
        let Some(verdict) = verdict else {
            if let Some(held) = self.held.get_mut(id)
                && let State::Settling { to, since, deadline } = held.state
            {
                held.state = State::Out { to, since, deadline };
            }
            return None;
        };
        let held = self.remove(id)?;
        self.memory.remember(held.key.clone(), verdict);
        Some(held)
    }

    /// Whether a delivery of this group is held.
    pub fn holds(&self, group: &str) -> bool {
        self.counts.get(group).is_some_and(|count| *count > 0)
    }

    fn ids(&self, wanted: impl Fn(&Held) -> bool) -> Vec<Id> {
        let mut ids: Vec<_> = self.held.iter().filter(|(_, held)| wanted(held)).collect();
        ids.sort_by_key(|(_, held)| (held.key.source == crate::memory::Source::Retry, held.key.seq));
        ids.into_iter().map(|(id, _)| id.clone()).collect()
    }

    /// A group this sidecar is in no more: what it held comes to others after the ack wait.
    pub fn forget(&mut self, group: &str) {
        for id in self.ids(|held| &*held.key.group == group) {
            self.remove(&id);
        }
        self.ready.remove(group);
        for subscriber in self.subscribers.values_mut() {
            subscriber.groups.retain(|name| &**name != group);
        }
    }

    fn lose(&mut self, id: &str) -> Option<Box<Held>> {
        let held = self.remove(id)?;
        self.memory.remember(held.key.clone(), Verdict::Lost);
        Some(held)
    }

    /// Whether something has left since the last time this was asked. Whoever looks from time to time wakes the groups then:
    /// not everything leaves by the hands of somebody who does.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    fn remove(&mut self, id: &str) -> Option<Box<Held>> {
        let held = self.held.remove(id)?;
        self.freed = true;
        self.by_key.remove(&held.key);
        self.once.gone(&held);
        self.deaths.suspects -= usize::from(held.fresh.suspect.is_some());
        self.bytes -= held.incoming.payload.len();
        if let Some(count) = self.counts.get_mut(&held.key.group) {
            *count = count.saturating_sub(1);
        }
        match held.state {
            State::Out { to, .. } | State::Settling { to, .. } => self.release(to),
            State::Waiting => {
                if let Some(queue) = self.ready.get_mut(&held.key.group) {
                    queue.retain(|waiting| &**waiting != id);
                }
            }
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests;
