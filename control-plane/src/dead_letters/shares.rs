//! How much of the dead letters' space each group takes, and how much it may: no group may fill it for all.
//!
//! What a group's members give up may take a quarter; what is parked for it may come to half, because a group that is not
//! parked fills the events stream for everybody. Beyond, the events stay where they are. Sidecars ask before they store a
//! dead letter (verb `letters`) and get some room in advance; while nobody answers they go on.
//!
//! While there are few letters nothing is counted: nobody can be above a share. Then the sizes are read once, headers only,
//! and what was removed meanwhile is taken off by the mean size of the group's letters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::bus::{Bus, StreamInfo};
use agentbus_nats::grant::{LettersAnswer, LettersRequest};
use agentbus_nats::names::Names;
use agentbus_nats::read::{From, Query};
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};
use async_trait::async_trait;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::control::Verb;
use crate::grants::Grants;

/// Share of the space that the letters of one group may take, in per cent.
pub const SHARE_PERCENT: u64 = 25;
/// The same with what is parked.
pub const PARKED_PERCENT: u64 = 50;
/// What one answer gives in advance: a quarter of what is left, so that replicas do not take it several times over.
const ADVANCE: u64 = 4;
/// An answer holds for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Longest time for reading sizes at once; what is left is for the next time.
const READ_MAX: Duration = Duration::from_secs(2);
/// A group is said to be stalled for so long after its last refusal; its sidecars ask every 5 s.
const STALLED_FOR: Duration = Duration::from_secs(15);
/// Groups whose refusals are remembered.
const STALLED_MAX: usize = 1024;

/// Counts what groups take.
pub struct Shares {
    bus: Arc<dyn Bus>,
    names: Names,
    /// Says whose groups they are.
    grants: Arc<Grants>,
    counts: Mutex<Counts>,
}

/// What is known of the stream.
#[derive(Debug, Default)]
struct Counts {
    looked: Option<Instant>,
    created: Option<OffsetDateTime>,
    /// All letters, and most that there may be, in bytes.
    bytes: u64,
    bytes_max: u64,
    /// The last letter, and the last one whose size was read.
    last_seq: u64,
    seen: u64,
    groups: HashMap<String, Weight>,
    /// What was given in advance since then: it may be stored by now, and not counted.
    given: HashMap<String, u64>,
    stalled: HashMap<String, Instant>,
}

/// Letters of one group, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weight {
    letters: u64,
    bytes: u64,
}

impl Shares {
    /// `bus` needs the control plane's rights.
    pub fn new(bus: Arc<dyn Bus>, names: Names, grants: Arc<Grants>) -> Self {
        Self { bus, names, grants, counts: Mutex::default() }
    }

    /// Gives room for letters that members of a group write. The counts stay locked from the look to the gift, or two replicas
    /// would both get the last room.
    async fn give(&self, request: &LettersRequest) -> Result<LettersAnswer, Fault> {
        let mut counts = self.look().await?;
        let left = counts.left(&request.group, SHARE_PERCENT);
        Ok(counts.advance(request, left, Instant::now()))
    }

    /// Nobody takes the room of a group it is not in. A sidecar that is refused stores all the same, as when nobody answers.
    fn check(&self, agent: &str, group: &str) -> Result<(), Fault> {
        if self.grants.groups().of(agent).iter().any(|own| own.name == group) {
            return Ok(());
        }
        Err(Fault::new(Code::ScopeDenied, format!("agent `{agent}` is not in group `{group}`")))
    }

    /// What may still be parked for a group, in bytes.
    pub(crate) async fn left_to_park(&self, group: &str) -> Result<u64, Fault> {
        Ok(self.look().await?.left(group, PARKED_PERCENT))
    }

    /// Whether letters of a group were refused lately.
    pub(crate) async fn is_stalled(&self, group: &str) -> bool {
        self.counts.lock().await.stalled.get(group).is_some_and(|refused| refused.elapsed() < STALLED_FOR)
    }

