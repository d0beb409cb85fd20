//! The decision against a small model of the stream: whatever it removes, nobody needed it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::decide::*;
use super::overlap;
use crate::spec::{OnLag, Retention};

const HOUR: Duration = Duration::from_secs(3600);
const TOPICS: [&str; 4] = ["audit.a", "audit.b", "notes", "files.x"];

fn at(hours: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + HOUR * (1000 + hours)
}

fn subject(topic: &str) -> String {
    format!("ab.default.n.me.topic.-.{topic}")
}

fn reader(group: &str, settled: u64, unsettled: u64) -> Reader {
    let (group, consumer) = (group.to_owned(), group.to_owned());
    Reader { group, consumer, filters: vec![], settled, unsettled, first: None }
}

struct Case {
    stream: Stream,
    readers: Vec<Reader>,
    missing: Vec<String>,
    younger: BTreeMap<Duration, u64>,
    alarmed: BTreeSet<String>,
}

impl Case {
    /// 1000 events of 1 KiB in a stream for `of`.
    fn new(of: u64, readers: Vec<Reader>) -> Self {
        let stream = Stream { first_seq: 1, last_seq: 1000, bytes: 1000 << 10, bytes_max: of << 10 };
        Self { stream, readers, missing: vec![], younger: BTreeMap::new(), alarmed: BTreeSet::new() }
    }

    fn seen(&self) -> Seen<'_> {
        let Self { stream, readers, missing, younger, alarmed } = self;
        Seen { stream: *stream, readers, missing, younger, alarmed, namespace: "default", now: at(0) }
    }

    fn decide(&self, retention: &Retention) -> Decision {
        decide(self.seen(), retention)
    }
}

fn below(decision: &Decision) -> Option<u64> {
    assert!(decision.purges.len() <= 1, "{decision:?}");
    decision.purges.first().map(|purge| purge.below)
}

#[test]
fn history_is_kept_while_there_is_room() {
    assert_eq!(Case::new(2000, vec![]).decide(&Retention::default()), Decision::default());
    assert_eq!(Case::new(0, vec![]).decide(&Retention::default()), Decision::default());
}

#[test]
fn the_oldest_goes_first_when_the_space_is_needed() {
    let decision = Case::new(1100, vec![reader("g", 1000, 0)]).decide(&Retention::default());
    // 80 % of 1100 KiB less a tenth is 792 KiB: 208 events too many.
    assert_eq!((below(&decision), decision.alarms.len()), (Some(209), 0));
    let wanted = Retention { bytes: Some(500 << 10), ..Retention::default() };
    assert_eq!(below(&Case::new(0, vec![]).decide(&wanted)), Some(551));
}

#[test]
fn a_quiet_group_holds_nothing_and_a_busy_one_what_it_has_not_settled() {
    let quiet = Case::new(1100, vec![reader("quiet", 3, 0)]);
    assert_eq!(below(&quiet.decide(&Retention::default())), Some(209));
    let busy = Case::new(1100, vec![reader("busy", 99, 5)]);
    assert_eq!(below(&busy.decide(&Retention::default())), Some(100));
    let sparse = Reader { first: Some((150, at(0))), ..reader("sparse", 99, 5) };
    assert_eq!(below(&Case::new(1100, vec![sparse]).decide(&Retention::default())), Some(150));
}

#[test]
fn a_dead_group_is_told_about_and_parked_when_the_space_runs_out() {
    let dead = || Reader { first: Some((1, at(0))), ..reader("dead", 0, 1000) };
    let half = Case::new(1900, vec![dead()]).decide(&Retention::default());
    assert_eq!((half.alarms[0].why, half.parks.len(), half.purges.len()), (Why::Holds, 0, 0));
    let full = Case::new(1100, vec![dead(), reader("quiet", 1000, 0)]);
    let decision = full.decide(&Retention::default());
    assert_eq!((decision.alarms[0].why, decision.alarms[0].held_bytes), (Why::Fills, 1000 << 10));
    assert_eq!((decision.parks[0].consumer.as_str(), decision.parks[0].up_to), ("dead", 208));
    assert_eq!(decision.purges, [], "first parked, then removed");
    let block = Retention { on_lag: OnLag::Block, ..Retention::default() };
    let decision = full.decide(&block);
    assert_eq!((decision.alarms.len(), decision.parks.len(), decision.purges.len()), (1, 0, 0));
}

#[test]
fn what_is_unread_for_too_long_is_parked_and_the_rest_stays() {
    let old = Reader { first: Some((1, at(0) - 200 * HOUR)), ..reader("old", 0, 1000) };
    let mut case = Case::new(10_000, vec![old]);
    case.younger.insert(7 * 24 * HOUR, 301);
    let decision = case.decide(&Retention::default());
    assert_eq!((decision.alarms[0].why, decision.parks[0].up_to), (Why::Lags, 300));
}

#[test]
fn an_alarm_ends_well_below_where_it_began() {
    let dead = Reader { first: Some((1, at(0))), ..reader("dead", 0, 1000) };
    let mut case = Case::new(2200, vec![dead]);
    assert_eq!(case.decide(&Retention::default()).alarms.len(), 0, "45 %");
    case.alarmed.insert("dead".to_owned());
    assert_eq!(case.decide(&Retention::default()).alarms.len(), 1, "45 % after more than 50 %");
    case.stream.bytes_max = 2600 << 10;
    assert_eq!(case.decide(&Retention::default()).alarms.len(), 0, "38 %");
}

