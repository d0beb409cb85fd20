//! Who takes deliveries, and how many: credit says what is asked of the broker, and who gets what waits.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentbus_proto::sidecar::wire;
use agentbus_proto::{Code, Fault};
use tokio::sync::mpsc;

use super::{BYTES_MAX, Command, Held, State, Table};
use crate::breaker;
use crate::inbound::admit;

/// Largest credit of one subscriber.
pub const CREDIT_MAX: usize = 20_000;

/// What a subscriber is sent.
#[derive(Debug)]
pub enum Outgoing {
    /// A delivery.
    Delivery(Box<wire::Delivery>),
    /// A delivery was taken away.
    Lost(String, Fault),
    /// The sidecar is about to stop.
    Draining,
}

/// How a subscriber left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It said goodbye: what it held goes back without counting as a crash.
    Closed,
    /// Its connection broke: what it held counts as a crash.
    Broken,
    /// A long poll that was answered: it keeps what it was given.
    Answered,
}

/// One who takes deliveries.
pub(super) struct Subscriber {
    pub(super) groups: Vec<Arc<str>>,
    pub(super) credit: usize,
    pub(super) out: usize,
    tx: mpsc::Sender<Outgoing>,
    /// It had credit and did not read what it was sent.
    full: Cell<bool>,
}

impl Subscriber {
    /// How many more deliveries it takes just now. Nothing while what it was sent is not read: frames pile up whose
    /// deliveries were settled or lost meanwhile.
    pub(super) fn room(&self) -> usize {
        let (free, places) = (self.credit.saturating_sub(self.out), self.tx.capacity());
        if free > 0 && places == 0 {
            self.full.set(true);
        }
        free.min(places)
    }
}

/// Whether a subscriber reads another group than this one to which something is promised.
fn is_promising(promised: &BTreeMap<Arc<str>, usize>, subscriber: &Subscriber, group: &str) -> bool {
    promised.keys().any(|name| **name != *group && subscriber.groups.contains(name))
}

impl Table {
    /// Takes a subscriber in.
    pub fn attach(&mut self, groups: Vec<Arc<str>>, credit: usize, tx: mpsc::Sender<Outgoing>) -> u64 {
        let id = self.next_subscriber;
        self.next_subscriber += 1;
        self.subscribers
            .insert(id, Subscriber { groups, credit: credit.min(CREDIT_MAX), out: 0, tx, full: Cell::default() });
        id
    }

