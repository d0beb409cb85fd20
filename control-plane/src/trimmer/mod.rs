//! Keeps the events stream from filling up: removes history that nobody needs, and sees to it that a group that does not
//! read stops nobody else.
//!
//! `look` reads the broker, `decide` says what to do (pure), `park` and the loop here do it, `alarm` tells people and
//! publishers. Runs beside the reconciler: on a tick that gets shorter as the stream fills, only while the broker is up.
//!
//! Why nothing is lost. A purge takes only what every group that reads it has settled; that is decided from the newest
//! sequence read first and the consumers read afterwards, so what comes in between stays. Parking takes no shortcut around
//! a group's consumer either: it pulls from it like a member, stores the dead letter, waits for the PubAck and acks. So
//! what a member holds at that moment stays its own (the broker gives a delivery to one taker at a time; it comes to us
//! only when its ack wait is over), what was acked is not parked, and the group's floor moves because its events are
//! settled, not because anybody moves it. A crash between PubAck and ack brings the event once more, to whoever pulls: the
//! letter's id is the group's successor of that very message, so a second letter is a duplicate the broker swallows.

mod alarm;
pub mod decide;
mod letters;
mod look;
pub mod overlap;
mod park;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::identity::Authority;
use agentbus_nats::names::Names;
use agentbus_proto::Fault;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::dead_letters::{DeadLetters, Shares};
use crate::grants::Grants;
use crate::spec::Retention;

pub use alarm::{Lagging, Space};
use decide::Decision;
use look::Look;
use park::Parked;

/// How often the stream's size is looked at.
const TICK: Duration = Duration::from_secs(2);
/// The same while it fills up fast.
const BUSY_TICK: Duration = Duration::from_millis(200);
/// It is looked at so often at least before it would be full.
const LOOKS_BEFORE_FULL: u32 = 4;
/// How often groups and ages are looked at although the stream is small.
const DEEP_EVERY: Duration = Duration::from_secs(10);
/// Longest pass: beyond, the broker is too slow, and the next tick goes on.
const PASS_MAX: Duration = Duration::from_secs(30);
/// Subjects removed one by one in one pass.
const SUBJECTS_MAX: usize = 1000;
/// How often what was removed is written down: it may be removed several times a second.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// The groups that keep the stream from being trimmed, to watch.
pub type Alarms = watch::Receiver<Vec<Lagging>>;

/// The trimmer.
pub struct Trimmer {
    /// With the control plane's rights.
    pub bus: Arc<dyn Bus>,
    /// Names of the namespace.
    pub names: Names,
    /// What is to be kept.
    pub retention: Retention,
    /// Knows which groups must have a reader, and what they read.
    pub grants: Arc<Grants>,
    /// Seals the ids of dead letters with each group's secret.
    pub authority: Arc<Authority>,
    /// Remembers what was done.
    pub audit: Audit,
    /// Knows which facts of the audit stream are kept elsewhere.
    pub letters: Arc<DeadLetters>,
    /// Knows for which group something may still be parked.
    pub shares: Arc<Shares>,
}

/// What is kept from pass to pass.
struct State {
    look: Look,
    /// The last time groups and ages were looked at.
    deep: Option<Instant>,
    /// The last look at the size: when, and how many bytes.
    size: Option<(Instant, u64)>,
    /// Groups for which the dead letters have no room; no parking before.
    no_room: BTreeMap<String, Instant>,
    parked: Vec<Parked>,
    removed: u64,
    noted: Instant,
}