#[test]
fn nothing_is_removed_while_a_group_has_no_consumer() {
    let mut case = Case::new(1100, vec![]);
    case.missing.push("lost".to_owned());
    let decision = case.decide(&Retention::default());
    assert_eq!((decision.alarms[0].why, decision.purges.len()), (Why::Missing, 0));
}

#[test]
fn ages_hold_for_what_they_name() {
    let day = 24 * HOUR;
    let topics = vec![("audit.>".to_owned(), 30 * day), ("files.x".to_owned(), HOUR)];
    let retention = Retention { topics, channels: [("ops".to_owned(), HOUR)].into(), ..Retention::default() };
    let notes = Reader { filters: vec!["ab.default.*.*.topic.*.files.>".into()], ..reader("files", 20, 1) };
    let mut case = Case::new(0, vec![notes]);
    case.younger.extend([(HOUR, 900), (7 * day, 50), (30 * day, 1)]);
    let purge = |filter: &str, below| Purge { filter: Some(filter.to_owned()), below };
    let wanted = [
        purge("ab.default.*.*.topic.*.files.x", 21),
        purge("ab.default.*.*.channel.*.ops", 900),
        purge("ab.default.*.*.channel.*.ops.>", 900),
    ];
    assert_eq!(case.decide(&retention).purges, wanted);
    let aged = Retention { age: Some(7 * day), ..retention };
    let decision = case.decide(&aged);
    assert_eq!((decision.purges.as_slice(), decision.others_below), (&wanted[..], Some(50)));
    let subjects = TOPICS.map(subject).into_iter();
    let others = by_subject(case.seen(), &aged, 50, subjects, 100);
    assert_eq!(others, [purge(&subject("notes"), 50)]);
}

/// One event: its topic, and who has settled it.
type Stored = (usize, Vec<bool>);

/// A reader as the broker tells it.
fn told(group: usize, filters: &[&str], events: &[Stored], look: bool) -> Reader {
    let filters: Vec<String> = filters.iter().map(|topic| format!("ab.default.*.*.topic.*.{topic}")).collect();
    let read =
        |stored: &Stored| filters.is_empty() || filters.iter().any(|f| overlap::both(f, &subject(TOPICS[stored.0])));
    let mine = || events.iter().zip(1_u64..).filter(|(stored, _)| read(stored));
    let open = || mine().filter(|((_, settled), _)| !settled[group]).map(|(_, seq)| seq);
    let settled = mine().map(|(_, seq)| seq).take_while(|seq| open().next().is_none_or(|first| *seq < first)).last();
    let (unsettled, first) = (open().count() as u64, open().next().filter(|_| look).map(|seq| (seq, at(0))));
    Reader { filters, first, ..reader(&format!("g{group}"), settled.unwrap_or(0), unsettled) }
}

proptest! {
    #[test]
    fn nothing_that_is_not_settled_is_ever_removed(
        events in proptest::collection::vec((0..4_usize, proptest::collection::vec(any::<bool>(), 3)), 1..60),
        of in 1..200_u64,
        ages in proptest::collection::vec(0..70_u64, 4),
        (default_age, bytes, look) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let filters: [&[&str]; 3] = [&[], &["audit.>"], &["audit.a", "notes"]];
        let readers: Vec<Reader> = (0..3).map(|group| told(group, filters[group], &events, look)).collect();
        let last_seq = events.len() as u64;
        let mut case = Case::new(of, readers);
        case.stream = Stream { first_seq: 1, last_seq, bytes: last_seq << 10, bytes_max: of << 10 };
        let topics = vec![("audit.a".to_owned(), 2 * HOUR), ("files.>".to_owned(), 9 * HOUR)];
        let retention = Retention {
            age: default_age.then_some(5 * HOUR),
            bytes: bytes.then_some(10 << 10),
            lag: 7 * HOUR,
            topics,
            ..Retention::default()
        };
        case.younger = [2, 5, 7, 9].map(|hours| hours * HOUR).into_iter().zip(ages).collect();
        let decision = case.decide(&retention);
        let subjects = TOPICS.map(subject).into_iter();
        let others = decision.others_below.map_or_else(Vec::new, |below| by_subject(case.seen(), &retention, below, subjects, 9));
        for purge in decision.purges.iter().chain(&others) {
            for ((topic, settled), seq) in events.iter().zip(1_u64..).filter(|(_, seq)| *seq < purge.below) {
                let subject = subject(TOPICS[*topic]);
                let taken = purge.filter.as_ref().is_none_or(|filter| overlap::both(filter, &subject));
                for reader in case.readers.iter().zip(settled).filter(|_| taken) {
                    let (reader, settled) = reader;
                    let read = reader.filters.is_empty() || reader.filters.iter().any(|f| overlap::both(f, &subject));
                    prop_assert!(*settled || !read, "{:?} takes {} of {:?}", purge, seq, reader);
                }
            }
        }
        for park in &decision.parks {
            prop_assert!(park.up_to <= last_seq);
        }
    }
}
