//! One durable consumer: what it hands out next, what is out, what comes again. Pure: the time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, PriorityPolicy};
use tokio::time::Instant;

use super::filter;
use super::log::{Kept, Log};

/// A consumer's place in its stream.
pub(super) struct Cursor {
    pub config: Config,
    pub created: SystemTime,
    filters: Vec<String>,
    /// Where it began.
    start: u64,
    /// The first sequence not looked at yet.
    next: u64,
    /// The newest sequence handed out.
    pub delivered: u64,
    /// Deliveries made in all.
    pub deliveries: u64,
    pub floor: u64,
    out: BTreeMap<u64, Out>,
    /// What is out, by the moment at which it comes again.
    due: BTreeSet<(Instant, u64)>,
}

/// A delivery without its ack.
struct Out {
    count: u64,
    due: Instant,
}

/// What is handed out.
pub(super) struct Handed {
    pub seq: u64,
    /// How often, this time included.
    pub count: u64,
    pub kept: Arc<Kept>,
}

impl Cursor {
    /// A consumer on `log`, or why there can be none.
    pub fn new(config: Config, log: &Log, created: SystemTime) -> Result<Self, Fault> {
        let filters = filters(&config)?;
        let next = match config.deliver_policy {
            DeliverPolicy::All => log.first_seq(),
            DeliverPolicy::New => log.last_seq + 1,
            DeliverPolicy::Last => log.last_seq.max(1),
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.max(1),
            DeliverPolicy::ByStartTime { start_time } => at_time(log, start_time.into()),
            DeliverPolicy::LastPerSubject => return Err(bad("it cannot begin with the last of each subject")),
        };
        let floor = next - 1;
        let (delivered, deliveries, out, due) = (0, 0, BTreeMap::new(), BTreeSet::new());
        Ok(Self { config, created, filters, start: next, next, delivered, deliveries, floor, out, due })
    }

    /// Takes another configuration; its place stays.
    pub fn update(&mut self, config: Config) -> Result<(), Fault> {
        let filters = filters(&config)?;
        if filters != self.filters {
            // What the old ones left out may be meant by the new ones.
            self.next = self.start.max(self.delivered + 1);
        }
        (self.filters, self.config) = (filters, config);
        Ok(())
    }

    /// The next delivery, if there is one now: what came back first, then what is new.
    pub fn take(&mut self, log: &Log, now: Instant) -> Option<Handed> {
        while let Some((at, seq)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            let Some(kept) = log.records.get(&seq).cloned() else {
                // Purged meanwhile: nobody can settle it any more.
                self.out.remove(&seq);
                self.lift_floor();
                continue;
            };
            let due = now + self.config.ack_wait;
            let out = self.out.get_mut(&seq)?;
            (out.count, out.due) = (out.count + 1, due);
            self.due.insert((due, seq));
            self.deliveries += 1;
            return Some(Handed { seq, count: out.count, kept });
        }
        let max = usize::try_from(self.config.max_ack_pending).unwrap_or(usize::MAX);
        if self.config.ack_policy == AckPolicy::Explicit && max > 0 && self.out.len() >= max {
            return None;
        }
        let (seq, kept) = self.skip(log)?;
        (self.next, self.delivered) = (seq + 1, seq);
        self.deliveries += 1;
        if self.config.ack_policy == AckPolicy::Explicit {
            let due = now + self.config.ack_wait;
            self.out.insert(seq, Out { count: 1, due });
            self.due.insert((due, seq));
        } else {
            self.floor = seq;
        }
        Some(Handed { seq, count: 1, kept })
    }

    /// Goes on to the next record that matches, and tells it.
    pub fn skip(&mut self, log: &Log) -> Option<(u64, Arc<Kept>)> {
        let mut ahead = log.records.range((Bound::Included(self.next), Bound::Unbounded));
        let found = ahead.find(|(_, kept)| filter::any(&self.filters, &kept.subject));
        let found = found.map(|(seq, kept)| (*seq, Arc::clone(kept)));
        self.next = found.as_ref().map_or(self.next.max(log.last_seq + 1), |(seq, _)| *seq);
        found
    }

