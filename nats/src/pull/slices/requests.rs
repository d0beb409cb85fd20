//! The open requests of several slices, one each, and what ends them. Pure: time comes in.

use std::time::Duration;

use tokio::time::Instant;

/// A request for what is there now is answered within a round trip. One that is not stands behind a delivery that is out,
/// or behind another sidecar's pin.
const NOW_MAX: Duration = Duration::from_millis(20);
/// A request that waits is ended by the broker; when it is not, it was lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    id: u64,
    left: usize,
    until: Instant,
}

/// At most one open request per slice.
#[derive(Debug)]
pub(super) struct Requests {
    open: Vec<Option<Open>>,
    next: u64,
}

impl Requests {
    pub fn new(slices: usize) -> Self {
        Self { open: vec![None; slices], next: 1 }
    }

    /// Notes a request; its id is in the subject of all that answers it. `expires`: how long it waits, none when it does
    /// not.
    pub fn begin(&mut self, slice: usize, messages: usize, expires: Option<Duration>, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        let until = now + expires.map_or(NOW_MAX, |expires| expires + LOST_AFTER);
        if let Some(slot) = self.open.get_mut(slice) {
            *slot = Some(Open { id, left: messages, until });
        }
        id
    }

    /// A message came from this slice.
    pub fn message(&mut self, slice: usize) {
        if let Some(slot) = self.open.get_mut(slice)
            && let Some(open) = slot.as_mut()
        {
            open.left -= 1;
            if open.left == 0 {
                *slot = None;
            }
        }
    }

    /// The broker ended this request; false when it was over already.
    pub fn end(&mut self, slice: usize, id: u64) -> bool {
        let known = self.open.get_mut(slice);
        known.is_some_and(|slot| slot.take_if(|open| open.id == id).is_some())
    }

    /// Ends those that nobody will answer any more.
    pub fn overdue(&mut self, now: Instant) -> Vec<usize> {
        let over = |slot: &mut Option<Open>| slot.take_if(|open| open.until <= now).is_some();
        self.open.iter_mut().enumerate().filter_map(|(slice, slot)| over(slot).then_some(slice)).collect()
    }

    /// Ends all.
    pub fn clear(&mut self) -> Vec<usize> {
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
        let mut requests = Requests::new(2);
        let id = requests.begin(0, 2, None, now);
        requests.message(0);
        assert_eq!(requests.wake(), Some(now + NOW_MAX));
        requests.message(0);
        assert!(requests.wake().is_none() && !requests.end(0, id), "complete");
        let id = requests.begin(1, 1, Some(Duration::from_secs(2)), now);
        assert!(!requests.end(1, id + 1) && !requests.end(0, id), "another one");
        assert!(requests.overdue(now + Duration::from_secs(3)).is_empty());
        assert_eq!(requests.overdue(now + Duration::from_secs(5)), [1]);
        assert!(!requests.end(1, id), "late");
    }
}
