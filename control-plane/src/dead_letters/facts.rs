//! Which dead letters have been redriven: a fold of the facts `dead_letter.redriven.v1` in the audit stream.
//!
//! A stream message cannot be marked, so the mark is a fact beside it. The fold goes on where it stopped; facts are small
//! and never removed, so nothing is read twice. An audit stream that was made again has other facts under the same numbers:
//! then the fold begins anew. A dead-letter stream that was made again has other letters under the same numbers: so a fact
//! names the time at which its letter was stored as well. Facts of older versions do not, and count by the number alone.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Name of the fact, below `aba.<ns>.`.
pub(super) const REDRIVEN: &str = "dead_letter.redriven.v1";

/// Where a redriven event goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// To the group that failed, and nobody else.
    #[default]
    Group,
    /// To its original address, as if it were sent again: every group there gets it.
    Origin,
}

impl Target {
    /// The word in requests and facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Origin => "origin",
        }
    }
}

/// That and how a dead letter was redriven; of several times, the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// How often this dead letter was redriven.
    pub count: u32,
    /// When, RFC 3339.
    pub at: String,
    /// Where to.
    pub to: Target,
    /// What the new message says about how often the event was redriven in all.
    pub redrive: u32,
    /// Stream of the new message.
    pub new_stream: String,
    /// Its number there.
    pub new_seq: u64,
}

/// The fact as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fact {
    pub dlq_seq: u64,
    /// When the dead letter was stored, RFC 3339 with milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dlq_stored: Option<String>,
    pub group: String,
    pub to: Target,
    pub new_stream: String,
    pub new_seq: u64,
    /// Who asked for it.
    pub by: String,
    pub at: String,
    pub redrive: u32,
}

/// The fold.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Last sequence of the audit stream that was looked at.
    pub seen: u64,
    /// When the stream was made whose facts these are.
    created: Option<OffsetDateTime>,
    /// By number and, where the fact has it, time of storing.
    redriven: HashMap<(u64, Option<String>), Redriven>,
}

impl Facts {
    /// What is known about the letter of this number that was stored at this time.
    pub(super) fn of(&self, dlq_seq: u64, stored: &str) -> Option<Redriven> {
        let exact = self.redriven.get(&(dlq_seq, Some(stored.to_owned())));
        let by_number = self.redriven.get(&(dlq_seq, None));
        let count = exact.into_iter().chain(by_number).map(|known| known.count).sum();
        // A fact with the time is younger than one without.
        exact.or(by_number).map(|last| Redriven { count, ..last.clone() })
    }

    /// Compares with the stream as it is now: one that is another, or lost its end, is read from the start.
    pub(super) fn of_stream(&mut self, created: OffsetDateTime, last_seq: u64) {
        let other = self.created.is_some_and(|known| known != created);
        if other || last_seq < self.seen {
            tracing::warn!(seen = self.seen, last_seq, "the audit stream was made again: reading it from the start");
            *self = Self::default();
        }
        self.created = Some(created);
    }

    /// Takes the fact stored at `seq`; one that was taken before, or cannot be read, changes nothing.
    pub(super) fn take(&mut self, seq: u64, payload: &[u8]) {
        if seq <= self.seen {
            return;
        }
        self.seen = seq;
        match serde_json::from_slice(payload) {
            Ok(fact) => self.count(fact),
            Err(error) => tracing::warn!(seq, %error, "unreadable fact in the audit stream"),
        }
    }

    fn count(&mut self, fact: Fact) {
        let Fact { dlq_seq, dlq_stored, to, new_stream, new_seq, at, redrive, .. } = fact;
        let letter = (dlq_seq, dlq_stored);
        let count = self.redriven.get(&letter).map_or(0, |before| before.count) + 1;
        self.redriven.insert(letter, Redriven { count, at, to, redrive, new_stream, new_seq });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = "2026-11-20T09:00:00.001Z";

    fn fact(dlq_seq: u64, new_seq: u64) -> Vec<u8> {
        fact_of(dlq_seq, Some(STORED), new_seq)
    }

    fn fact_of(dlq_seq: u64, stored: Option<&str>, new_seq: u64) -> Vec<u8> {
        let fact = Fact {
            dlq_seq,
            dlq_stored: stored.map(str::to_owned),
            group: "readers".into(),
            to: Target::Group,
            new_stream: "AB_default_RETRY".into(),
            new_seq,
            by: "api".into(),
            at: "2026-11-20T10:00:00Z".into(),
            redrive: 1,
        };
        serde_json::to_vec(&fact).unwrap()
    }

    #[test]
    fn the_last_fact_wins_and_all_are_counted_once() {
        let mut facts = Facts::default();
        facts.take(3, &fact(7, 1));
        facts.take(3, &fact(7, 1));
        facts.take(4, b"junk");
        facts.take(5, &fact(7, 2));
        let last = facts.of(7, STORED).unwrap();
        assert_eq!((last.count, last.new_seq, facts.seen), (2, 2, 5));
        assert_eq!(facts.of(8, STORED), None);
    }

    #[test]
    fn a_letter_of_the_same_number_in_a_stream_made_again_is_another() {
        let mut facts = Facts::default();
        facts.take(1, &fact(7, 1));
        let count = |facts: &Facts, stored| facts.of(7, stored).map(|last| (last.count, last.new_seq));
        assert_eq!((count(&facts, STORED), count(&facts, "later")), (Some((1, 1)), None));
        facts.take(2, &fact_of(7, Some("later"), 2));
        assert_eq!((count(&facts, STORED), count(&facts, "later")), (Some((1, 1)), Some((1, 2))));
    }

    #[test]
    fn a_fact_without_the_time_counts_by_the_number() {
        let mut facts = Facts::default();
        let old = fact_of(7, None, 1);
        assert!(!String::from_utf8_lossy(&old).contains("dlq_stored"));
        facts.take(1, &old);
        assert_eq!(facts.of(7, STORED).map(|last| (last.count, last.new_seq)), Some((1, 1)));
        facts.take(2, &fact(7, 2));
        assert_eq!(facts.of(7, STORED).map(|last| (last.count, last.new_seq)), Some((2, 2)));
    }

    #[test]
    fn a_stream_made_again_is_read_from_the_start() {
        let (first, second) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND);
        let mut facts = Facts::default();
        facts.of_stream(first, 9);
        facts.take(5, &fact(7, 1));
        let check = |facts: &mut Facts, created, last_seq, kept: bool| {
            facts.of_stream(created, last_seq);
            assert_eq!((facts.of(7, STORED).is_some(), facts.seen), (kept, if kept { 5 } else { 0 }), "{last_seq}");
        };
        check(&mut facts, first, 9, true);
        check(&mut facts, first, 5, true);
        check(&mut facts, first, 4, false);
        facts.take(5, &fact(7, 1));
        check(&mut facts, second, 9, false);
        facts.take(5, &fact(7, 1));
        check(&mut facts, second, 9, true);
    }
}
