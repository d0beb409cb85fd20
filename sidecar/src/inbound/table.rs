//! The lease table: every delivery this sidecar holds, who has it, until when. Pure: time comes in, commands go out.
//!
//! A delivery waits in its group's queue until a subscriber has credit, is then *out* until it is settled, and is
//! *settling* while a retry or dead letter is being stored. All of them are extended at the broker.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::ack::{Answer, Receipt};
use agentbus_nats::grant::{GroupGrant, GroupKind};
use agentbus_nats::pull::Incoming;
use agentbus_proto::Fault;
use agentbus_proto::sidecar::wire;
use agentbus_runtime::trace::{Context, Span};
use async_nats::Subject;
use tokio::sync::mpsc;

use self::bounds::Bounds;
use super::admit::{self, Fresh};
use crate::memory::{Key, Memory, Verdict};
use rustc_hash::FxBuildHasher;

pub mod bounds;
mod look;

/// What waits and nobody asks for goes back after this long, so that other members get it.
pub const LINGER: Duration = Duration::from_secs(2);
/// What waits behind an agent that is at work goes back after this long: another member may be free. Longer, because each
/// one that goes back is a copy in the retry stream.
pub const BUSY_LINGER: Duration = Duration::from_secs(15);
/// The same in a pool: what its agent cannot take now is for whoever is free.
pub const POOL_LINGER: Duration = Duration::from_millis(200);
/// The same of a part of a keyed group: another member takes the part over. Once per event, because it counts as an attempt.
pub const PART_LINGER: Duration = Duration::from_secs(1);
/// Longest time a delivery may be held in all, however often it is extended.
pub const HOLD_MAX: Duration = Duration::from_secs(6 * 3600);
/// Payload bytes held before no more is asked for, all groups together; one event per group is taken all the same.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
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

/// One held delivery.
pub struct Held {
    /// The message.
    pub incoming: Incoming,
    /// What it is.
    pub fresh: Box<Fresh>,
    /// Its key in the ack memory.
    pub key: Key,
    /// Its group.
    pub group: Arc<GroupGrant>,
    /// Span of the agent's work, while it is out.
    pub span: Option<Span>,
    /// That span's place in the trace.
    pub context: Option<Context>,
    /// Replies stored so far, if it is an ask.
    pub replied: Replied,
    state: State,
    taken: Instant,
    /// When its lease was renewed last. Where order is kept, the broker has said so.
    extended: Instant,
    /// When that was last asked for.
    asked: Instant,
}

/// How far a delivery's replies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replied {
    /// Place of the next one.
    pub next: u32,
    /// The broker's delivery count when the delivery was taken in: stays when its lease is renewed by another one.
    pub delivered: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Out { to: u64, since: Instant, deadline: Instant },
    Settling { to: u64, since: Instant, deadline: Instant },
}

impl Held {
    /// What a move needs; the span stays with the original.
    pub fn copy(&self) -> Self {
        Self {
            incoming: self.incoming.clone(),
            fresh: self.fresh.clone(),
            key: self.key.clone(),
            group: self.group.clone(),
            span: None,
            ..*self
        }
    }

    /// A held delivery is extended this often: every 3 s with an ack wait of 10 s.
    fn extend_every(&self) -> Duration {
        self.group.ack_wait().mul_f64(0.3)
    }

    /// Where order is kept: whether its lease could not be renewed for so long that the broker may be about to give it to
    /// somebody else.
    pub fn is_lapsed(&self, now: Instant) -> bool {
        if !self.group.keeps_order() {
            return false;
        }
        let wait = self.group.ack_wait();
        let margin = (wait / 5).max(Duration::from_secs(1));
        now.saturating_duration_since(self.extended) >= wait.saturating_sub(margin)
    }

    /// After how long it goes back while it waits; `busy`: its agent is at work, not away. None = it stays.
    fn linger(&self, busy: bool) -> Option<Duration> {
        let pool = self.group.kind == GroupKind::Pool;
        match (busy, &self.group) {
            // Of an ordered group there is one at a time, and giving it back would count as an attempt.
            (true, group) if group.ordered => None,
            (true, group) if group.by_key => (self.incoming.receipt.delivered == 1).then_some(PART_LINGER),
            (_, group) if pool && !group.keeps_order() => Some(POOL_LINGER),
            (true, _) => Some(BUSY_LINGER),
            (false, _) => Some(LINGER),
        }
    }

    /// How long the agent has had it.
    pub fn worked(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Out { since, .. } | State::Settling { since, .. } => Some(now.saturating_duration_since(since)),
            State::Waiting => None,
        }
    }
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

const LAPSED: &str = "the broker could not be reached in time; the event comes again in its order";

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
    /// The agent died with it: the broker counts it.
    Crash(Box<Held>),
}

