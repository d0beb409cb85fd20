//! Which slice of a group is asked next, and for how much. Pure: time comes in, requests come out.
//!
//! While something waits, credit goes to slices in turns: by weight among lanes (8:4:1), one after the other among parts.
//! Each request is for what is there now and promises its credit to nobody else; a slice that had nothing is left out for
//! a moment and then looked at again in its turn. Whoever was not looked at for long comes first, so that no weight can
//! starve anybody. When nothing waits anywhere, every slice is watched by one request: the first events may then be more
//! than the credit, by one per slice at most.

use std::time::{Duration, Instant};

/// A slice that had nothing is looked at again after this long, while others have something.
const COLD: Duration = Duration::from_millis(50);
/// The same after the broker could not serve a request.
const REFUSED: Duration = Duration::from_millis(500);
/// A slice comes first when its turn has not come for this long. With quick agents turns come sooner; with slow ones this
/// is what bounds the wait.
pub const AGE_MAX: Duration = Duration::from_secs(30);

/// A request to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Number of the slice.
    pub slice: usize,
    /// Most messages.
    pub messages: usize,
    /// Wait for what comes, instead of taking what is there.
    pub wait: bool,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    weight: i64,
    /// What it is owed: the largest is next.
    owed: i64,
    open: Option<Open>,
    /// The last request was served in full: there may be more.
    hot: bool,
    /// Not asked before.
    rest_until: Option<Instant>,
    /// When it was last served, or found empty.
    seen: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    left: usize,
    wait: bool,
}

/// Turns of all slices of a group.
#[derive(Debug)]
pub struct Turns {
    turns: Vec<Turn>,
    /// Most messages of one slice that can be out at once.
    most: usize,
}

impl Turns {
    /// One turn per weight. `most` bounds one request.
    pub fn new(weights: impl IntoIterator<Item = u32>, most: usize, now: Instant) -> Self {
        let turn = |weight: u32| Turn {
            weight: i64::from(weight),
            owed: 0,
            open: None,
            // Nothing is known yet: the first round looks at each.
            hot: true,
            rest_until: None,
            seen: now,
        };
        Self { turns: weights.into_iter().map(turn).collect(), most: most.max(1) }
    }

    /// Requests to be made now for so much credit. They count as made.
    pub fn plan(&mut self, demand: usize, now: Instant) -> Vec<Ask> {
        if demand == 0 {
            return Vec::new();
        }
        if !self.turns.iter().any(|turn| turn.hot) {
            return self.watch(now);
        }
        let promised = self.promised();
        let free = demand.saturating_sub(promised);
        // Small top-ups wait until half is free: a request each would cost more than it brings.
        if promised > 0 && free * 2 < demand {
            return Vec::new();
        }
        let mut counts = vec![0usize; self.turns.len()];
        for _ in 0..free {
            let Some(slice) = self.pick(&counts, now) else { break };
            counts[slice] += 1;
        }
        let asked = counts.into_iter().enumerate().filter(|(_, messages)| *messages > 0);
        let asks: Vec<Ask> = asked.map(|(slice, messages)| Ask { slice, messages, wait: false }).collect();
        self.note(&asks);
        asks
    }

    /// Messages that may come any moment: asked for, not to be waited for, and not there yet.
    pub fn promised(&self) -> usize {
        self.turns.iter().filter_map(|turn| turn.open).filter(|open| !open.wait).map(|open| open.left).sum()
    }

    /// Nothing waits anywhere: one request for each.
    fn watch(&mut self, now: Instant) -> Vec<Ask> {
        let free = self.turns.iter().enumerate().filter(|(_, turn)| turn.open.is_none());
        // Having been empty is no reason to wait here; having been refused is.
        let rests = |turn: &Turn| turn.rest_until.is_some_and(|until| until > now + COLD);
        let asks: Vec<Ask> =
            free.filter(|(_, turn)| !rests(turn)).map(|(slice, _)| Ask { slice, messages: 1, wait: true }).collect();
        self.note(&asks);
        asks
    }

    fn note(&mut self, asks: &[Ask]) {
        for ask in asks {
            self.turns[ask.slice].open = Some(Open { left: ask.messages, wait: ask.wait });
        }
    }

    /// Whose turn it is among those that can be asked.
    fn pick(&mut self, counts: &[usize], now: Instant) -> Option<usize> {
        let can = |slice: usize, turn: &Turn| {
            // One that had nothing is only looked at.
            let most = if turn.hot { self.most } else { 1 };
            turn.open.is_none() && counts[slice] < most && turn.rest_until.is_none_or(|until| until <= now)
        };
        let able: Vec<usize> =
            self.turns.iter().enumerate().filter(|(slice, turn)| can(*slice, turn)).map(|(slice, _)| slice).collect();
        let late = |slice: &&usize| counts[**slice] == 0 && now.duration_since(self.turns[**slice].seen) >= AGE_MAX;
        if let Some(late) = able.iter().filter(late).min_by_key(|slice| self.turns[**slice].seen) {
            return Some(*late);
        }
        // A lane whose request is under way keeps its turn: given to others, the weights would be lost.
        let busy = |turn: &Turn| self.most > 1 && turn.hot && turn.open.is_some_and(|open| !open.wait);
        let at_work = self.turns.iter().enumerate().filter(|(_, turn)| busy(turn)).map(|(slice, _)| slice);
        let rivals: Vec<usize> = at_work.chain(able.iter().copied()).collect();
        let sum: i64 = rivals.iter().map(|slice| self.turns[*slice].weight).sum();
        let owed = |slice: &usize| self.turns[*slice].owed + self.turns[*slice].weight;
        // The first of equals: `max_by_key` takes the last one.
        let next = rivals.iter().rev().copied().max_by_key(owed)?;
        if !able.contains(&next) {
            return None;
        }
        for slice in rivals {
            self.turns[slice].owed += self.turns[slice].weight;
        }
        self.turns[next].owed -= sum;
        Some(next)
    }

    /// A message of this slice came.
    pub fn taken(&mut self, slice: usize, now: Instant) {
        let Some(turn) = self.turns.get_mut(slice) else { return };
        turn.seen = now;
        turn.rest_until = None;
        turn.hot = true;
        if let Some(open) = &mut turn.open {
            open.left -= 1;
            if open.left == 0 {
                turn.open = None;
            }
        }
    }

    /// The request of this slice ended with less than it asked for.
    pub fn ended(&mut self, slice: usize, refused: bool, now: Instant) {
        let Some(turn) = self.turns.get_mut(slice) else { return };
        turn.open = None;
        turn.hot = false;
        turn.owed = 0;
        turn.seen = now;
        turn.rest_until = Some(now + if refused { REFUSED } else { COLD });
    }

    /// All requests were withdrawn. What came since is not known, and one slice alone is soon looked at.
    pub fn withdrawn(&mut self) {
        let alone = self.turns.len() == 1;
        for turn in &mut self.turns {
            turn.open = None;
            turn.hot |= alone;
        }
    }

    /// Whether a request is open.
    pub fn any_open(&self) -> bool {
        self.turns.iter().any(|turn| turn.open.is_some())
    }

    /// When a slice that rests can be asked again.
    pub fn wake(&self) -> Option<Instant> {
        self.turns.iter().filter(|turn| turn.open.is_none()).filter_map(|turn| turn.rest_until).min()
    }
}

#[cfg(test)]
mod tests;
