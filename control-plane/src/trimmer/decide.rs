//! Decides what is removed from the events stream, who is warned about, and what is parked. Pure: the stream, its readers
//! and the clock come in, commands come out.
//!
//! What a reader still needs is never removed: everything from its first unsettled event on. A reader with nothing left
//! needs nothing below `last_seq`, which was read *before* the readers were: what came in between is above it. Only what
//! is parked (moved to the dead letters, and thereby settled) stops being needed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::spec::{OnLag, Retention};

use super::overlap;

/// Beyond this share of the space, history is removed, oldest first. Less where the project says `retention.bytes`.
const KEEP_PERCENT: u64 = 80;
/// What is removed at once, so that the next event does not begin it again: a tenth of what may be kept.
const SLACK_PERCENT: u64 = 10;
/// Beyond this share of the space the stream counts as nearly full.
const NEARLY_FULL_PERCENT: u64 = 85;
/// A group that holds more than this share of the space is told about…
const ALARM_PERCENT: u64 = 50;
/// …until it holds less than this.
const CALM_PERCENT: u64 = 40;

/// The events stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Sequence of its oldest event.
    pub first_seq: u64,
    /// Sequence of its newest event. Read before the readers.
    pub last_seq: u64,
    /// What it holds, in bytes.
    pub bytes: u64,
    /// What it may hold, in bytes; 0 = no limit.
    pub bytes_max: u64,
}

/// One consumer of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its group.
    pub group: String,
    /// The consumer's name.
    pub consumer: String,
    /// What it reads; empty = everything.
    pub filters: Vec<String>,
    /// All it reads up to this sequence is settled.
    pub settled: u64,
    /// Events it was not given yet, and events it was given and has not settled.
    pub unsettled: u64,
    /// Its first unsettled event: sequence, and when it was stored. None: not looked up, or nothing found.
    pub first: Option<(u64, SystemTime)>,
}

/// Everything a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The stream, read first.
    pub stream: Stream,
    /// Its readers, read afterwards.
    pub readers: &'a [Reader],
    /// Groups that should read and have no consumer now: what they need is not known.
    pub missing: &'a [String],
    /// For each age that a policy names: the sequence of the first event that is younger.
    pub younger: &'a BTreeMap<Duration, u64>,
    /// Groups that were told about last time.
    pub alarmed: &'a BTreeSet<String>,
    /// Namespace, for filters.
    pub namespace: &'a str,
    /// Now.
    pub now: SystemTime,
}

/// Remove everything below a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// Only subjects that match; none = all.
    pub filter: Option<String>,
    /// The first sequence that stays.
    pub below: u64,
}

/// Move what a group has not read to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Park {
    /// The group.
    pub group: String,
    /// Its consumer.
    pub consumer: String,
    /// The last sequence to be moved.
    pub up_to: u64,
    /// Why, for the letters.
    pub cause: String,
}

/// A group that keeps the stream from being trimmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The group.
    pub group: String,
    /// What about it.
    pub why: Why,
    /// Sequence of its first unsettled event.
    pub first_seq: u64,
    /// When that was stored; none when unknown.
    pub since: Option<SystemTime>,
    /// What is kept because of it, in bytes; an estimate.
    pub held_bytes: u64,
}

/// What is wrong with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It holds more than half of the space.
    Holds,
    /// Its oldest unread event is older than `retention.lag`.
    Lags,
    /// The stream is nearly full, and cannot be trimmed because of it.
    Fills,
    /// It has no consumer, so nothing is removed until it has one again.
    Missing,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// In this order.
    pub purges: Vec<Purge>,
    /// Subjects that no rule names are to be removed one by one up to here, see [`by_subject`].
    pub others_below: Option<u64>,
    /// One per group at most.
    pub alarms: Vec<Alarm>,
    /// One per consumer at most.
    pub parks: Vec<Park>,
}