struct Subscriber {
    groups: Vec<Arc<str>>,
    credit: usize,
    out: usize,
    tx: mpsc::Sender<Outgoing>,
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

    /// How many more deliveries of a group can be taken: what its subscribers have credit for, less what waits for them.
    /// What an answered poll holds is nobody's credit any more: the agent asks again when it can take more.
    pub fn demand(&self, group: &str) -> usize {
        if self.draining || self.closed.contains(group) {
            return 0;
        }
        let reads = |subscriber: &&Subscriber| subscriber.groups.iter().any(|name| &**name == group);
        let share = |s: &Subscriber| s.credit.saturating_sub(s.out).div_ceil(s.groups.len().max(1));
        let free: usize = self.subscribers.values().filter(reads).map(share).sum();
        // Over the bound a group gets one event, so that none stands still, and no second one beside it.
        let held = self.counts.get(group).copied().unwrap_or(0);
        let free = if self.bytes >= BYTES_MAX { free.min(1usize.saturating_sub(held)) } else { free };
        let free = free.saturating_sub(self.ready.get(group).map_or(0, VecDeque::len));
        if self.bounds.is_loose() { free } else { free.min(self.bounds.room(group, self.held.len(), held)) }
    }

    /// How many more may be handed out, whatever the credit.
    fn room(&self, group: &str) -> usize {
        if self.bounds.is_loose() {
            return usize::MAX;
        }
        let out = self.held.values().filter(|held| held.state != State::Waiting);
        let (all, own) = out.fold((0, 0), |(all, own), held| (all + 1, own + usize::from(*held.key.group == *group)));
        self.bounds.room(group, all, own)
    }

    /// Takes a subscriber in.
    pub fn attach(&mut self, groups: Vec<Arc<str>>, credit: usize, tx: mpsc::Sender<Outgoing>) -> u64 {
        let id = self.next_subscriber;
        self.next_subscriber += 1;
        self.subscribers.insert(id, Subscriber { groups, credit: credit.min(CREDIT_MAX), out: 0, tx });
        id
    }

