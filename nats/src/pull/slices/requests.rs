//! The open requests of several slices, one each, and what ends them. Pure: time comes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A request for what is there now is answered within a round trip. One that is not answered within several stands behind
/// a delivery that is out, or behind another sidecar's pin.
const ROUND_TRIPS: u32 = 2;
/// It is given this long at least, however near the broker is, and at most: a member looks at one part after the other, and
/// those that others have are not answered. What took longer than that stood behind something.
const NOW_MIN: Duration = Duration::from_millis(20);
const NOW_MAX: Duration = Duration::from_millis(300);
/// Taken for a round trip before one was measured.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// A request that waits is ended by the broker; when it is not, it was lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    id: u64,
    left: usize,
    since: Instant,
    until: Instant,
    /// For what is there now.
    now: bool,
}

/// How long the broker took lately to answer, in microseconds, 0 when nothing is known; shared by all of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundTrip(Arc<AtomicU64>);

impl RoundTrip {
    /// A longer one counts at once, shorter ones by and by.
    fn took(&self, took: Duration) {
        if took <= NOW_MAX {
            let before = self.0.load(Ordering::Relaxed);
            let took = (took.as_micros() as u64).max(1).max(before - before / 4);
            self.0.store(took, Ordering::Relaxed);
        }
    }

    /// How long an answer that comes at once may take.
    fn patience(&self) -> Duration {
        let known = Some(self.0.load(Ordering::Relaxed)).filter(|micros| *micros > 0);
        (known.map_or(ROUND_TRIP, Duration::from_micros) * ROUND_TRIPS).clamp(NOW_MIN, NOW_MAX)
    }
}

/// At most one open request per slice.
#[derive(Debug)]
pub(super) struct Requests {
    open: Vec<Option<Open>>,
    /// The last one of each slice that was given up: its answer may just be late.
    late: Vec<Option<Open>>,
    next: u64,
    round_trip: RoundTrip,
}

impl Requests {
    pub fn new(slices: usize, round_trip: RoundTrip) -> Self {
        Self { open: vec![None; slices], late: vec![None; slices], next: 1, round_trip }
    }

    /// Notes a request; its id is in the subject of all that answers it. `expires`: how long it waits, none when it does
    /// not.
    pub fn begin(&mut self, slice: usize, messages: usize, expires: Option<Duration>, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        let until = now + expires.map_or_else(|| self.round_trip.patience(), |expires| expires + LOST_AFTER);
        if let Some(slot) = self.open.get_mut(slice) {
            *slot = Some(Open { id, left: messages, since: now, until, now: expires.is_none() });
        }
        id
    }

    /// A message came from this slice. `at_once`: none of it waits for another one to be settled.
    pub fn message(&mut self, slice: usize, at_once: bool, now: Instant) {
        let Some(slot) = self.open.get_mut(slice) else { return };
        let asked = self.late[slice].take().or(*slot);
        if let Some(asked) = asked.filter(|asked| at_once && asked.now) {
            self.round_trip.took(now.duration_since(asked.since));
        }
        if let Some(open) = slot {
            open.left -= 1;
            if open.left == 0 {
                *slot = None;
            }
        }
    }

    /// The broker ended this request; false when it was over already. `at_once`: it does not say so after a wait.
    pub fn end(&mut self, slice: usize, id: u64, at_once: bool, now: Instant) -> bool {
        let take = |slots: &mut Vec<Option<Open>>| slots.get_mut(slice)?.take_if(|open| open.id == id);
        let (known, late) = (take(&mut self.open), take(&mut self.late));
        if let Some(open) = known.or(late)
            && open.now
            && at_once
        {
            self.round_trip.took(now.duration_since(open.since));
        }
        known.is_some()
    }

    /// Ends those that nobody will answer any more.
    pub fn overdue(&mut self, now: Instant) -> Vec<usize> {
        let slots = self.open.iter_mut().zip(&mut self.late).enumerate();
        let over = slots.filter_map(|(slice, (slot, late))| {
            *late = Some(slot.take_if(|open| open.until <= now)?);
            Some(slice)
        });
        over.collect()
    }

    /// Ends all.
    pub fn clear(&mut self) -> Vec<usize> {
        self.late.fill(None);
        self.open.iter_mut().enumerate().filter_map(|(slice, slot)| slot.take().map(|_| slice)).collect()
    }

    /// When the next one is overdue.
    pub fn wake(&self) -> Option<Instant> {
        self.open.iter().flatten().map(|open| open.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_with_its_last_message_its_status_or_its_time() {
        let now = Instant::now();
        let mut requests = Requests::new(2, RoundTrip::default());
        let id = requests.begin(0, 2, None, now);
        requests.message(0, false, now);
        assert_eq!(requests.wake(), Some(now + ROUND_TRIP * ROUND_TRIPS));
        requests.message(0, false, now);
        assert!(requests.wake().is_none() && !requests.end(0, id, true, now), "complete");
        let id = requests.begin(1, 1, Some(Duration::from_secs(2)), now);
        assert!(!requests.end(1, id + 1, true, now) && !requests.end(0, id, true, now), "another one");
        assert!(requests.overdue(now + Duration::from_secs(3)).is_empty());
        assert_eq!(requests.overdue(now + Duration::from_secs(5)), [1]);
        assert!(!requests.end(1, id, true, now), "late");
    }

    #[test]
    fn how_long_an_answer_may_take_follows_the_broker_also_when_it_is_late() {
        let (now, round_trip) = (Instant::now(), RoundTrip::default());
        let mut requests = Requests::new(1, round_trip.clone());
        let mut answered = |took: u64| {
            let id = requests.begin(0, 1, None, now);
            let then = now + Duration::from_millis(took);
            let given_up = !requests.overdue(then).is_empty();
            requests.end(0, id, true, then);
            given_up
        };
        assert!(!answered(1));
        assert_eq!(round_trip.patience(), NOW_MIN, "near");
        assert!(answered(60), "much farther all at once");
        assert_eq!(round_trip.patience(), Duration::from_millis(120));
        assert!(!answered(60) && answered(301), "that stood behind something");
        let id = requests.begin(0, 1, Some(Duration::from_secs(5)), now);
        requests.end(0, id, true, now + Duration::from_secs(4));
        let id = requests.begin(0, 1, None, now);
        requests.end(0, id, false, now + Duration::from_millis(200));
        assert_eq!(round_trip.patience(), Duration::from_millis(120), "a wait tells nothing");
    }
}
