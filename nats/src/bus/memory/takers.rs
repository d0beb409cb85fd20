//! Who pulls from which consumer, and whose turn it is. Pure: the time comes in.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::pull::Incoming;

/// Stream and consumer.
pub(super) type Place = (String, String);

/// Everybody who pulls.
#[derive(Default)]
pub(super) struct Takers {
    takers: BTreeMap<u64, Taker>,
    /// Who pulls from a consumer, whose turn it is first.
    rings: HashMap<Place, VecDeque<u64>>,
    last: u64,
}

struct Taker {
    place: Place,
    /// How many more it can take, those in its queue included.
    want: usize,
    queue: VecDeque<Incoming>,
    /// When it last could take something.
    asked: Instant,
    bell: Arc<Notify>,
}

impl Taker {
    fn asks(&self) -> bool {
        self.want > self.queue.len()
    }
}

impl Takers {
    /// A new one, that asks for nothing yet; its bell rings when something is in its queue.
    pub fn open(&mut self, place: Place, now: Instant) -> (u64, Arc<Notify>) {
        self.last += 1;
        let bell = Arc::new(Notify::new());
        let taker = Taker { place: place.clone(), want: 0, queue: VecDeque::new(), asked: now, bell: bell.clone() };
        self.takers.insert(self.last, taker);
        self.rings.entry(place).or_default().push_back(self.last);
        (self.last, bell)
    }

    /// Sets how many more it can take; tells where that may change something.
    pub fn want(&mut self, id: u64, want: usize, now: Instant) -> Option<Place> {
        let taker = self.takers.get_mut(&id)?;
        if want > 0 || taker.want > 0 {
            taker.asked = now;
        }
        taker.want = want;
        Some(taker.place.clone())
    }

    /// What is in its queue; with where, when that was all it wanted.
    pub fn pop(&mut self, id: u64) -> Option<(Incoming, Option<Place>)> {
        let taker = self.takers.get_mut(&id)?;
        let incoming = taker.queue.pop_front()?;
        taker.want = taker.want.saturating_sub(1);
        Some((incoming, (taker.want == 0).then(|| taker.place.clone())))
    }

    /// It goes; what was in its queue is given to the caller, and where somebody else may be served now.
    pub fn close(&mut self, id: u64) -> Option<(Place, Vec<Incoming>)> {
        let taker = self.takers.remove(&id)?;
        if let Some(ring) = self.rings.get_mut(&taker.place) {
            ring.retain(|other| *other != id);
            if ring.is_empty() {
                self.rings.remove(&taker.place);
            }
        }
        Some((taker.place, taker.queue.into()))
    }

    /// Whose turn it is, if anybody asks. `pin`: only the first one is served, until it has not asked for so long.
    pub fn turn(&mut self, place: &Place, pin: Option<Duration>, now: Instant) -> Option<u64> {
        let ring = self.rings.get_mut(place)?;
        if let Some(pin) = pin {
            let first = ring.front()?;
            let holder = self.takers.get(first)?;
            if holder.asks() {
                return Some(*first);
            }
            if holder.want > 0 || now < holder.asked + pin {
                return None;
            }
        }
        let at = ring.iter().position(|id| self.takers.get(id).is_some_and(Taker::asks))?;
        // The one whose turn it was goes behind all others; a pinned one stays in front.
        ring.rotate_left(if pin.is_some() { at } else { at + 1 });
        let served = if pin.is_some() { ring.front() } else { ring.back() };
        served.copied()
    }

    /// Puts a message into a queue.
    pub fn give(&mut self, id: u64, incoming: Incoming) {
        if let Some(taker) = self.takers.get_mut(&id) {
            taker.queue.push_back(incoming);
            taker.bell.notify_one();
        }
    }

    /// Pulls of this consumer that ask.
    pub fn waiting(&self, place: &Place) -> u64 {
        let ring = self.rings.get(place).into_iter().flatten();
        ring.filter(|id| self.takers.get(id).is_some_and(Taker::asks)).count() as u64
    }

    /// Consumers of a stream that somebody pulls from.
    pub fn places(&self, stream: &str) -> Vec<Place> {
        self.rings.keys().filter(|(other, _)| other == stream).cloned().collect()
    }

    /// When somebody may be served of what comes again at `again`; none while nobody asks. A standby waits for the pin to end.
    pub fn served_at(&self, place: &Place, pin: Option<Duration>, again: Option<Instant>) -> Option<Instant> {
        let Some(pin) = pin else { return again.filter(|_| self.waiting(place) > 0) };
        let ring = self.rings.get(place)?;
        let holder = self.takers.get(ring.front()?)?;
        if holder.asks() {
            return again;
        }
        let standby = ring.iter().skip(1).any(|id| self.takers.get(id).is_some_and(Taker::asks));
        (holder.want == 0 && standby).then_some(holder.asked + pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        ("S".into(), "c".into())
    }

    #[test]
    fn those_who_ask_are_served_in_turn() {
        let (mut takers, now) = (Takers::default(), Instant::now());
        let ids: Vec<u64> = (0..3).map(|_| takers.open(place(), now).0).collect();
        takers.want(ids[0], 2, now);
        takers.want(ids[2], 1, now);
        let mut turns = Vec::new();
        while let Some(id) = takers.turn(&place(), None, now) {
            takers.give(id, crate::moves::example("S", 1, "a", b""));
            turns.push(id);
        }
        assert_eq!(turns, [ids[0], ids[2], ids[0]]);
        assert_eq!(takers.waiting(&place()), 0);
        assert!(takers.pop(ids[0]).is_some());
        assert_eq!(takers.turn(&place(), None, now), None, "what it took counts towards its wish");
    }

    #[test]
    fn a_pinned_one_is_served_alone_until_it_is_silent() {
        let (mut takers, now) = (Takers::default(), Instant::now());
        let pin = Duration::from_secs(3);
        let (first, second) = (takers.open(place(), now).0, takers.open(place(), now).0);
        takers.want(first, 1, now);
        takers.want(second, 1, now);
        assert_eq!(takers.turn(&place(), Some(pin), now), Some(first));
        takers.want(first, 0, now);
        assert_eq!(takers.turn(&place(), Some(pin), now), None);
        assert_eq!(takers.served_at(&place(), Some(pin), Some(now)), Some(now + pin));
        assert_eq!(takers.turn(&place(), Some(pin), now + pin), Some(second));
        takers.want(first, 1, now + pin);
        assert_eq!(takers.turn(&place(), Some(pin), now + pin), Some(second), "the pin has moved");
    }

    #[test]
    fn who_leaves_is_no_longer_waited_for() {
        let (mut takers, now) = (Takers::default(), Instant::now());
        let id = takers.open(place(), now).0;
        takers.want(id, 1, now);
        takers.give(id, crate::moves::example("S", 1, "a", b""));
        assert_eq!(takers.close(id).unwrap().1.len(), 1);
        assert!(takers.turn(&place(), None, now).is_none() && takers.places("S").is_empty());
    }
}