impl Trimmer {
    /// Trims until `stop`.
    pub async fn run(self, alarms: watch::Sender<Vec<Lagging>>, stop: CancellationToken) {
        let now = Instant::now();
        let mut state = State {
            look: Look::default(),
            deep: None,
            size: None,
            no_room: BTreeMap::new(),
            parked: Vec::new(),
            removed: 0,
            noted: now,
        };
        let mut pause = TICK;
        loop {
            // Nothing is lost by either: a pass that is cut off is done again.
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            if !self.bus.is_up() {
                pause = TICK;
                continue;
            }
            let pass = tokio::time::timeout(PASS_MAX, self.pass(&mut state, &alarms));
            pause = tokio::select! {
                () = stop.cancelled() => break,
                done = pass => match done {
                    Ok(Ok(pause)) => pause,
                    Ok(Err(fault)) => {
                        tracing::warn!(%fault, "the events stream was not trimmed");
                        TICK
                    }
                    Err(_) => TICK,
                },
            };
            self.note(&mut state, false);
        }
        self.note(&mut state, true);
    }

    /// One look, and what follows from it. Returns how long to wait for the next one.
    async fn pass(&self, state: &mut State, alarms: &watch::Sender<Vec<Lagging>>) -> Result<Duration, Fault> {
        let Some(stream) = self.bus.stream(&self.names.events()).await? else { return Ok(TICK) };
        let before = state.size.replace((Instant::now(), stream.bytes));
        let tick = tick(before, look::stream(&stream)).min(self.deep_every());
        let over =
            decide::keep(look::stream(&stream).bytes_max, &self.retention).is_some_and(|keep| stream.bytes > keep);
        let due = state.deep.is_none_or(|deep| deep.elapsed() >= self.deep_every());
        if !(over || due) {
            return Ok(tick);
        }
        state.deep = Some(Instant::now());
        let known: BTreeSet<String> = alarms.borrow().iter().map(|alarm| alarm.group.clone()).collect();
        let ours = state.look.readers(&*self.bus, &self.names, &stream, &self.grants.all_groups()).await?;
        let now = SystemTime::now();
        let younger = look::younger(&*self.bus, &self.names, &stream, &self.retention, now).await?;
        let seen = decide::Seen {
            stream: look::stream(&stream),
            readers: &ours.readers,
            missing: &ours.missing,
            younger: &younger,
            alarmed: &known,
            namespace: self.names.namespace(),
            now,
        };
        let decision = decide::decide(seen, &self.retention);
        self.tell(alarms, &decision, seen.stream.bytes_max, &state.no_room);
        let others = match decision.others_below {
            Some(below) => {
                let all = format!("ab.{}.>", self.names.namespace());
                let subjects =
                    self.bus.subjects(&self.names.events(), &all).await?.into_iter().map(|(subject, _)| subject);
                decide::by_subject(seen, &self.retention, below, subjects, SUBJECTS_MAX)
            }
            None => Vec::new(),
        };
        let mut worked = false;
        for purge in decision.purges.iter().chain(&others) {
            let removed = self.bus.purge(&self.names.events(), purge.below, purge.filter.as_deref()).await?;
            state.removed += removed;
            worked |= removed > 0;
        }
        worked |= self.park(state, &decision).await?;
        if due {
            letters::trim(self, now).await?;
            if let Err(fault) = self.letters.trim_facts(now).await {
                tracing::warn!(%fault, "the audit stream was not trimmed");
            }
        }
        Ok(if worked { BUSY_TICK / 4 } else { tick })
    }

    /// How often ages are looked at: often enough for the shortest one.
    fn deep_every(&self) -> Duration {
        let ages = look::ages(&self.retention).into_iter();
        let shortest = ages.chain(self.retention.dead_letters).min().unwrap_or(DEEP_EVERY);
        (shortest / 4).clamp(BUSY_TICK, DEEP_EVERY)
    }

    async fn park(&self, state: &mut State, decision: &Decision) -> Result<bool, Fault> {
        state.no_room.retain(|group, _| decision.parks.iter().any(|park| park.group == *group));
        let mut worked = false;
        for park in &decision.parks {
            if state.no_room.get(&park.group).is_some_and(|not_before| Instant::now() < *not_before) {
                continue;
            }
            let Some(parked) = park::park(self, park).await? else {
                state.no_room.insert(park.group.clone(), Instant::now() + park::FULL_PAUSE);
                continue;
            };
            state.no_room.remove(&park.group);
            worked |= parked.letters > 0;
            match state.parked.iter_mut().find(|known| known.group == parked.group) {
                Some(known) => known.add(&parked),
                None => state.parked.push(parked),
            }
        }
        Ok(worked)
    }