    /// Settles a delivery, whoever had it; false when it is not out.
    pub fn ack(&mut self, seq: u64) -> bool {
        let Some(out) = self.out.remove(&seq) else { return false };
        self.due.remove(&(out.due, seq));
        self.lift_floor();
        true
    }

    /// Brings a delivery back at `due`, or holds it until then; false when it is not out.
    pub fn put_off(&mut self, seq: u64, due: Instant) -> bool {
        let Some(out) = self.out.get_mut(&seq) else { return false };
        self.due.remove(&(out.due, seq));
        out.due = due;
        self.due.insert((due, seq));
        true
    }

    fn lift_floor(&mut self) {
        let reached = self.out.first_key_value().map_or(self.delivered, |(seq, _)| seq - 1);
        self.floor = self.floor.max(reached);
    }

    /// When something comes back by itself.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Matching records that were not handed out yet.
    pub fn pending(&self, log: &Log) -> u64 {
        let ahead = log.records.range((Bound::Included(self.next), Bound::Unbounded));
        ahead.filter(|(_, kept)| filter::any(&self.filters, &kept.subject)).count() as u64
    }

    /// What is out and still in the stream.
    pub fn ack_pending(&self) -> u64 {
        self.out.len() as u64
    }

    pub fn redelivered(&self) -> u64 {
        self.out.values().filter(|out| out.count > 1).count() as u64
    }

    /// Only one of those who pull is served, for as long as it goes on asking: how long it may be silent.
    pub fn pinned(&self) -> Option<Duration> {
        (self.config.priority_policy == PriorityPolicy::PinnedClient).then_some(self.config.priority_timeout)
    }

    /// What another consumer on a work queue would take from this one.
    pub fn overlaps(&self, other: &Config) -> bool {
        let Ok(others) = filters(other) else { return true };
        self.filters.is_empty()
            || others.is_empty()
            || self.filters.iter().any(|one| others.iter().any(|other| filter::overlap(one, other)))
    }
}

/// The first sequence stored at or behind a moment.
pub(super) fn at_time(log: &Log, time: SystemTime) -> u64 {
    let first = log.records.iter().find(|(_, kept)| kept.at >= time);
    first.map_or(log.last_seq + 1, |(seq, _)| *seq)
}

fn filters(config: &Config) -> Result<Vec<String>, Fault> {
    if config.ack_policy == AckPolicy::All {
        return Err(bad("the in-process bus has no ack of all before one"));
    }
    let mut filters = config.filter_subjects.clone();
    if !config.filter_subject.is_empty() {
        filters.push(config.filter_subject.clone());
    }
    for (at, one) in filters.iter().enumerate() {
        if let Some(other) = filters[..at].iter().find(|other| filter::overlap(one, other)) {
            let why = format!("consumer subject filters cannot overlap: `{one}` and `{other}`");
            return Err(Fault::new(Code::InvalidAddress, why));
        }
    }
    Ok(filters)
}