    async fn look(&self) -> Result<tokio::sync::MutexGuard<'_, Counts>, Fault> {
        let mut counts = self.counts.lock().await;
        if counts.looked.is_some_and(|looked| looked.elapsed() < FRESH) {
            return Ok(counts);
        }
        let stream = self.names.dead_letters();
        let missing = || Fault::new(Code::BrokerDown, format!("there is no stream `{stream}`"));
        counts.stream(&self.bus.stream(&stream).await?.ok_or_else(missing)?);
        if counts.must_count() {
            self.count(&stream, &mut counts).await?;
        }
        counts.looked = Some(Instant::now());
        counts.given.clear();
        Ok(counts)
    }

    async fn count(&self, stream: &str, counts: &mut Counts) -> Result<(), Fault> {
        let began = Instant::now();
        while counts.seen < counts.last_seq && began.elapsed() < READ_MAX {
            let query = Query { from: From::Seq(counts.seen + 1), headers_only: true, ..Query::all() };
            let page = self.bus.read(stream, &query).await?;
            for record in &page.records {
                counts.add(record.seq, &record.subject, record.stored_bytes());
            }
            if page.next.is_none() {
                break;
            }
        }
        let all = subject::dead_letter(self.names.namespace(), "*", "*", "*");
        counts.there_are(self.bus.subjects(stream, &all).await?);
        Ok(())
    }
}

impl Counts {
    fn stream(&mut self, info: &StreamInfo) {
        if self.created != Some(info.created) {
            *self = Self { created: Some(info.created), ..Self::default() };
        }
        (self.bytes, self.last_seq) = (info.bytes, info.last_seq);
        self.bytes_max = u64::try_from(info.config.max_bytes).unwrap_or(0);
    }

    /// Below, everybody has half of a share left at least.
    fn must_count(&self) -> bool {
        self.bytes > self.share(SHARE_PERCENT) / 2
    }

    fn share(&self, percent: u64) -> u64 {
        if self.bytes_max == 0 { u64::MAX } else { self.bytes_max / 100 * percent }
    }

    fn add(&mut self, seq: u64, subject: &str, bytes: u64) {
        self.seen = seq;
        let group = group_of(subject).to_owned();
        let weight = self.groups.entry(group).or_default();
        weight.letters += 1;
        weight.bytes += bytes;
    }

    /// Takes off what is no longer there. Letters that came since their sizes were read are for the next time.
    fn there_are(&mut self, subjects: Vec<(String, u64)>) {
        let mut letters: HashMap<&str, u64> = HashMap::new();
        for (subject, count) in &subjects {
            *letters.entry(group_of(subject)).or_default() += count;
        }
        for (group, weight) in &mut self.groups {
            let there = letters.get(group.as_str()).copied().unwrap_or(0).min(weight.letters);
            let bytes = u128::from(weight.bytes) * u128::from(there) / u128::from(weight.letters.max(1));
            *weight = Weight { letters: there, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) };
        }
        self.groups.retain(|_, weight| weight.letters > 0);
    }

    fn left(&self, group: &str, percent: u64) -> u64 {
        let used = match self.must_count() {
            true => self.groups.get(group).map_or(0, |weight| weight.bytes),
            false => self.bytes,
        };
        self.share(percent).saturating_sub(used).saturating_sub(self.given.get(group).copied().unwrap_or(0))
    }

    /// What is given to a sidecar that wants to store `wanted` bytes now.
    fn advance(&mut self, request: &LettersRequest, left: u64, now: Instant) -> LettersAnswer {
        if request.bytes <= left {
            self.stalled.remove(&request.group);
            let bytes = request.bytes.max(left / ADVANCE);
            *self.given.entry(request.group.clone()).or_default() += bytes;
            return LettersAnswer { bytes };
        }
        self.stalled.retain(|_, refused| now.duration_since(*refused) < STALLED_FOR);
        if self.stalled.len() < STALLED_MAX {
            self.stalled.insert(request.group.clone(), now);
        }
        LettersAnswer { bytes: left }
    }
}

fn group_of(subject: &str) -> &str {
    subject.split('.').nth(2).unwrap_or_default()
}

