//! Which dead letters have been redriven: a fold of the facts about redrives in the audit stream.
//!
//! A stream message cannot be marked, so the mark is a fact beside it. The fold begins with a [`super::snapshot`] and reads on
//! behind it, because facts that a snapshot has may be removed; nothing is read twice. An audit stream that was made again has
//! other facts under the same numbers: then they are read from the start, and what was known stays known. A dead-letter stream
//! that was made again has other letters under the same numbers: so a fact names the time at which its letter was stored as
//! well. Facts of older versions do not, and count by the number alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// All facts of the fold, below `aba.<ns>.`.
pub(super) const ABOUT_REDRIVES: &str = "dead_letter.*.v1";

/// What a fact says. The word is the middle of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is about to be sent.
    Begun,
    /// It was sent.
    Done,
    /// It was not sent after all.
    Undone,
}

impl Kind {
    /// Name of the fact, below `aba.<ns>.`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Begun => "dead_letter.redriving.v1",
            Self::Done => "dead_letter.redriven.v1",
            Self::Undone => "dead_letter.not_redriven.v1",
        }
    }

    fn of(subject: &str) -> Option<Self> {
        [Self::Begun, Self::Done, Self::Undone].into_iter().find(|kind| subject.ends_with(&format!(".{}", kind.name())))
    }
}

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

/// A letter by its number and, where the fact has it, the time at which it was stored.
pub(super) type Letter = (u64, Option<String>);

/// What is known about a letter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// It was redriven, and how.
    pub done: Option<Redriven>,
    /// A redrive was begun then, and its end is not known.
    pub begun: Option<String>,
}

/// Letters are kept in parts of this many numbers; see [`super::snapshot`].
pub(super) const PART_LETTERS: u64 = 512;

/// Part of the letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Facts up to this one are in it.
    pub as_of: u64,
    /// By letter.
    pub letters: BTreeMap<Letter, Entry>,
}

/// The fold.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Last sequence of the audit stream that was looked at.
    pub seen: u64,
    /// When the stream was made whose facts these are.
    pub created: Option<OffsetDateTime>,
    /// The snapshot was looked for.
    pub loaded: bool,
    /// The letters, by number divided by [`PART_LETTERS`].
    pub parts: HashMap<u64, Part>,
    /// Parts that are not in the snapshot as they are here.
    pub changed: BTreeSet<u64>,
}

impl Facts {
    /// Of the letter of this number that was stored at this time: how it was redriven.
    pub(super) fn of(&self, dlq_seq: u64, stored: &str) -> Option<Redriven> {
        let exact = self.entry(dlq_seq, Some(stored)).and_then(|entry| entry.done.as_ref());
        let by_number = self.entry(dlq_seq, None).and_then(|entry| entry.done.as_ref());
        let count = exact.into_iter().chain(by_number).map(|known| known.count).sum();
        // A fact with the time is younger than one without.
        exact.or(by_number).map(|last| Redriven { count, ..last.clone() })
    }

    /// Of the same: when a redrive was begun whose end is not known.
    pub(super) fn begun(&self, dlq_seq: u64, stored: &str) -> Option<String> {
        self.entry(dlq_seq, Some(stored)).and_then(|entry| entry.begun.clone())
    }

    fn entry(&self, dlq_seq: u64, stored: Option<&str>) -> Option<&Entry> {
        let part = self.parts.get(&(dlq_seq / PART_LETTERS))?;
        part.letters.get(&(dlq_seq, stored.map(str::to_owned)))
    }

    /// Compares with the stream as it is now: one that is another is read from the start, one that lost its end from there.
    /// What was known is true all the same, as far as it names its letter for certain.
    pub(super) fn of_stream(&mut self, created: OffsetDateTime, last_seq: u64) {
        let other = self.created.is_some_and(|known| known != created);
        if other || last_seq < self.seen {
            tracing::warn!(seen = self.seen, last_seq, "the audit stream was made again, or lost its end");
            self.seen = if other { 0 } else { last_seq };
            for part in self.parts.values_mut() {
                part.as_of = part.as_of.min(self.seen);
                part.letters.retain(|(_, stored), _| stored.is_some());
            }
            self.changed.extend(self.parts.keys());
        }
        self.created = Some(created);
    }

    /// Takes the fact stored at `seq`; one that was taken before, or cannot be read, changes nothing.
    pub(super) fn take(&mut self, seq: u64, subject: &str, payload: &[u8]) {
        if seq <= self.seen {
            return;
        }
        self.seen = seq;
        let Some(kind) = Kind::of(subject) else { return };
        match serde_json::from_slice(payload) {
            Ok(fact) => self.count(seq, kind, fact),
            Err(error) => tracing::warn!(seq, %error, "unreadable fact in the audit stream"),
        }
    }

