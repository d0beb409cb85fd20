//! Reads the dead-letter stream: pages, counts by cause, one letter in full.
//!
//! Letters are fetched one by one with direct gets that carry the filter, so memory holds one payload at a time and the
//! broker skips what is not wanted. Every walk is bounded and says where to go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use agentbus_nats::bus::{Bus, StreamInfo};
use agentbus_nats::identity::Authority;
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_nats::read::Record;
use agentbus_nats::subject;
use agentbus_proto::event::v1::Event;
use agentbus_proto::{Code, Fault, json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use super::facts::{ABOUT_REDRIVES, Facts, Redriven};
use super::filter::{Filter, Matcher};
use super::letter::{DeadLetter, Stored};
use super::snapshot;

/// Letters of one page at most.
const PAGE_MAX: usize = 1000;
/// Letters looked at for one page: about 2 s of the broker's time.
const SCANNED_MAX: usize = 10_000;
/// Different causes counted. Causes are free text; past this, counting stops to be a summary.
const CAUSES_MAX: usize = 1000;
/// Snapshots read one after the other, because facts were removed behind a newer one meanwhile.
const LOADS_MAX: usize = 3;

/// The dead letters of a namespace.
pub struct DeadLetters {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) names: Names,
    /// Seals the ids of redrives.
    pub(super) secret: String,
    /// Held across reads of the audit stream on purpose: it is the turn to decide, so that two redrives of one letter
    /// see each other's fact.
    pub(super) facts: Arc<Mutex<Facts>>,
}

/// What seals the ids of redrives.
pub fn redrive_secret(authority: &Authority) -> Result<String, Fault> {
    let bad = |error| Fault::new(Code::BadConfig, format!("cannot derive the secret for redrives: {error}"));
    authority.secret("control-plane", "redrive").map_err(bad)
}

/// Part of the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// In the order in which they were given up.
    pub letters: Vec<DeadLetter>,
    /// Set when there may be more: ask again with this as `after`.
    pub next: Option<u64>,
}

/// Counts by group, class and cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Causes {
    /// Most frequent first.
    pub causes: Vec<Cause>,
    /// Not all letters were counted: there are too many of them, or of different causes.
    pub truncated: bool,
}

/// Dead letters of one group, class and cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Group that gave them up.
    pub group: String,
    /// Class.
    pub class: String,
    /// Cause, one line.
    pub cause: String,
    /// How many wait for a decision.
    pub open: u64,
    /// How many have been redriven.
    pub redriven: u64,
    /// Last time one was added, RFC 3339; empty when unknown.
    pub last_failure: String,
    /// One of them, to look at: the newest.
    pub last_seq: u64,
}

/// One dead letter in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// As in lists.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// The event in its JSON form; none when the payload is no event.
    pub event: Option<Value>,
    /// The payload byte for byte, in base64.
    pub payload_base64: String,
}

impl DeadLetters {
    /// `bus` needs the control plane's rights. `secret` is known to the control plane only and stays
    /// the same over restarts, see [`redrive_secret`].
    pub fn new(bus: Arc<dyn Bus>, names: Names, secret: String) -> Self {
        Self { bus, names, secret, facts: Arc::default() }
    }

    /// Up to `limit` letters (at most 1000) that match, behind number `after`.
    pub async fn list(&self, filter: &Filter, limit: usize, after: u64) -> Result<Page, Fault> {
        let mut walk = self.walk(filter.compile(self.names.namespace())?, after, None).await?;
        let mut letters = Vec::new();
        while letters.len() < limit.clamp(1, PAGE_MAX) {
            match walk.next().await? {
                Some((_, letter)) => letters.push(letter),
                None => break,
            }
        }
        Ok(Page { letters, next: walk.next_after() })
    }

