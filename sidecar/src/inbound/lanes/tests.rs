//! The turns against a simulated broker: random arrivals, slow and quick agents, any credit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;

/// Queues of a broker and what was taken from them, in order.
struct Sim {
    turns: Turns,
    queues: Vec<VecDeque<Instant>>,
    now: Instant,
    taken: Vec<usize>,
    waited_max: Vec<Duration>,
    /// Deliveries that the agents have.
    out: usize,
}

impl Sim {
    fn new(weights: &[u32], most: usize) -> Self {
        let now = Instant::now();
        Self {
            turns: Turns::new(weights.iter().copied(), most, now),
            queues: vec![VecDeque::new(); weights.len()],
            now,
            taken: Vec::new(),
            waited_max: vec![Duration::ZERO; weights.len()],
            out: 0,
        }
    }

    fn fill(&mut self, slice: usize, count: usize) {
        let now = self.now;
        self.queues[slice].extend(std::iter::repeat_n(now, count));
    }

    /// Asks until credit is used up or nothing is left to ask, and tells how much more than the credit was promised.
    fn serve(&mut self, credit: usize) -> usize {
        let mut watched = Vec::new();
        let mut promised_max = 0;
        loop {
            let demand = credit.saturating_sub(self.out);
            let asks = self.turns.plan(demand, self.now);
            let sum: usize = asks.iter().map(|ask| ask.messages).sum();
            promised_max = promised_max.max(sum.saturating_sub(demand));
            if asks.is_empty() {
                break;
            }
            for ask in asks {
                for _ in 0..ask.messages {
                    let Some(since) = self.queues[ask.slice].pop_front() else {
                        if ask.wait {
                            watched.push(ask.slice);
                        } else {
                            self.turns.ended(ask.slice, false, self.now);
                        }
                        break;
                    };
                    self.turns.taken(ask.slice, self.now);
                    self.waited_max[ask.slice] = self.waited_max[ask.slice].max(self.now - since);
                    self.taken.push(ask.slice);
                    self.out += 1;
                }
            }
        }
        // As the broker does after a while, or the sidecar when its agent is busy.
        if !watched.is_empty() {
            self.turns.withdrawn();
        }
        promised_max
    }

    /// The agents finish so many, each having taken `each`.
    fn work(&mut self, count: usize, each: Duration) {
        let done = count.min(self.out);
        self.out -= done;
        self.now += each;
    }

    fn shares(&self) -> Vec<usize> {
        (0..self.queues.len()).map(|slice| self.taken.iter().filter(|taken| **taken == slice).count()).collect()
    }
}

fn lanes() -> Sim {
    Sim::new(&[8, 4, 1], 512)
}

#[test]
fn a_backlog_in_all_lanes_is_shared_8_to_4_to_1_at_any_credit() {
    for credit in [1, 2, 3, 7, 13, 100] {
        let mut sim = lanes();
        (0..3).for_each(|lane| sim.fill(lane, 20_000));
        for _ in 0..1300 / credit + 1 {
            assert_eq!(sim.serve(credit), 0, "no more than the credit");
            sim.work(credit, Duration::from_millis(1));
        }
        let shares = sim.shares();
        for (share, weight) in shares.iter().zip([8, 4, 1]) {
            let wanted = sim.taken.len() * weight / 13;
            assert!(share.abs_diff(wanted) <= 13, "credit {credit}: {shares:?}");
        }
    }
}

/// Answers to requests come one by one, and credit is freed meanwhile.
#[test]
fn a_request_under_way_keeps_its_turn() {
    let now = Instant::now();
    let mut turns = Turns::new([8, 4, 1], 512, now);
    let (mut taken, mut out) = ([0usize; 3], 0usize);
    let mut open: Vec<Ask> = Vec::new();
    for step in 0..6000 {
        open.extend(turns.plan(26 - out, now));
        // The largest one is served last: its credit must not go to the others meanwhile.
        open.sort_by_key(|ask| std::cmp::Reverse(ask.slice));
        if let Some(ask) = open.first_mut() {
            turns.taken(ask.slice, now);
            taken[ask.slice] += 1;
            out += 1;
            ask.messages -= 1;
            open.retain(|ask| ask.messages > 0);
        }
        out -= if step % 2 == 0 { out.min(2) } else { 0 };
    }
    let all: usize = taken.iter().sum();
    for (share, weight) in taken.iter().zip([8, 4, 1]) {
        assert!(share.abs_diff(all * weight / 13) <= 26, "{taken:?}");
    }
    assert!(all > 3000, "{taken:?}");
}