#[async_trait]
impl Verb for Shares {
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<Value, Fault> {
        let unreadable = |error: serde_json::Error| Fault::new(Code::InvalidEvent, format!("unreadable: {error}"));
        let request: LettersRequest = serde_json::from_slice(request).map_err(unreadable)?;
        self.check(agent, &request.group)?;
        serde_json::to_value(self.give(&request).await?).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use agentbus_nats::bus::{Memory, memory};
    use agentbus_nats::identity::Authority;

    use super::*;
    use crate::grants::Common;
    use crate::groups::Groups;
    use crate::spec::Project;

    fn counts(letters: &[(&str, u64)]) -> Counts {
        let mut counts = Counts { bytes_max: 1000, ..Counts::default() };
        for (seq, (group, bytes)) in (1..).zip(letters) {
            counts.add(seq, &format!("abd.default.{group}.a.REJECTED"), *bytes);
            counts.bytes += bytes;
        }
        counts
    }

    /// Of agents `a` and `b`, each with the group of its name, and 1000 bytes for all. The broker is not asked.
    fn shares() -> Shares {
        let text = "version: 1\nagents:\n  a: {runner: process, command: [c], subscribe: [file.found]}\n  \
            b: {runner: process, command: [c], subscribe: [file.found]}\n";
        let groups = Groups::declared(&Project::parse(text, "t").unwrap(), false);
        let common = Common { namespace: "default".into(), servers: vec![], event_bytes_max: 1000 };
        let grants = Arc::new(Grants::new(Arc::new(Authority::generate("default")), common, groups));
        let bus = Memory::start(memory::Options::default()).connect("t");
        let looked = Some(Instant::now() + Duration::from_secs(60));
        let counts = Mutex::new(Counts { looked, ..counts(&[]) });
        Shares { counts, ..Shares::new(bus, Names::new("default"), grants) }
    }

    async fn ask(shares: &Shares, agent: &str, group: &str, bytes: u64) -> Result<Value, Fault> {
        let request = serde_json::to_vec(&LettersRequest { group: group.into(), bytes }).unwrap();
        shares.answer(agent, &request).await
    }

    #[tokio::test]
    async fn a_foreign_group_is_refused_and_keeps_its_room() {
        let shares = shares();
        for (agent, group) in [("a", "b"), ("stranger", "b"), ("a", "none")] {
            let fault = ask(&shares, agent, group, 250).await.unwrap_err();
            assert_eq!(fault.code, Code::ScopeDenied, "{agent} {group}");
        }
        assert!(!shares.is_stalled("b").await);
        assert_eq!(ask(&shares, "b", "b", 250).await.unwrap()["bytes"], 250);
    }

    #[tokio::test]
    async fn the_last_room_is_given_once() {
        let shares = shares();
        let (one, two) = tokio::join!(ask(&shares, "a", "a", 200), ask(&shares, "a", "a", 200));
        let mut given = [one, two].map(|answer| answer.unwrap()["bytes"].as_u64());
        given.sort_unstable();
        assert_eq!(given, [Some(50), Some(200)], "what is left, and what was asked for");
    }

    #[test]
    fn a_group_has_a_quarter_whatever_the_others_take() {
        let counts = counts(&[("a", 200), ("b", 700)]);
        let left = |group| counts.left(group, SHARE_PERCENT);
        assert_eq!((left("a"), left("b"), left("c")), (50, 0, 250));
        assert_eq!((counts.left("a", PARKED_PERCENT), counts.left("b", PARKED_PERCENT)), (300, 0));
    }

    #[test]
    fn while_there_is_little_nothing_is_counted() {
        let counts = Counts { bytes: 100, bytes_max: 1000, ..Counts::default() };
        assert_eq!((counts.must_count(), counts.left("a", SHARE_PERCENT)), (false, 150));
        assert_eq!(Counts::default().left("a", SHARE_PERCENT), u64::MAX, "no limit, no share");
    }

    #[test]
    fn what_was_removed_counts_no_more() {
        let mut counts = counts(&[("a", 100), ("a", 200), ("b", 500)]);
        counts.there_are(vec![("abd.default.a.x.CRASH".into(), 1), ("abd.default.c.x.CRASH".into(), 9)]);
        assert_eq!(counts.groups, HashMap::from([("a".to_owned(), Weight { letters: 1, bytes: 150 })]));
    }

    #[test]
    fn some_room_is_given_in_advance_and_a_refusal_is_remembered() {
        let mut counts = counts(&[]);
        let now = Instant::now();
        let mut ask = |bytes, left| counts.advance(&LettersRequest { group: "a".into(), bytes }, left, now).bytes;
        assert_eq!((ask(10, 200), ask(90, 200), ask(201, 200)), (50, 90, 200));
        assert_eq!(counts.left("a", SHARE_PERCENT), 250 - 140);
        assert!(counts.stalled.contains_key("a"));
        counts.advance(&LettersRequest { group: "a".into(), bytes: 1 }, 200, now);
        assert!(counts.stalled.is_empty());
    }
}