    /// Counts all letters by group, class and cause, those that have been redriven apart.
    pub async fn causes(&self) -> Result<Causes, Fault> {
        let everything = Filter { all: true, ..Filter::default() };
        let mut walk = self.walk(everything.compile(self.names.namespace())?, 0, None).await?;
        let mut counts = Counts::default();
        while let Some((_, letter)) = walk.next().await? {
            counts.add(letter);
        }
        let truncated = counts.truncated || walk.next_after().is_some();
        Ok(Causes { causes: counts.sorted(), truncated })
    }

    /// One letter in full. `UNKNOWN_DELIVERY` when there is none with this number.
    pub async fn show(&self, seq: u64) -> Result<Shown, Fault> {
        let stored = self.get(seq).await?;
        self.refresh(&mut *self.facts.lock().await).await?;
        let letter = self.known(&stored).await;
        let event = Event::decode(stored.event()).ok().filter(|_| !letter.undecodable);
        let headers = stored.headers.iter().map(|(name, values)| {
            let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
            (name.to_string(), values.join(", "))
        });
        Ok(Shown {
            headers: headers.filter(|(name, _)| !ADDED_BY_THE_BROKER.contains(&name.as_str())).collect(),
            event: event.as_ref().map(json::event_to_json),
            payload_base64: STANDARD.encode(&stored.payload),
            letter,
        })
    }

    /// Whether the letter of this number that was stored then has been redriven.
    pub(crate) async fn redriven(&self, seq: u64, stored: SystemTime) -> Result<Option<Redriven>, Fault> {
        let mut facts = self.facts.lock().await;
        self.refresh(&mut facts).await?;
        Ok(facts.of(seq, &rfc3339(stored)))
    }

    /// The letter with what is known about its redrives.
    async fn known(&self, stored: &Stored) -> DeadLetter {
        let facts = self.facts.lock().await;
        let (redriven, unfinished) = (facts.of(stored.seq, &stored.at), facts.begun(stored.seq, &stored.at));
        DeadLetter { redriven, unfinished, ..stored.letter() }
    }

    pub(super) async fn get(&self, seq: u64) -> Result<Stored, Fault> {
        let unknown = || Fault::new(Code::UnknownDelivery, format!("there is no dead letter {seq}"));
        self.bus.get(&self.names.dead_letters(), seq).await?.map(Stored::from).ok_or_else(unknown)
    }

    async fn info(&self, stream: &str) -> Result<StreamInfo, Fault> {
        self.bus.stream(stream).await?.ok_or_else(|| {
            Fault::new(Code::BrokerDown, format!("cannot read `{stream}`: there is no such stream"))
                .with_retry_after(std::time::Duration::from_secs(1))
        })
    }

    /// Walks the letters behind `after` up to `until`; none = those that are there now, so that what a redrive brings
    /// back is not walked into.
    pub(super) async fn walk(&self, matcher: Matcher, after: u64, until: Option<u64>) -> Result<Walk<'_>, Fault> {
        self.refresh(&mut *self.facts.lock().await).await?;
        let stream = self.names.dead_letters();
        let last = self.info(&stream).await?.last_seq;
        let until = until.unwrap_or(last).min(last);
        Ok(Walk { letters: self, stream, matcher, at: after, until, scanned: 0, ended: false })
    }

    /// Takes the facts stored since the last time; first of all, and when some were removed that were not seen, what the
    /// snapshot has of them.
    pub(super) async fn refresh(&self, facts: &mut Facts) -> Result<(), Fault> {
        let name = self.names.audit();
        for load in 0.. {
            let info = self.info(&name).await?;
            facts.of_stream(info.created, info.last_seq);
            if facts.loaded && info.first_seq <= facts.seen + 1 {
                break;
            }
            if load == LOADS_MAX {
                tracing::warn!(
                    seen = facts.seen,
                    first_seq = info.first_seq,
                    "facts were removed that no snapshot has"
                );
                facts.seen = info.first_seq - 1;
                break;
            }
            snapshot::load(&*self.bus, &self.names, facts).await?;
            facts.loaded = true;
        }
        let wanted = subject::audit(self.names.namespace(), ABOUT_REDRIVES);
        while let Some(record) = self.bus.find(&name, &wanted, facts.seen + 1).await? {
            facts.take(record.seq, &record.subject, &record.payload);
        }
        Ok(())
    }
}

