//! Whether and when a process that exited is started again. A pure state machine: time and randomness come in.
//!
//! Back-off grows with each restart, and a healthy stretch forgets the past. A budget bounds restarts per window, so that a
//! program that can never start is given up (`crashlooping`) instead of burning a core for ever. Nothing here starts anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// When a process is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whatever its exit.
    #[default]
    Always,
    /// When it failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// At most `max` restarts within any `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Restarts.
    pub max: u32,
    /// Length of the window.
    pub per: Duration,
}

impl Default for Budget {
    /// 10 in 5 minutes: with the default back-off a program that dies at once is given up after about two minutes.
    fn default() -> Self {
        Self { max: 10, per: Duration::from_secs(300) }
    }
}

/// What to do about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start again after this wait.
    RestartAfter(Duration),
    /// Leave it: the policy asks for no restart.
    Finished,
    /// Leave it: the budget is spent. Only a person, or a changed definition, brings it back.
    GiveUp,
}

/// The restart history of one process.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: Policy,
    budget: Budget,
    backoff: Backoff,
    healthy_after: Duration,
    started: Option<Instant>,
    /// Restarts since the last healthy stretch.
    streak: u32,
    /// Moments of the restarts inside the window, oldest first; never more than `budget.max`.
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// A process without history. One that ran for `healthy_after` counts as healthy: its back-off and budget start afresh.
    pub fn new(policy: Policy, budget: Budget, backoff: Backoff, healthy_after: Duration) -> Self {
        Self { policy, budget, backoff, healthy_after, started: None, streak: 0, recent: VecDeque::new() }
    }

    /// The process was started.
    pub fn on_start(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// The process exited, or could not be started at all. `random01` is uniform in 0–1.
    pub fn on_exit(&mut self, now: Instant, success: bool, random01: f64) -> Decision {
        let ran = self.started.take().map(|started| now.saturating_duration_since(started));
        if ran.is_some_and(|ran| ran >= self.healthy_after) {
            self.reset();
        }
        let wanted = match self.policy {
            Policy::Always => true,
            Policy::OnFailure => !success,
            Policy::Never => false,
        };
        if !wanted {
            return Decision::Finished;
        }
        while self.recent.front().is_some_and(|then| now.saturating_duration_since(*then) >= self.budget.per) {
            self.recent.pop_front();
        }
        if self.recent.len() >= usize::try_from(self.budget.max).unwrap_or(usize::MAX) {
            return Decision::GiveUp;
        }
        self.recent.push_back(now);
        self.streak = self.streak.saturating_add(1);
        Decision::RestartAfter(self.backoff.delay(self.streak, random01))
    }

    /// Restarts since the last healthy stretch.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// Forgets the past, as after a healthy stretch: a person asked for another try.
    pub fn reset(&mut self) {
        self.streak = 0;
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts(policy: Policy, max: u32) -> Restarts {
        let backoff = Backoff { initial: SECOND, max: 60 * SECOND, factor: 2.0, jitter: 0.0 };
        Restarts::new(policy, Budget { max, per: 100 * SECOND }, backoff, 30 * SECOND)
    }

    #[test]
    fn back_off_grows_until_the_budget_is_spent() {
        let (mut machine, now) = (restarts(Policy::Always, 3), Instant::now());
        let decisions: Vec<_> = (0..4).map(|_| machine.on_exit(now, false, 0.5)).collect();
        let after = |seconds| Decision::RestartAfter(SECOND * seconds);
        assert_eq!(decisions, [after(1), after(2), after(4), Decision::GiveUp]);
        machine.reset();
        assert_eq!(machine.on_exit(now, false, 0.5), after(1));
    }

    #[test]
    fn a_healthy_stretch_forgets_the_past() {
        let (mut machine, now) = (restarts(Policy::Always, 2), Instant::now());
        machine.on_exit(now, false, 0.5);
        machine.on_exit(now, false, 0.5);
        machine.on_start(now);
        assert_eq!(machine.on_exit(now + 30 * SECOND, false, 0.5), Decision::RestartAfter(SECOND));
        assert_eq!(machine.streak(), 1);
    }

    #[test]
    fn old_restarts_leave_the_window() {
        let (mut machine, now) = (restarts(Policy::Always, 1), Instant::now());
        machine.on_exit(now, false, 0.5);
        assert_eq!(machine.on_exit(now + 99 * SECOND, false, 0.5), Decision::GiveUp);
        assert!(matches!(machine.on_exit(now + 100 * SECOND, false, 0.5), Decision::RestartAfter(_)));
    }

    #[test]
    fn the_policy_decides_first() {
        let now = Instant::now();
        let cases = [
            (Policy::Always, true, true),
            (Policy::OnFailure, true, false),
            (Policy::OnFailure, false, true),
            (Policy::Never, false, false),
        ];
        for (policy, success, again) in cases {
            let decision = restarts(policy, 1).on_exit(now, success, 0.5);
            assert_eq!(matches!(decision, Decision::RestartAfter(_)), again, "{policy:?} {success}");
        }
    }
}