    fn count(&mut self, seq: u64, kind: Kind, fact: Fact) {
        let Fact { dlq_seq, dlq_stored, to, new_stream, new_seq, at, redrive, .. } = fact;
        let number = dlq_seq / PART_LETTERS;
        let part = self.parts.entry(number).or_default();
        if seq <= part.as_of {
            return;
        }
        self.changed.insert(number);
        let entry = part.letters.entry((dlq_seq, dlq_stored)).or_default();
        entry.begun = (kind == Kind::Begun).then(|| at.clone());
        if kind == Kind::Done {
            let count = entry.done.as_ref().map_or(0, |before| before.count) + 1;
            entry.done = Some(Redriven { count, at, to, redrive, new_stream, new_seq });
        }
    }

    /// Forgets letters below this number: they are gone themselves, and numbers do not come again.
    pub(super) fn forget_below(&mut self, dlq_seq: u64) {
        for (number, part) in &mut self.parts {
            let before = part.letters.len();
            part.letters.retain(|(seq, _), _| *seq >= dlq_seq);
            if part.letters.len() < before {
                self.changed.insert(*number);
            }
        }
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

    const DONE: &str = "aba.default.dead_letter.redriven.v1";

    #[test]
    fn a_redrive_is_unfinished_until_its_end_is_known() {
        let check = |kinds: &[Kind], done: bool, begun: bool| {
            let mut facts = Facts::default();
            for (seq, kind) in (1..).zip(kinds) {
                facts.take(seq, &format!("aba.default.{}", kind.name()), &fact(7, 1));
            }
            let known = (facts.of(7, STORED).is_some(), facts.begun(7, STORED).is_some());
            assert_eq!(known, (done, begun), "{kinds:?}");
        };
        use Kind::{Begun, Done, Undone};
        check(&[Begun], false, true);
        check(&[Begun, Done], true, false);
        check(&[Begun, Undone], false, false);
        check(&[Begun, Done, Begun], true, true);
    }

    #[test]
    fn letters_that_are_gone_are_forgotten() {
        let mut facts = Facts::default();
        for (seq, letter) in [(1, 3), (2, 4), (3, 600)] {
            facts.take(seq, DONE, &fact(letter, 1));
        }
        facts.changed.clear();
        facts.forget_below(4);
        assert_eq!([3, 4, 600].map(|letter| facts.of(letter, STORED).is_some()), [false, true, true]);
        assert_eq!(facts.changed, BTreeSet::from([0]));
    }

    #[test]
    fn the_last_fact_wins_and_all_are_counted_once() {
        let mut facts = Facts::default();
        facts.take(3, DONE, &fact(7, 1));
        facts.take(3, DONE, &fact(7, 1));
        facts.take(4, DONE, b"junk");
        facts.take(5, DONE, &fact(7, 2));
        let last = facts.of(7, STORED).unwrap();
        assert_eq!((last.count, last.new_seq, facts.seen), (2, 2, 5));
        assert_eq!(facts.of(8, STORED), None);
    }

    #[test]
    fn a_letter_of_the_same_number_in_a_stream_made_again_is_another() {
        let mut facts = Facts::default();
        facts.take(1, DONE, &fact(7, 1));
        let count = |facts: &Facts, stored| facts.of(7, stored).map(|last| (last.count, last.new_seq));
        assert_eq!((count(&facts, STORED), count(&facts, "later")), (Some((1, 1)), None));
        facts.take(2, DONE, &fact_of(7, Some("later"), 2));
        assert_eq!((count(&facts, STORED), count(&facts, "later")), (Some((1, 1)), Some((1, 2))));
    }

    #[test]
    fn a_fact_without_the_time_counts_by_the_number() {
        let mut facts = Facts::default();
        let old = fact_of(7, None, 1);
        assert!(!String::from_utf8_lossy(&old).contains("dlq_stored"));
        facts.take(1, DONE, &old);
        assert_eq!(facts.of(7, STORED).map(|last| (last.count, last.new_seq)), Some((1, 1)));
        facts.take(2, DONE, &fact(7, 2));
        assert_eq!(facts.of(7, STORED).map(|last| (last.count, last.new_seq)), Some((2, 2)));
    }

    #[test]
    fn a_stream_made_again_is_read_from_the_start_and_what_was_known_stays_known() {
        let (first, second) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND);
        let mut facts = Facts::default();
        facts.of_stream(first, 9);
        facts.take(5, DONE, &fact(7, 1));
        facts.changed.clear();
        let mut check = |created, last_seq, seen: u64| {
            facts.of_stream(created, last_seq);
            assert_eq!((facts.of(7, STORED).is_some(), facts.seen), (true, seen), "{last_seq}");
            assert_eq!(facts.changed.is_empty(), seen == 5, "{last_seq}");
        };
        check(first, 9, 5);
        check(first, 5, 5);
        check(first, 4, 4);
        check(second, 9, 0);
        facts.take(1, DONE, &fact(7, 2));
        assert_eq!(facts.of(7, STORED).map(|last| (last.count, last.new_seq)), Some((2, 2)));
    }

    #[test]
    fn a_fact_without_the_time_does_not_outlive_its_stream() {
        let (first, second) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND);
        let mut facts = Facts::default();
        facts.of_stream(first, 9);
        facts.take(5, DONE, &fact_of(7, None, 1));
        facts.of_stream(second, 9);
        assert_eq!(facts.of(7, STORED), None);
    }
}