/// Decides once.
pub fn decide(seen: Seen<'_>, retention: &Retention) -> Decision {
    let mut decision = Decision::default();
    // For the sake of history alone nothing unread is parked: only when the space itself runs out.
    let most = percent(seen.stream.bytes_max, KEEP_PERCENT);
    let unread_room = room(seen.stream, Some(most).filter(|most| *most > 0));
    for reader in seen.readers.iter().filter(|reader| reader.unsettled > 0) {
        judge(&seen, retention, unread_room, reader, &mut decision);
    }
    for group in seen.missing {
        let first_seq = seen.stream.first_seq;
        decision.alarms.push(Alarm { group: group.clone(), why: Why::Missing, first_seq, since: None, held_bytes: 0 });
    }
    decision.alarms = worst(std::mem::take(&mut decision.alarms));
    if !seen.missing.is_empty() {
        return decision;
    }
    ages(&seen, retention, &mut decision);
    if let Some(stays) = room(seen.stream, keep(seen.stream.bytes_max, retention)) {
        push(&seen, None, stays, &mut decision.purges);
    }
    decision
}

/// Most bytes that are kept; none = no limit. `bytes_max`: what the stream may hold, 0 = no limit.
pub fn keep(bytes_max: u64, retention: &Retention) -> Option<u64> {
    let most = Some(percent(bytes_max, KEEP_PERCENT)).filter(|most| *most > 0);
    retention.bytes.into_iter().chain(most).min()
}

/// The first sequence that can stay when no more than `keep` bytes are to be kept, with some slack; none when there is
/// room, or no limit. By the mean size of events: what is left over is for the next time.
fn room(stream: Stream, keep: Option<u64>) -> Option<u64> {
    let Stream { first_seq, last_seq, bytes, .. } = stream;
    let keep = keep.filter(|keep| bytes > *keep && last_seq >= first_seq)?;
    let excess = bytes - (keep - percent(keep, SLACK_PERCENT));
    Some(first_seq + share(last_seq - first_seq + 1, excess, bytes).max(1))
}

/// What is to be said, and done, about one consumer that has something left.
fn judge(seen: &Seen<'_>, retention: &Retention, room: Option<u64>, reader: &Reader, decision: &mut Decision) {
    let Stream { first_seq, last_seq, bytes, bytes_max } = seen.stream;
    let needs = needs(reader, last_seq);
    let since = reader.first.map(|(_, stored)| stored);
    let span = (last_seq + 1).saturating_sub(first_seq).max(1);
    let held_bytes = share(bytes, (last_seq + 1).saturating_sub(needs.max(first_seq)), span);
    let lag = since.and_then(|since| seen.now.duration_since(since).ok()).unwrap_or_default();
    let in_the_way = room.filter(|stays| needs < *stays);
    let fills = in_the_way.filter(|_| bytes_max > 0 && held_bytes > percent(bytes_max, NEARLY_FULL_PERCENT));
    let limit = if seen.alarmed.contains(&reader.group) { CALM_PERCENT } else { ALARM_PERCENT };
    let why = if fills.is_some() {
        Why::Fills
    } else if lag > retention.lag {
        Why::Lags
    } else if bytes_max > 0 && held_bytes > percent(bytes_max, limit) {
        Why::Holds
    } else {
        return;
    };
    decision.alarms.push(Alarm { group: reader.group.clone(), why, first_seq: needs, since, held_bytes });
    if retention.on_lag == OnLag::Block {
        return;
    }
    let too_old = seen.younger.get(&retention.lag).filter(|_| lag > retention.lag).copied();
    // Whatever asks for more: room, or age.
    if let Some(stays) = fills.into_iter().chain(too_old).max() {
        let cause = match why {
            Why::Fills => "not read before the space was needed",
            _ => "not read within the time that unread events are kept",
        };
        let (group, consumer) = (reader.group.clone(), reader.consumer.clone());
        let up_to = stays.min(last_seq + 1).saturating_sub(1);
        decision.parks.push(Park { group, consumer, up_to, cause: cause.to_owned() });
    }
}