#[test]
fn two_lanes_share_by_their_weights_and_one_alone_has_all() {
    let mut sim = lanes();
    sim.fill(0, 5000);
    sim.fill(2, 5000);
    for _ in 0..900 {
        sim.serve(1);
        sim.work(1, Duration::from_millis(1));
    }
    let shares = sim.shares();
    assert!(shares[0].abs_diff(800) <= 10 && shares[2].abs_diff(100) <= 10, "{shares:?}");
    let mut alone = lanes();
    alone.fill(2, 50);
    for _ in 0..50 {
        alone.serve(1);
        alone.work(1, Duration::from_millis(1));
    }
    assert_eq!(alone.shares(), [0, 0, 50]);
}

#[test]
fn a_low_event_waits_a_bounded_time_under_a_flood() {
    // Quick agents: one round of turns. Slow ones: the age.
    for (each, bound) in [
        (Duration::from_millis(2), Duration::from_millis(200)),
        (Duration::from_secs(1), Duration::from_secs(15)),
        (Duration::from_secs(20), AGE_MAX + Duration::from_secs(40)),
    ] {
        let mut sim = lanes();
        sim.fill(0, 100);
        for round in 0..400 {
            sim.fill(0, 2);
            if round % 40 == 20 {
                sim.fill(2, 1);
            }
            sim.serve(1);
            sim.work(1, each);
        }
        assert_eq!(sim.shares()[2], 10, "all of them");
        assert!(sim.waited_max[2] <= bound, "{each:?}: {:?}", sim.waited_max);
    }
}

#[test]
fn single_low_events_get_no_more_than_their_share() {
    let mut sim = lanes();
    sim.fill(0, 5000);
    for _ in 0..1800 {
        // There is always exactly one: it must not look like an empty lane that is watched.
        if sim.queues[2].is_empty() {
            sim.fill(2, 1);
        }
        sim.serve(1);
        sim.work(1, Duration::from_millis(1));
    }
    let shares = sim.shares();
    assert!(shares[2] <= 210, "{shares:?}");
}

#[test]
fn parts_take_turns_and_nothing_is_forgotten() {
    let mut seed = 7u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for credit in [1, 3, 20] {
        let mut sim = Sim::new(&[1; 17], 1);
        let mut published = 0;
        for _ in 0..2000 {
            for _ in 0..random(3) {
                sim.fill(random(17), 1);
                published += 1;
            }
            sim.serve(credit);
            sim.work(1 + random(credit), Duration::from_millis(10));
        }
        while sim.queues.iter().any(|queue| !queue.is_empty()) {
            sim.serve(credit);
            sim.work(credit, Duration::from_millis(60));
        }
        assert_eq!(sim.taken.len(), published, "credit {credit}");
    }
}

#[test]
fn idle_slices_are_watched_and_refusals_rest() {
    let now = Instant::now();
    let mut turns = Turns::new([8, 4, 1], 512, now);
    let first = turns.plan(1, now);
    assert_eq!(first, [Ask { slice: 0, messages: 1, wait: false }]);
    assert_eq!(turns.plan(1, now), [], "the credit is promised");
    for slice in 0..3 {
        turns.ended(slice, slice == 2, now);
    }
    let watched = turns.plan(1, now);
    assert_eq!(watched.iter().map(|ask| (ask.slice, ask.wait)).collect::<Vec<_>>(), [(0, true), (1, true)]);
    assert_eq!(turns.wake(), Some(now + REFUSED));
    assert_eq!(turns.plan(1, now + REFUSED).len(), 1);
    assert!(turns.any_open());
    assert_eq!(turns.plan(0, now), []);
}