fn bad(why: &str) -> Fault {
    Fault::new(Code::BadConfig, format!("not such a consumer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::log::tests::{log, message, now};
    use super::*;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config {
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(10),
            max_ack_pending: 100,
            ..Config::default()
        };
        change(&mut config);
        config
    }

    struct Scene {
        log: Log,
        cursor: Cursor,
        base: Instant,
    }

    impl Scene {
        fn new(subjects: &[&str], change: impl FnOnce(&mut Config)) -> Self {
            let (mut log, base) = (log(|_| {}), Instant::now());
            for (at, subject) in subjects.iter().enumerate() {
                log.append(message(subject, ""), now(base, at as u64)).unwrap();
            }
            let cursor = Cursor::new(config(change), &log, SystemTime::UNIX_EPOCH).unwrap();
            Self { log, cursor, base }
        }

        /// Everything it hands out at a moment: sequence and count.
        fn all(&mut self, ms: u64) -> Vec<(u64, u64)> {
            let at = self.base + Duration::from_millis(ms);
            std::iter::from_fn(|| self.cursor.take(&self.log, at)).map(|handed| (handed.seq, handed.count)).collect()
        }
    }

    #[test]
    fn filters_choose_and_the_floor_follows_the_acks() {
        let mut scene = Scene::new(&["a.x", "a.y", "a.x", "a.z"], |config| {
            config.filter_subjects = vec!["a.x".into(), "a.z".into()];
        });
        assert_eq!(scene.cursor.pending(&scene.log), 3);
        assert_eq!(scene.all(0), [(1, 1), (3, 1), (4, 1)]);
        assert_eq!((scene.cursor.pending(&scene.log), scene.cursor.floor), (0, 0));
        assert!(scene.cursor.ack(3) && !scene.cursor.ack(3));
        assert_eq!(scene.cursor.floor, 0, "1 is still out");
        assert!(scene.cursor.ack(1));
        assert_eq!(scene.cursor.floor, 3);
        assert!(scene.cursor.ack(4));
        assert_eq!((scene.cursor.floor, scene.cursor.ack_pending()), (4, 0));
    }

    #[test]
    fn what_is_not_acked_comes_again_and_is_counted() {
        let mut scene = Scene::new(&["a.x"], |_| {});
        assert_eq!(scene.all(0), [(1, 1)]);
        assert_eq!(scene.all(9_999), []);
        assert_eq!(scene.all(10_000), [(1, 2)]);
        let later = scene.base + Duration::from_secs(25);
        assert!(scene.cursor.put_off(1, later), "still at work");
        assert_eq!((scene.all(24_999), scene.cursor.redelivered()), (vec![], 1));
        assert_eq!(scene.all(25_000), [(1, 3)]);
    }

    #[test]
    fn one_at_a_time_keeps_the_order_through_a_delay() {
        let mut scene = Scene::new(&["a.x", "a.x"], |config| config.max_ack_pending = 1);
        assert_eq!(scene.all(0), [(1, 1)]);
        let later = scene.base + Duration::from_secs(2);
        scene.cursor.put_off(1, later);
        assert_eq!(scene.all(1_999), []);
        assert_eq!(scene.all(2_000), [(1, 2)]);
        scene.cursor.ack(1);
        assert_eq!(scene.all(2_001), [(2, 1)]);
    }

    #[test]
    fn what_was_purged_is_no_longer_out() {
        let mut scene = Scene::new(&["a.x", "a.x"], |_| {});
        assert_eq!(scene.all(0).len(), 2);
        scene.log.purge(2, None);
        assert_eq!(scene.all(10_000), [(2, 2)]);
        assert_eq!((scene.cursor.ack_pending(), scene.cursor.floor), (1, 1));
    }

    #[test]
    fn it_begins_where_it_was_told_to() {
        let begin = |policy| Scene::new(&["a.x", "a.x", "a.x"], |config| config.deliver_policy = policy).all(0);
        assert_eq!(begin(DeliverPolicy::New), []);
        assert_eq!(begin(DeliverPolicy::ByStartSequence { start_sequence: 3 }), [(3, 1)]);
        let start_time = (SystemTime::UNIX_EPOCH + Duration::from_millis(1)).into();
        assert_eq!(begin(DeliverPolicy::ByStartTime { start_time }), [(2, 1), (3, 1)]);
    }

    #[test]
    fn other_filters_find_what_the_old_ones_left_out() {
        let mut scene = Scene::new(&["a.x", "a.y"], |config| config.filter_subject = "a.z".into());
        assert_eq!((scene.all(0), scene.cursor.pending(&scene.log)), (vec![], 0));
        scene.cursor.update(config(|config| config.filter_subject = "a.y".into())).unwrap();
        assert_eq!((scene.cursor.pending(&scene.log), scene.all(0)), (1, vec![(2, 1)]));
    }

    #[test]
    fn overlapping_filters_are_refused() {
        let config = config(|config| config.filter_subjects = vec!["a.*".into(), "a.x".into()]);
        let refused = Cursor::new(config, &log(|_| {}), SystemTime::UNIX_EPOCH).err().unwrap();
        assert_eq!(refused.code, Code::InvalidAddress);
    }
}