    /// Sets a subscriber's credit.
    pub fn credit(&mut self, id: u64, credit: usize) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.credit = credit.min(CREDIT_MAX);
        }
    }

    /// Lets a subscriber go.
    pub fn detach(&mut self, id: u64, how: Gone, now: (Instant, SystemTime)) -> Vec<Command> {
        self.subscribers.remove(&id);
        if how == Gone::Answered {
            return Vec::new();
        }
        let ids = self.ids(|held| matches!(held.state, State::Out { to, .. } if to == id));
        if how == Gone::Broken && !self.agent_stopping {
            return self.connection_broke(ids, now);
        }
        ids.iter().filter_map(|id| self.lose(id)).map(Command::GiveBack).collect()
    }

    /// How many more deliveries of a group can be taken: what its subscribers have credit for, less what waits for them.
    /// What an answered poll holds is nobody's credit any more: the agent asks again when it can take more.
    pub fn demand(&self, group: &str) -> usize {
        if self.draining || self.is_hunting() || self.closed.contains(group) || self.is_taken(group) {
            return 0;
        }
        let reads = |subscriber: &&Subscriber| subscriber.groups.iter().any(|name| &**name == group);
        let share = |s: &Subscriber| s.room().div_ceil(s.groups.len().max(1));
        let free: usize = self.subscribers.values().filter(reads).map(share).sum();
        let free = free.saturating_sub(self.promised_beside(group));
        // Over the bound a group gets one event, so that none stands still, and no second one beside it.
        let held = self.counts.get(group).copied().unwrap_or(0);
        let free = if self.bytes >= BYTES_MAX { free.min(1usize.saturating_sub(held)) } else { free };
        let waiting = self.ready.get(group).map_or(0, VecDeque::len) + self.once.coming(group);
        let free = free.saturating_sub(waiting);
        if self.bounds.is_loose() { free } else { free.min(self.bounds.room(group, self.held.len(), held)) }
    }

    /// Keeps credit for so many events that this group, which keeps an order, has asked for and may get any moment.
    pub fn promise(&mut self, group: &str, messages: usize) {
        self.promised.retain(|name, _| &**name != group);
        if messages > 0 {
            self.promised.insert(group.into(), messages);
        }
    }

    /// What is promised to other groups of those that read this one.
    fn promised_beside(&self, group: &str) -> usize {
        if self.promised.is_empty() {
            return 0;
        }
        let reads = |s: &Subscriber, name: &str| s.groups.iter().any(|other| &**other == name);
        let both = |name: &str| self.subscribers.values().any(|s| reads(s, group) && reads(s, name));
        self.promised.iter().filter(|(name, _)| ***name != *group && both(name)).map(|(_, messages)| messages).sum()
    }

    /// Whether a strict group goes on asking while its one delivery is out. Not when its reader could not take the next one
    /// because another group's event may have the credit by then.
    pub fn stays_in_line(&self, group: &str) -> bool {
        let taken = |s: &Subscriber| s.groups.len() > 1 && s.credit > 0 && s.room() == 0;
        let reads = |s: &Subscriber| s.groups.iter().any(|name| &**name == group);
        self.holds(group) && !self.is_taken(group) && !self.subscribers.values().any(|s| reads(s) && taken(s))
    }

    /// Whether one that did not read what it was sent reads again: nothing else tells.
    pub fn reads_again(&self) -> bool {
        let reads = |s: &&Subscriber| s.full.get() && s.tx.capacity() > 0;
        let again: Vec<_> = self.subscribers.values().filter(reads).collect();
        again.iter().for_each(|s| s.full.set(false));
        !again.is_empty()
    }

    /// How many more may be handed out, whatever the credit.
    pub(super) fn room(&self, group: &str) -> usize {
        let hunting = self.is_hunting();
        if self.bounds.is_loose() && !hunting {
            return usize::MAX;
        }
        let out = self.held.values().filter(|held| held.state != State::Waiting);
        let (all, own) = out.fold((0, 0), |(all, own), held| (all + 1, own + usize::from(*held.key.group == *group)));
        let room = self.bounds.room(group, all, own);
        if !hunting {
            return room;
        }
        // A suspect before all others, and alone.
        let next = self.ready.get(group).and_then(VecDeque::front).and_then(|id| self.held.get(id));
        let alone = all == 0 && next.is_some_and(|held| held.fresh.suspect.is_some());
        if alone { room.min(1) } else { 0 }
    }

    /// Whether suspects keep everything else back: one is out, or one could be. Not one that can go nowhere because its breaker
    /// is open or nobody reads its group: the others would wait with it.
    fn is_hunting(&self) -> bool {
        let could_go = |group: &Arc<str>| {
            let reads = |s: &Subscriber| s.credit > 0 && s.groups.contains(group);
            self.bounds.state(group) != breaker::State::Open && self.subscribers.values().any(reads)
        };
        let counts = |held: &Held| held.state != State::Waiting || could_go(&held.key.group);
        self.deaths.suspects > 0 && self.held.values().any(|held| held.fresh.suspect.is_some() && counts(held))
    }

    /// How many more of this group may go to those who read a group, too, to which something is promised: what they have room
    /// for in all, less the promises.
    fn spare(&self, group: &str) -> usize {
        let reads =
            |s: &&Subscriber| s.groups.iter().any(|name| &**name == group) && is_promising(&self.promised, s, group);
        let room: usize = self.subscribers.values().filter(reads).map(Subscriber::room).sum();
        room.saturating_sub(self.promised_beside(group))
    }

    /// Whether somebody takes the next delivery of this group.
    pub(super) fn has_taker(&self, group: &str) -> bool {
        let spare = self.spare(group) > 0;
        let reads = |s: &Subscriber| s.room() > 0 && s.groups.iter().any(|name| &**name == group);
        self.subscribers.values().any(|s| reads(s) && (spare || !is_promising(&self.promised, s, group)))
    }

    /// Hands out what waits to who has credit, the least busy first. `hand` makes the frame and may note a span. Gives
    /// back, held no more, what has expired while it waited here.
    pub fn dispatch(
        &mut self,
        group: &str,
        (now, clock): (Instant, SystemTime),
        hand: impl Fn(&str, &mut Held, Duration) -> wire::Delivery,
    ) -> Vec<Held> {
        let mut late = Vec::new();
        if self.draining {
            return late;
        }
        let (mut spare, mut left) = (self.spare(group), self.room(group));
        while left > 0 {
            let Some(queue) = self.ready.get_mut(group) else { return late };
            let Some(id) = queue.front().cloned() else { return late };
            let promised = &self.promised;
            let free = |s: &Subscriber| {
                let reads = s.room() > 0 && s.groups.iter().any(|name| &**name == group);
                reads && (spare > 0 || !is_promising(promised, s, group))
            };
            let candidates = self.subscribers.iter_mut().map(|(id, s)| (*id, s));
            let Some((to, subscriber)) = candidates.filter(|(_, s)| free(s)).min_by_key(|(_, s)| s.out) else {
                return late;
            };
            queue.pop_front();
            let Some(held) = self.held.get_mut(&id) else { continue };
            if admit::expired(&held.fresh.head, clock).is_some() {
                late.extend(self.remove(&id).map(|held| *held));
                left = self.room(group);
                continue;
            }
            if held.is_lapsed(now) {
                // It comes again in its order.
                self.remove(&id);
                left = self.room(group);
                continue;
            }
            let delivery = hand(&id, held, held.fresh.ack_deadline);
            // There is room, so this fails only when the subscriber is gone.
            if subscriber.tx.try_send(Outgoing::Delivery(Box::new(delivery))).is_err() {
                subscriber.credit = 0;
                queue.push_front(id);
                continue;
            }
            spare -= usize::from(is_promising(promised, subscriber, group)).min(spare);
            left -= 1;
            subscriber.out += 1;
            held.state = State::Out { to, since: now, deadline: now + held.fresh.ack_deadline };
        }
        late
    }

    /// Puts deliveries back in front of their queue: they were on an answer that never left.
    pub fn unhand(&mut self, ids: &[String]) {
        for id in ids.iter().rev() {
            let Some(held) = self.held.get_mut(id.as_str()) else { continue };
            if let State::Out { to, .. } = held.state {
                held.state = State::Waiting;
                held.span = None;
                let (group, is_suspect) = (held.key.group.clone(), held.fresh.suspect.is_some());
                let queue = self.ready.entry(group).or_default();
                // Suspects stay in front.
                let is_other = |id: &Arc<str>| self.held.get(id).is_none_or(|held| held.fresh.suspect.is_none());
                let at = if is_suspect { 0 } else { queue.iter().position(is_other).unwrap_or(queue.len()) };
                queue.insert(at, id.as_str().into());
                self.release(to);
            }
        }
    }

    /// Tells all subscribers that the sidecar is about to stop.
    pub fn start_draining(&mut self) {
        self.draining = true;
        for subscriber in self.subscribers.values() {
            // A full or closed channel means the subscriber hears it from the end of its stream.
            let _ = subscriber.tx.try_send(Outgoing::Draining);
        }
    }

    pub(super) fn tell_lost(&self, id: &str, cause: &str) {
        let Some(State::Out { to, .. }) = self.held.get(id).map(|held| held.state) else { return };
        if let Some(subscriber) = self.subscribers.get(&to) {
            let fault = Fault::new(Code::LeaseLost, cause);
            let _ = subscriber.tx.try_send(Outgoing::Lost(id.to_owned(), fault));
        }
    }

    pub(super) fn release(&mut self, to: u64) {
        if let Some(subscriber) = self.subscribers.get_mut(&to) {
            subscriber.out = subscriber.out.saturating_sub(1);
        }
    }
}
