//! The asks that wait for replies, and what each reply means to its asker. Pure: replies come in, what is to be handed on
//! comes out.
//!
//! A reply may come twice (by subscription and when missed ones are looked for) and out of order; the asker sees each once
//! and in order. The first group to reply is heard. When its handling of the ask begins anew, after a crash or a nack,
//! the replies begin anew with it, at index 0; a handling before the one that is heard is not heard any more. An id may be
//! asked again once its ask is over: each ask has a number of its own, so that whoever ends one cannot end the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use agentbus_nats::grant::Directory;
use agentbus_proto::event::v1::ReplyInfo;
use agentbus_proto::{Address, Code, EventHead, Fault};
use agentbus_runtime::trace::Context;
use bytes::Bytes;

use super::room::{Room, Share};

/// Asks of one sidecar under way at once.
pub const ASKS_MAX: usize = 1000;
/// Replies to one ask that may wait for one before them.
const AHEAD_MAX: usize = 256;
/// Bytes of them; anybody who is asked may send them.
const AHEAD_BYTES_MAX: usize = 16 << 20;

/// One reply, read but not looked at.
#[derive(Debug)]
pub struct Reply {
    /// The event as it was stored.
    pub event: Bytes,
    /// Its head; `reply` is set in it.
    pub head: EventHead,
    /// What ties it to its ask.
    pub info: ReplyInfo,
    /// The trace it belongs to.
    pub context: Option<Context>,
    /// Its part of what all asks may hold: kept for as long as anything of it is. None before it is taken in.
    pub share: Option<Share>,
}

impl Reply {
    /// What the replying agent says went wrong.
    pub fn failure(&self) -> Option<Fault> {
        let ReplyInfo { error_code, error_message, .. } = &self.info;
        if error_code.is_empty() {
            return None;
        }
        let words = if error_message.is_empty() { String::new() } else { format!(": {error_message}") };
        Some(Fault::new(Code::ReplyFailed, format!("`@{}` replied {error_code}{words}", self.head.source)))
    }
}

/// Who may reply to an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answerers {
    /// It went to a topic or a channel: whoever reads it.
    Anybody,
    /// These agents.
    These(BTreeSet<String>),
}

impl Answerers {
    /// An agent and who stands in for it, directly or for another one that does; the members of a pool; anybody who reads a topic or a channel.
    pub fn of(to: &Address, directory: &Directory) -> Self {
        let Address::Agent(name) = to else { return Self::Anybody };
        let mut these = BTreeSet::from([name.clone()]);
        these.extend(directory.pools.get(name).into_iter().flatten().cloned());
        let mut next = directory.agents.get(name);
        while let Some(fallback) = next.filter(|fallback| !fallback.is_empty() && these.insert((*fallback).clone())) {
            next = directory.agents.get(fallback);
        }
        Self::These(these)
    }

    fn has(&self, agent: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::These(these) => these.contains(agent),
        }
    }
}

/// What became of a reply.
#[derive(Debug)]
pub enum Taken<T> {
    /// For the asker, in order; the last of them may be the final one, and then the ask is over.
    Ready {
        /// Where they go.
        to: T,
        /// Number of the ask.
        number: u64,
        /// They.
        replies: Vec<Reply>,
    },
    /// One before it is missing.
    Ahead,
    /// Seen before, replaced, or of a group that was not the first.
    Passed,
    /// Nobody here waits for it (any more).
    Unasked,
    /// From an agent that was not asked.
    Foreign,
    /// There is no room for it; its ask is over.
    Overrun,
}

/// One ask that waits. `T` is where its replies go.
struct Waiting<T> {
    to: T,
    number: u64,
    since: SystemTime,
    answerers: Answerers,
    run: Option<Run>,
}

/// The handling that is being heard.
struct Run {
    group: String,
    /// Greater than those before it.
    name: String,
    next: u32,
    ahead: BTreeMap<u32, Reply>,
}

