//! What is under way without an answer, in the order in which it was given, and what may be sent when. Decides only: time
//! comes in, and nothing is sent here.
//!
//! As long as all is well a message is sent when it comes, however many have no answer yet. When a connection is lost, or no
//! stream answers, the messages of that stream are *held*: the oldest is sent again alone, so that nothing is stored before
//! it; once a stream has answered it, the others follow in their order; and until they are all out, new ones are not taken.
//! Streams do not wait for each other: they are told apart by the first token of their subjects.

use std::collections::BTreeMap;
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{Message, Stored, pack, unpack};

/// When a message that no stream took is tried again.
const ABSENT_WAIT: Duration = Duration::from_millis(100);

/// What became of a message.
pub type Outcome = Result<Stored, Fault>;

/// A message without an answer yet.
pub struct Slot {
    subject: String,
    /// Packed: a map's clone would be a dozen allocations, for something that is hardly ever used.
    headers: String,
    payload: Bytes,
    answer: oneshot::Sender<Outcome>,
    place: Place,
    /// Given up then.
    deadline: Instant,
    /// The stream's absence, as told by the last answer.
    refused: Option<Fault>,
    /// It was sent and that was not answered: it may be stored, whatever is said of it later.
    unanswered: bool,
    /// Its bytes of what may be under way; free again with the answer, whoever reads it and when.
    _room: OwnedSemaphorePermit,
}

enum Place {
    /// Sent; again then, if there is no answer.
    Sent { again: Instant },
    /// To be sent again, not before then.
    Due { at: Instant },
}

/// Messages of one stream that wait to be sent again.
struct Held {
    stream: String,
    /// The oldest was sent alone and is not answered.
    probe: Option<u64>,
    /// A stream has answered: the others may follow.
    open: bool,
}

/// All that is under way on one publisher.
#[derive(Default)]
pub struct Queue {
    /// By number, in the order in which they were given.
    slots: BTreeMap<u64, Slot>,
    next: u64,
    held: Vec<Held>,
}

impl Slot {
    /// For a message that is sent now.
    pub fn new(
        message: &Message,
        answer: oneshot::Sender<Outcome>,
        room: OwnedSemaphorePermit,
        again: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            subject: message.subject.clone(),
            headers: pack(&message.headers),
            payload: message.payload.clone(),
            answer,
            place: Place::Sent { again },
            deadline,
            refused: None,
            unanswered: false,
            _room: room,
        }
    }

    /// Tells whoever waits for it that it is stored, or as [`Slot::refuse`] does.
    pub fn end(self, outcome: Outcome) {
        match outcome {
            Err(fault) => self.refuse(fault),
            stored => self.tell(stored),
        }
    }

    fn tell(self, outcome: Outcome) {
        // The caller may have given up.
        let _ = self.answer.send(outcome);
    }

    fn message(&self) -> Message {
        Message { subject: self.subject.clone(), headers: unpack(&self.headers), payload: self.payload.clone() }
    }

    /// Tells whoever waits for it that it is refused. That is certain only if no send of it is unanswered.
    pub fn refuse(self, fault: Fault) {
        let fault = if self.unanswered { unknown() } else { fault };
        self.tell(Err(fault));
    }

    /// Tells whoever waits for it that no more is tried.
    pub fn give_up(mut self) {
        match (&self.place, self.refused.take()) {
            (Place::Due { .. }, Some(refused)) => self.refuse(refused),
            _ => self.tell(Err(unknown())),
        }
    }
}

impl Queue {
    /// Takes a message that is sent now, and tells its number; leaves it where it is when it would pass what is held.
    pub fn insert(&mut self, slot: &mut Option<Slot>) -> Option<u64> {
        let stream = stream(&slot.as_ref()?.subject);
        if self.held.iter().any(|held| held.stream == stream) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.slots.insert(number, slot.take()?);
        Some(number)
    }

    /// Messages without an answer.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Tells what was given by now from what comes later, for [`Queue::open_before`].
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// Whether a message that was given before the mark, to the stream of `subject`, is without an answer.
    pub fn open_before(&self, mark: u64, subject: &str) -> bool {
        let stream = stream(subject);
        self.slots.range(..mark).any(|(_, slot)| self::stream(&slot.subject) == stream)
    }

    /// There is another connection: what has no answer is sent again on it.
    pub fn connected(&mut self, now: Instant) {
        self.held.clear();
        for slot in self.slots.values_mut() {
            slot.unanswered |= matches!(slot.place, Place::Sent { .. });
            slot.place = Place::Due { at: now };
            hold(&mut self.held, &slot.subject);
        }
    }

