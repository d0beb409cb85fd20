//! Ack memory: what was settled lately, so that a redelivery after a lost ack is answered without the agent, and a
//! settle repeated by the agent gets the same answer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use agentbus_nats::moves::Class;
use agentbus_nats::publisher::Stored;
use rustc_hash::FxBuildHasher;

/// Ids of emitted events remembered for repeated settles; about 200 bytes each.
const EMITTED_IDS_MAX: usize = 20_000;

/// What an ack emitted: ids and where they are stored.
pub type Emitted = Arc<[(String, Stored)]>;

/// Which stream of the namespace a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The events stream.
    Events,
    /// The retry stream.
    Retry,
}

/// A stored message as one group sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Group.
    pub group: std::sync::Arc<str>,
    /// Stream.
    pub source: Source,
    /// Sequence in it.
    pub seq: u64,
    /// When it was stored: after a broker lost its store, sequences begin anew and mean other messages.
    pub stored_at: SystemTime,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Acked.
    Acked,
    /// A retry copy is stored.
    Nacked,
    /// Nacked in place: the broker delivers it again. Not an answer for a redelivery.
    Later,
    /// A dead letter is stored.
    Dead,
    /// To be dead-lettered when it comes again: the dead-letter stream was not available.
    ToPark(Class, String),
    /// Taken from the agent: deadline over, or given back. Not an answer for a redelivery.
    Lost,
    /// Its agent died with it, and it stays where it is: handed out alone when it comes again.
    Died,
    /// Taken from the agent, and its successor is stored: a redelivery is one too many.
    Moved,
}

/// The last so many verdicts.
pub struct Memory {
    verdicts: HashMap<Key, Verdict, FxBuildHasher>,
    order: VecDeque<Key>,
    entries_max: usize,
    emitted: VecDeque<(Key, Emitted)>,
    emitted_ids: usize,
}

impl Memory {
    /// Bounded by `entries_max` entries of about 100 bytes; memory grows only as they come.
    pub fn new(entries_max: usize) -> Self {
        Self {
            verdicts: HashMap::default(),
            order: VecDeque::new(),
            entries_max: entries_max.max(1),
            emitted: VecDeque::new(),
            emitted_ids: 0,
        }
    }

    /// Remembers a verdict, in place of an earlier one.
    pub fn remember(&mut self, key: Key, verdict: Verdict) {
        if self.verdicts.insert(key.clone(), verdict).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.entries_max
                && let Some(oldest) = self.order.pop_front()
            {
                self.verdicts.remove(&oldest);
            }
        }
    }

    /// Remembers what an ack emitted; the oldest are forgotten first.
    pub fn remember_emitted(&mut self, key: Key, emitted: Emitted) {
        self.emitted_ids += emitted.len();
        self.emitted.push_back((key, emitted));
        while self.emitted_ids > EMITTED_IDS_MAX
            && let Some((_, oldest)) = self.emitted.pop_front()
        {
            self.emitted_ids -= oldest.len();
        }
    }

    /// What the ack of a message emitted, if that is still known.
    pub fn emitted(&self, key: &Key) -> Option<Emitted> {
        // A look at all of them, for repeated settles only.
        self.emitted.iter().rev().find(|(other, _)| other == key).map(|(_, emitted)| emitted.clone())
    }

    /// How a message ended, if that is still known.
    pub fn verdict(&self, key: &Key) -> Option<&Verdict> {
        self.verdicts.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: u64) -> Key {
        Key { group: "g".into(), source: Source::Events, seq, stored_at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut memory = Memory::new(2);
        memory.remember(key(1), Verdict::Acked);
        memory.remember(key(2), Verdict::Lost);
        memory.remember(key(2), Verdict::Acked);
        assert_eq!(memory.verdict(&key(1)), Some(&Verdict::Acked));
        memory.remember(key(3), Verdict::Nacked);
        assert_eq!(memory.verdict(&key(1)), None);
        assert_eq!(memory.verdict(&key(2)), Some(&Verdict::Acked));
        assert_eq!(memory.verdict(&key(3)), Some(&Verdict::Nacked));
    }

    #[test]
    fn what_was_emitted_is_bounded_by_its_ids() {
        let stored = Stored { stream: "S".into(), seq: 1, duplicate: false };
        let many = |count: usize| -> Emitted { vec![("id".to_owned(), stored.clone()); count].into() };
        let mut memory = Memory::new(2);
        memory.remember_emitted(key(1), many(EMITTED_IDS_MAX / 2));
        memory.remember_emitted(key(2), many(EMITTED_IDS_MAX / 2));
        assert!(memory.emitted(&key(1)).is_some());
        memory.remember_emitted(key(3), many(1));
        assert_eq!((memory.emitted(&key(1)), memory.emitted(&key(3)).map(|ids| ids.len())), (None, Some(1)));
    }
}