/// All asks of one sidecar, by event id.
pub struct Table<T> {
    asks: HashMap<String, Waiting<T>>,
    /// Number of the next ask.
    next: u64,
    room: Room,
}

impl<T: Clone> Table<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { asks: HashMap::new(), next: 0, room: Room::new() }
    }

    /// Takes an ask in and gives its number. `RATE_LIMITED` when there are too many or their replies fill the room,
    /// `INVALID_EVENT` when this one is waiting already.
    pub fn open(&mut self, id: &str, answerers: Answerers, since: SystemTime, to: T) -> Result<u64, Fault> {
        if self.asks.contains_key(id) {
            let why = format!("an ask with the id `{id}` is waiting for its reply already");
            return Err(Fault::new(Code::InvalidEvent, why));
        }
        if self.asks.len() >= ASKS_MAX {
            let why =
                format!("{ASKS_MAX} asks of this agent are waiting for replies; ask again when some are answered");
            return Err(Fault::new(Code::RateLimited, why).with_retry_after(std::time::Duration::from_secs(1)));
        }
        self.room.check()?;
        let number = self.next;
        self.next += 1;
        let waiting = Waiting { to, number, since, answerers, run: None };
        self.asks.insert(id.to_owned(), waiting);
        Ok(number)
    }

    /// Forgets an ask: it is over, or nobody waits any more. A later one with the same id stays.
    pub fn close(&mut self, id: &str, number: u64) {
        if self.asks.get(id).is_some_and(|waiting| waiting.number == number) {
            self.asks.remove(id);
        }
    }

    /// Asks that wait, and since when.
    pub fn waiting(&self) -> Vec<(String, SystemTime)> {
        self.asks.iter().map(|(id, waiting)| (id.clone(), waiting.since)).collect()
    }

    /// Decides about a reply.
    pub fn take(&mut self, mut reply: Reply) -> Taken<T> {
        let Some(waiting) = self.asks.get_mut(&reply.info.request_id) else { return Taken::Unasked };
        if !waiting.answerers.has(&reply.head.source) {
            return Taken::Foreign;
        }
        let ReplyInfo { group, run: name, index, .. } = &reply.info;
        let run = waiting.run.get_or_insert_with(|| Run::new(group, name));
        if run.group != *group || *name < run.name {
            return Taken::Passed;
        }
        if *name > run.name {
            *run = Run::new(group, name);
        }
        let index = *index;
        if index < run.next || run.ahead.contains_key(&index) {
            return Taken::Passed;
        }
        if index > run.next && run.is_full(reply.event.len()) {
            // It is stored, and found when missed ones are looked for.
            return Taken::Ahead;
        }
        reply.share = self.room.take(reply.event.len());
        if reply.share.is_none() {
            self.asks.remove(&reply.info.request_id);
            return Taken::Overrun;
        }
        run.ahead.insert(index, reply);
        let replies = run.ready();
        let Some(last) = replies.last() else { return Taken::Ahead };
        let (to, number) = (waiting.to.clone(), waiting.number);
        if last.info.r#final {
            let id = last.info.request_id.clone();
            self.asks.remove(&id);
        }
        Taken::Ready { to, number, replies }
    }
}

impl Run {
    fn new(group: &str, name: &str) -> Self {
        Self { group: group.to_owned(), name: name.to_owned(), next: 0, ahead: BTreeMap::new() }
    }

    /// Whether there is no room for one more reply that has to wait.
    fn is_full(&self, bytes: usize) -> bool {
        let waiting: usize = self.ahead.values().map(|reply| reply.event.len()).sum();
        self.ahead.len() >= AHEAD_MAX || waiting + bytes > AHEAD_BYTES_MAX
    }

    /// Those that come next, up to a final one.
    fn ready(&mut self) -> Vec<Reply> {
        let mut ready = Vec::new();
        while let Some(reply) = self.ahead.remove(&self.next) {
            self.next += 1;
            let last = reply.info.r#final;
            ready.push(reply);
            if last {
                break;
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests;