/// A bounded walk over matching letters.
pub(super) struct Walk<'a> {
    letters: &'a DeadLetters,
    stream: String,
    matcher: Matcher,
    at: u64,
    pub(super) until: u64,
    scanned: usize,
    ended: bool,
}

impl Walk<'_> {
    /// The next letter that matches; none at the end or when enough was looked at, see [`Self::next_after`].
    pub(super) async fn next(&mut self) -> Result<Option<(Stored, DeadLetter)>, Fault> {
        while self.at < self.until && self.scanned < SCANNED_MAX {
            let found = self.letters.bus.find(&self.stream, &self.matcher.subject, self.at + 1).await?;
            let Some(stored) = found.filter(|record| record.seq <= self.until).map(Stored::from) else { break };
            self.scanned += 1;
            self.at = stored.seq;
            let letter = self.letters.known(&stored).await;
            if self.matcher.matches(&letter) {
                return Ok(Some((stored, letter)));
            }
        }
        self.ended = self.scanned < SCANNED_MAX;
        Ok(None)
    }

    /// Where to go on, when the walk did not reach its end.
    pub(super) fn next_after(&self) -> Option<u64> {
        (!self.ended && self.at < self.until).then_some(self.at)
    }
}

/// Headers that a direct get adds to those of the message.
const ADDED_BY_THE_BROKER: [&str; 5] =
    ["Nats-Stream", "Nats-Sequence", "Nats-Subject", "Nats-Time-Stamp", "Nats-Num-Pending"];

impl From<Record> for Stored {
    fn from(record: Record) -> Self {
        let Record { seq, subject, headers, payload, stored_at } = record;
        Self { seq, at: rfc3339(stored_at), subject, headers, payload }
    }
}

#[derive(Default)]
struct Counts {
    causes: BTreeMap<(String, String, String), Cause>,
    truncated: bool,
}

impl Counts {
    fn add(&mut self, letter: DeadLetter) {
        let key = (letter.group.clone(), letter.class.clone(), letter.cause.clone());
        if self.causes.len() >= CAUSES_MAX && !self.causes.contains_key(&key) {
            self.truncated = true;
            return;
        }
        let DeadLetter { group, class, cause, .. } = letter;
        let empty = Cause { group, class, cause, open: 0, redriven: 0, last_failure: String::new(), last_seq: 0 };
        let row = self.causes.entry(key).or_insert(empty);
        *(if letter.redriven.is_some() { &mut row.redriven } else { &mut row.open }) += 1;
        row.last_failure = letter.last_failure;
        row.last_seq = letter.seq;
    }

    fn sorted(self) -> Vec<Cause> {
        let mut causes: Vec<Cause> = self.causes.into_values().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse((cause.open, cause.redriven)));
        causes
    }
}

#[cfg(test)]
mod tests {
    use agentbus_nats::moves::Class;

    use super::super::letter::tests::{event, stored};
    use super::*;

    #[test]
    fn causes_are_counted_most_frequent_first() {
        let mut counts = Counts::default();
        for (seq, class) in [(1, Class::Rejected), (2, Class::Exhausted), (3, Class::Exhausted)] {
            counts.add(stored(seq, class, event()).letter());
        }
        let causes = counts.sorted();
        assert_eq!((causes[0].class.as_str(), causes[0].open, causes[0].last_seq), ("EXHAUSTED", 2, 3));
        assert_eq!((causes[1].class.as_str(), causes[1].open), ("REJECTED", 1));
    }

    #[test]
    fn too_many_causes_are_told_not_kept() {
        let mut counts = Counts::default();
        for seq in 0..=CAUSES_MAX as u64 {
            let mut letter = stored(seq, Class::Exhausted, event()).letter();
            letter.cause = format!("cause {seq}");
            counts.add(letter);
        }
        assert!(counts.truncated);
        assert_eq!(counts.causes.len(), CAUSES_MAX);
    }
}