/// What is older than it is to be kept.
fn ages(seen: &Seen<'_>, retention: &Retention, decision: &mut Decision) {
    for (filter, age) in rules(seen.namespace, retention) {
        if let Some(younger) = seen.younger.get(&age) {
            push(seen, Some(filter), *younger, &mut decision.purges);
        }
    }
    let Some(age) = retention.age else { return };
    let Some(younger) = seen.younger.get(&age).copied() else { return };
    if rules(seen.namespace, retention).iter().any(|(_, longer)| *longer > age) {
        decision.others_below = Some(younger);
    } else {
        push(seen, None, younger, &mut decision.purges);
    }
}

/// Filters with an age of their own.
fn rules(namespace: &str, retention: &Retention) -> Vec<(String, Duration)> {
    let topics = retention.topics.iter().map(|(pattern, age)| (pattern.clone(), *age));
    let channels = retention.channels.iter().map(|(name, age)| (format!("#{name}"), *age));
    let of = |(pattern, age): (String, Duration)| {
        let filters = agentbus_nats::pattern::filters(namespace, &[pattern]).unwrap_or_default();
        filters.into_iter().map(move |filter| (filter, age)).collect::<Vec<_>>()
    };
    topics.chain(channels).flat_map(of).collect()
}

/// The purges of subjects that no rule names, where some rule keeps longer than everything else is kept: what is wanted
/// cannot be said in one filter. At most `max`; the rest is for the next time.
pub fn by_subject(
    seen: Seen<'_>,
    retention: &Retention,
    below: u64,
    subjects: impl Iterator<Item = String>,
    max: usize,
) -> Vec<Purge> {
    let rules = rules(seen.namespace, retention);
    let ruled = |subject: &str| rules.iter().any(|(filter, _)| overlap::both(filter, subject));
    let mut purges = Vec::new();
    for subject in subjects.filter(|subject| !ruled(subject)).take(max) {
        push(&seen, Some(subject), below, &mut purges);
    }
    purges
}

/// A purge as far as nobody needs what it takes; none when it would take nothing.
fn push(seen: &Seen<'_>, filter: Option<String>, below: u64, purges: &mut Vec<Purge>) {
    let concerned = seen.readers.iter().filter(|reader| match &filter {
        Some(filter) => reader.filters.is_empty() || reader.filters.iter().any(|read| overlap::both(read, filter)),
        None => true,
    });
    let needed = concerned.map(|reader| needs(reader, seen.stream.last_seq)).min();
    let below = below.min(needed.unwrap_or(u64::MAX)).min(seen.stream.last_seq + 1);
    if below > seen.stream.first_seq {
        purges.push(Purge { filter, below });
    }
}

/// The first sequence that a reader needs.
fn needs(reader: &Reader, last_seq: u64) -> u64 {
    match reader.first {
        _ if reader.unsettled == 0 => last_seq + 1,
        // Its first unsettled event was looked up after its floor was read: it cannot be below.
        Some((seq, _)) => seq.max(reader.settled + 1).min(last_seq + 1),
        None => (reader.settled + 1).min(last_seq + 1),
    }
}

/// One alarm per group: the worst, with the oldest event.
fn worst(mut alarms: Vec<Alarm>) -> Vec<Alarm> {
    alarms.sort_by(|one, other| (&one.group, other.why, one.first_seq).cmp(&(&other.group, one.why, other.first_seq)));
    alarms.dedup_by(|later, first| later.group == first.group);
    alarms
}

fn percent(of: u64, percent: u64) -> u64 {
    share(of, percent, 100)
}

/// `whole` × `part` / `of`, rounded down.
fn share(whole: u64, part: u64, of: u64) -> u64 {
    let share = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}