    /// It has its answer, or nobody waits for it any more.
    pub fn remove(&mut self, number: u64) -> Option<Slot> {
        let slot = self.slots.remove(&number)?;
        if let Some(held) = self.held.iter_mut().find(|held| held.probe == Some(number)) {
            held.probe = None;
        }
        Some(slot)
    }

    /// A stream answered it.
    pub fn answered(&mut self, number: u64) -> Option<Slot> {
        if let Some(held) = self.held.iter_mut().find(|held| held.probe == Some(number)) {
            held.open = true;
        }
        self.remove(number)
    }

    /// No stream answered: no leader just now, or the broker is coming up. Gives the message back when it is too late to
    /// try again.
    pub fn absent(&mut self, number: u64, fault: Fault, now: Instant) -> Option<Slot> {
        let slot = self.slots.get_mut(&number)?;
        (slot.place, slot.refused) = (Place::Due { at: now + ABSENT_WAIT }, Some(fault));
        let held = hold(&mut self.held, &slot.subject);
        (held.probe, held.open) = (held.probe.filter(|probe| *probe != number), false);
        if now < slot.deadline { None } else { self.slots.remove(&number) }
    }

    /// Takes out everything on a subject.
    pub fn refused(&mut self, subject: &str) -> Vec<Slot> {
        self.take(|slot| slot.subject == subject)
    }

    /// Takes out what is over its deadline.
    pub fn expired(&mut self, now: Instant) -> Vec<Slot> {
        self.take(|slot| now >= slot.deadline)
    }

    fn take(&mut self, of: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let numbers: Vec<u64> = self.slots.iter().filter(|(_, slot)| of(slot)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// What is to be sent again now, in order. Each is noted with [`Queue::sent`] before it is sent.
    pub fn due(&self, now: Instant) -> Vec<(u64, Message)> {
        let mut due = Vec::new();
        // Of a stream that is held only the oldest that waits is looked at.
        let mut looked = vec![false; self.held.len()];
        for (number, slot) in &self.slots {
            let index = self.held.iter().position(|held| held.stream == stream(&slot.subject));
            let held = index.map(|index| &self.held[index]).filter(|held| !held.open);
            let goes = match (&slot.place, held) {
                (Place::Sent { again }, None) => now >= *again,
                (Place::Sent { again }, Some(held)) => held.probe == Some(*number) && now >= *again,
                (Place::Due { at }, Some(held)) => {
                    let first =
                        held.probe.is_none() && index.is_some_and(|at| !std::mem::replace(&mut looked[at], true));
                    first && now >= *at
                }
                (Place::Due { .. }, None) => true,
            };
            if goes {
                due.push((*number, slot.message()));
            }
        }
        due
    }

    /// Notes that a message is sent once more; after silence the outcome of the first send is unknown.
    pub fn sent(&mut self, number: u64, again: Instant) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.unanswered |= matches!(slot.place, Place::Sent { .. });
        slot.place = Place::Sent { again };
        let held = self.held.iter_mut().find(|held| held.stream == stream(&slot.subject));
        if let Some(held) = held.filter(|held| !held.open) {
            held.probe = Some(number);
        }
    }

    /// The connection did not take it after all.
    pub fn not_sent(&mut self, number: u64, now: Instant) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        // Some of it may have been written.
        (slot.place, slot.unanswered) = (Place::Due { at: now }, true);
        let held = hold(&mut self.held, &slot.subject);
        held.probe = held.probe.filter(|probe| *probe != number);
    }

    /// Ends the hold on streams of which nothing waits any more; true when there were some.
    pub fn release(&mut self) -> bool {
        let (before, slots) = (self.held.len(), &self.slots);
        self.held.retain(|held| {
            let waits = |slot: &Slot| matches!(slot.place, Place::Due { .. }) && stream(&slot.subject) == held.stream;
            held.probe.is_some() || slots.values().any(waits)
        });
        self.held.len() < before
    }

    /// Whether a stream has answered of which messages are held.
    pub fn may_go(&self) -> bool {
        self.held.iter().any(|held| held.open)
    }
}

fn hold<'a>(held: &'a mut Vec<Held>, subject: &str) -> &'a mut Held {
    let stream = stream(subject);
    let index = held.iter().position(|held| held.stream == stream).unwrap_or_else(|| {
        held.push(Held { stream: stream.to_owned(), probe: None, open: false });
        held.len() - 1
    });
    &mut held[index]
}

/// What tells streams apart: the first token (see `subject`).
fn stream(subject: &str) -> &str {
    subject.split('.').next().unwrap_or_default()
}

/// Nothing was heard of a message that was sent.
pub fn unknown() -> Fault {
    let why = "no answer from the broker: the event may or may not be stored; publish it again with the same id";
    Fault::new(Code::OutcomeUnknown, why)
}

#[cfg(test)]
mod tests;