    /// Tells about groups that began, or ceased, to be in the way.
    fn tell(
        &self,
        alarms: &watch::Sender<Vec<Lagging>>,
        decision: &Decision,
        bytes_max: u64,
        no_room: &BTreeMap<String, Instant>,
    ) {
        let on_lag = self.retention.on_lag;
        let told = |alarm: &decide::Alarm| Lagging::new(alarm, on_lag, bytes_max, no_room.contains_key(&alarm.group));
        let now: Vec<Lagging> = decision.alarms.iter().map(told).collect();
        let before = alarms.borrow().clone();
        let known = |list: &[Lagging], one: &Lagging| list.iter().any(|other| other.same(one));
        for alarm in now.iter().filter(|alarm| !known(&before, alarm)) {
            tracing::warn!(group = alarm.group, why = alarm.why, "{}", alarm.message);
            self.audit.record("retention.lagging.v1", json!(alarm));
        }
        for gone in before.iter().filter(|before| !now.iter().any(|alarm| alarm.group == before.group)) {
            tracing::info!(group = gone.group, "the group is in nobody's way any more");
            self.audit.record("retention.recovered.v1", json!({"group": gone.group}));
        }
        alarms.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
    }

    /// Writes down what was parked and removed since the last time.
    fn note(&self, state: &mut State, last: bool) {
        let due = state.noted.elapsed() >= NOTE_EVERY;
        // What was given up is told soon; how much history went is of less interest.
        if !state.parked.is_empty() && (last || state.noted.elapsed() >= park::NOTE_EVERY) {
            for parked in state.parked.drain(..).filter(|parked| parked.letters + parked.settled > 0) {
                tracing::warn!(group = parked.group, letters = parked.letters, "unread events became dead letters");
                self.audit.record("retention.parked.v1", json!(parked));
            }
            state.noted = Instant::now();
        }
        if state.removed > 0 && (last || due) {
            self.audit.record("retention.trimmed.v1", json!({"events": state.removed}));
            (state.removed, state.noted) = (0, Instant::now());
        }
    }
}

/// When to look again: several times before the stream is full, at the rate at which it has grown since the last look.
fn tick(before: Option<(Instant, u64)>, stream: decide::Stream) -> Duration {
    let Some((looked, bytes)) = before else { return BUSY_TICK };
    let grown = stream.bytes.saturating_sub(bytes);
    if grown == 0 || stream.bytes_max == 0 {
        return TICK;
    }
    let room = stream.bytes_max.saturating_sub(stream.bytes);
    // Sizes below a petabyte: nothing is lost that matters.
    #[allow(clippy::cast_precision_loss)]
    let share = (room as f64 / grown as f64).min(1e6);
    (looked.elapsed().mul_f64(share) / LOOKS_BEFORE_FULL).clamp(BUSY_TICK, TICK)
}

#[cfg(test)]
mod tick_tests {
    use super::*;

    #[test]
    fn a_stream_that_fills_up_fast_is_looked_at_more_often() {
        let now = Instant::now();
        let stream = |bytes| decide::Stream { first_seq: 1, last_seq: 9, bytes, bytes_max: 1000 };
        assert_eq!(tick(None, stream(1)), BUSY_TICK);
        let two_seconds_ago = now.checked_sub(TICK);
        let before = |bytes| two_seconds_ago.map(|then| (then, bytes));
        assert_eq!(tick(before(500), stream(500)), TICK, "nothing comes");
        assert_eq!(tick(before(499), stream(500)), TICK, "full in 1000 s");
        assert!(tick(before(100), stream(500)) < TICK, "full in 2.5 s");
        assert_eq!(tick(before(0), stream(990)), BUSY_TICK);
    }
}
