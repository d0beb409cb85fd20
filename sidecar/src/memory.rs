//! Ack memory: what was settled lately, so that a redelivery after a lost ack is answered without the agent, and a
//! settle repeated by the agent gets the same answer.

use std::collections::{HashMap, VecDeque};

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
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Acked.
    Acked,
    /// A retry copy is stored.
    Nacked,
    /// A dead letter is stored.
    Dead,
    /// To be dead-lettered when it comes again: the dead-letter stream was not available.
    Rejected(String),
    /// Taken from the agent: deadline over, or given back. Not an answer for a redelivery.
    Lost,
}

/// The last so many verdicts.
pub struct Memory {
    verdicts: HashMap<Key, Verdict>,
    order: VecDeque<Key>,
    entries_max: usize,
}

impl Memory {
    /// Bounded by `entries_max` entries of about 100 bytes; memory grows only as they come.
    pub fn new(entries_max: usize) -> Self {
        Self { verdicts: HashMap::new(), order: VecDeque::new(), entries_max: entries_max.max(1) }
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

    /// How a message ended, if that is still known.
    pub fn verdict(&self, key: &Key) -> Option<&Verdict> {
        self.verdicts.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: u64) -> Key {
        Key { group: "g".into(), source: Source::Events, seq }
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
}