    /// Sets a subscriber's credit.
    pub fn credit(&mut self, id: u64, credit: usize) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.credit = credit.min(CREDIT_MAX);
        }
    }

    /// Lets a subscriber go.
    pub fn detach(&mut self, id: u64, how: Gone) -> Vec<Command> {
        self.subscribers.remove(&id);
        if how == Gone::Answered {
            return Vec::new();
        }
        let crash = how == Gone::Broken && !self.agent_stopping;
        let ids = self.ids(|held| matches!(held.state, State::Out { to, .. } if to == id));
        let held = ids.iter().filter_map(|id| self.lose(id));
        let to = |held| if crash { Command::Crash(held) } else { Command::GiveBack(held) };
        held.map(to).collect()
    }

    /// The agent process is gone: what it had counts as a crash, what waited goes to others.
    pub fn agent_exited(&mut self) -> Vec<Command> {
        let ids = self.ids(|held| !matches!(held.state, State::Settling { .. }));
        let mut commands = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(held) = self.lose(&id) else { continue };
            let out = matches!(held.state, State::Out { .. });
            commands.push(if out { Command::Crash(held) } else { Command::GiveBack(held) });
        }
        commands
    }

    /// What no agent has yet of this group.
    pub fn give_waiting_of(&mut self, group: &str) -> Vec<Command> {
        let ids = self.ids(|held| held.state == State::Waiting && *held.key.group == *group);
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

    /// A message that is held already only renews its lease: the broker had lost patience, the agent is still at work.
    pub fn renew(&mut self, key: &Key, receipt: &Receipt, now: Instant) -> bool {
        let Some(held) = self.by_key.get(key).and_then(|id| self.held.get_mut(id)) else { return false };
        held.incoming.receipt = receipt.clone();
        (held.extended, held.asked) = (now, now);
        true
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
        let (id, name): (Id, _) = (id.into(), key.group.clone());
        self.bytes += incoming.payload.len();
        self.by_key.insert(key.clone(), id.clone());
        *self.counts.entry(name.clone()).or_default() += 1;
        self.ready.entry(name).or_default().push_back(id.clone());
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
        };
        self.held.insert(id, Box::new(held));
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
        for _ in 0..self.room(group) {
            let Some(queue) = self.ready.get_mut(group) else { return late };
            let Some(id) = queue.front().cloned() else { return late };
            let free = |s: &Subscriber| s.out < s.credit && s.groups.iter().any(|name| &**name == group);
            let candidates = self.subscribers.iter_mut().map(|(id, s)| (*id, s));
            let Some((to, subscriber)) = candidates.filter(|(_, s)| free(s)).min_by_key(|(_, s)| s.out) else {
                return late;
            };
            queue.pop_front();
            let Some(held) = self.held.get_mut(&id) else { continue };
            if admit::expired(&held.fresh.head, clock).is_some() {
                late.extend(self.remove(&id).map(|held| *held));
                continue;
            }
            if held.is_lapsed(now) {
                // It comes again in its order.
                self.remove(&id);
                continue;
            }
            let delivery = hand(&id, held, held.fresh.ack_deadline);
            // The channel is as large as the largest credit, so this fails only when the subscriber is gone.
            if subscriber.tx.try_send(Outgoing::Delivery(Box::new(delivery))).is_err() {
                subscriber.credit = 0;
                queue.push_front(id);
                continue;
            }
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
                self.ready.entry(held.key.group.clone()).or_default().push_front(id.as_str().into());
                self.release(to);
            }
        }
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

    /// Looks after all leases: extends, ends those over their deadline, returns what nobody asks for.
    pub fn tick(&mut self, now: Instant, extend: Extend) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut over = Vec::new();
        let mut idle = Vec::new();
        let mut lapsed = Vec::new();
        for (id, held) in &mut self.held {
            match held.state {
                State::Settling { .. } => {}
                _ if held.is_lapsed(now) => {
                    lapsed.push(id.clone());
                    continue;
                }
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
        for id in idle {
            let Some(group) = self.held.get(&id).map(|held| held.key.group.clone()) else { continue };
            let Some(held) = self.held.get(&id) else { continue };
            let asked = self.subscribers.values().any(|s| s.credit > 0 && s.groups.contains(&group));
            let busy = asked && !self.subscribers.values().any(|s| s.out < s.credit && s.groups.contains(&group));
            let waited = now.duration_since(held.taken);
            if asked && !busy || held.linger(busy).is_none_or(|linger| waited < linger) {
                continue;
            }
            if let Some(held) = self.lose(&id) {
                commands.push(Command::GiveBack(held));
            }
        }
        commands
    }

    /// The broker has said that a lease was renewed; the request for it was sent `at` this time.
    pub fn renewed(&mut self, id: &str, at: Instant) {
        if let Some(held) = self.held.get_mut(id) {
            held.extended = held.extended.max(at);
        }
    }

    /// Takes a delivery away whose order can no longer be vouched for: its lease has lapsed. To be called before a settle.
    pub fn take_lapsed(&mut self, id: &str, now: Instant) {
        if self.held.get(id).is_some_and(|held| held.is_lapsed(now)) {
            self.take_away(id, LAPSED);
        }
    }

    /// Whether the lease of a delivery that is being settled has lapsed meanwhile.
    pub fn has_lapsed(&self, key: &Key, now: Instant) -> bool {
        self.by_key.get(key).and_then(|id| self.held.get(id)).is_some_and(|held| held.is_lapsed(now))
    }

    /// The broker is another one than before: what it has forgotten, it hands out again, so no order can be vouched for.
    pub fn take_ordered(&mut self) {
        for id in self.ids(|held| held.group.keeps_order() && !matches!(held.state, State::Settling { .. })) {
            self.take_away(&id, "the broker was restarted; the event comes again in its order");
        }
    }

    /// Whether a delivery of this group is held.
    pub fn holds(&self, group: &str) -> bool {
        self.counts.get(group).is_some_and(|count| *count > 0)
    }

    /// Nothing is said to the broker: it may be somebody else's by now.
    fn take_away(&mut self, id: &str, cause: &str) {
        self.tell_lost(id, cause);
        self.lose(id);
    }

    /// Tells all subscribers that the sidecar is about to stop.
    pub fn start_draining(&mut self) {
        self.draining = true;
        for subscriber in self.subscribers.values() {
            // A full or closed channel means the subscriber hears it from the end of its stream.
            let _ = subscriber.tx.try_send(Outgoing::Draining);
        }
    }

    fn tell_lost(&self, id: &str, cause: &str) {
        let Some(State::Out { to, .. }) = self.held.get(id).map(|held| held.state) else { return };
        if let Some(subscriber) = self.subscribers.get(&to) {
            let fault = Fault::new(agentbus_proto::Code::LeaseLost, cause);
            let _ = subscriber.tx.try_send(Outgoing::Lost(id.to_owned(), fault));
        }
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

    fn remove(&mut self, id: &str) -> Option<Box<Held>> {
        let held = self.held.remove(id)?;
        self.by_key.remove(&held.key);
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

    fn release(&mut self, to: u64) {
        if let Some(subscriber) = self.subscribers.get_mut(&to) {
            subscriber.out = subscriber.out.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
