//! How long to wait before the next try: exponential, capped, jittered. Pure: the caller brings the randomness.

use std::time::Duration;

/// An exponential back-off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Wait before the first retry.
    pub initial: Duration,
    /// No wait is longer than this, jitter included.
    pub max: Duration,
    /// Each wait is this many times the one before. Below 1 counts as 1.
    pub factor: f64,
    /// Spread around the wait: 0.2 means ± 20 %. Clamped to 0–1.
    pub jitter: f64,
}

impl Default for Backoff {
    /// 200 ms, doubling up to 30 s, ± 20 %: quick after a hiccup, and no load on a party that stays away.
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(30), factor: 2.0, jitter: 0.2 }
    }
}

impl Backoff {
    /// The wait after failure number `attempt` (from 1; 0 counts as 1). `random01` is uniform in 0–1.
    pub fn delay(&self, attempt: u32, random01: f64) -> Duration {
        let steps = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        // Infinity is fine here: `min` brings it back.
        let grown = self.initial.as_secs_f64() * self.factor.max(1.0).powi(steps);
        let spread = 1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * random01.clamp(0.0, 1.0) - 1.0);
        let seconds = (grown.min(self.max.as_secs_f64()) * spread).min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Backoff =
        Backoff { initial: Duration::from_secs(2), max: Duration::from_secs(10), factor: 2.0, jitter: 0.0 };

    #[test]
    fn waits_double_up_to_the_cap() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 4, 5, u32::MAX].iter().map(|n| PLAIN.delay(*n, 0.5).as_secs()).collect();
        assert_eq!(seconds, [2, 2, 4, 8, 10, 10, 10]);
    }

    #[test]
    fn jitter_spreads_both_ways_and_respects_the_cap() {
        let jittery = Backoff { jitter: 0.5, ..PLAIN };
        assert_eq!(jittery.delay(1, 0.0), Duration::from_secs(1));
        assert_eq!(jittery.delay(1, 1.0), Duration::from_secs(3));
        assert_eq!(jittery.delay(9, 1.0), Duration::from_secs(10));
        assert_eq!(jittery.delay(9, 0.0), Duration::from_secs(5));
    }

    #[test]
    fn absurd_values_still_give_a_wait() {
        let absurd = Backoff { factor: f64::NAN, jitter: f64::INFINITY, ..PLAIN };
        assert!(absurd.delay(3, f64::NAN) <= PLAIN.max);
        let zero = Backoff { initial: Duration::ZERO, factor: f64::INFINITY, ..PLAIN };
        assert!(zero.delay(3, 0.5) <= PLAIN.max);
    }
}
