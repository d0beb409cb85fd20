//! Leaving alone what keeps failing: closed → (so many failures in a row) open → (a while) half-open: one try decides.
//!
//! Pure: time comes in. [`Breaker`] is the machine; [`Destinations`] holds one for each address that publishing fails for;
//! `inbound::table` holds one for each group whose events the agent fails to handle. `docs/guide/limits.md` says what counts
//! as a failure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agentbus_nats::grant::BreakerPolicy;
use agentbus_proto::{Code, Fault};

/// Addresses with failures that are remembered; more of them than this are let through.
const DESTINATIONS_MAX: usize = 1024;
/// A try whose outcome nobody heard of is given up after this long: longer than any publish takes.
const TRY_MAX: Duration = Duration::from_secs(15);

/// State of one breaker, as metrics show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Everything passes.
    #[default]
    Closed,
    /// One is tried.
    HalfOpen,
    /// Nothing passes.
    Open,
}

impl State {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    /// The value of `breaker_state`: 0 closed, 1 half-open, 2 open.
    pub fn number(self) -> i64 {
        self as i64
    }
}

/// One breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    failures: u32,
    /// The event that failed first in this row, and whether another one failed too.
    first: Option<u64>,
    several: bool,
    /// Open: until when. Half-open: since when one is tried.
    at: Option<Instant>,
}

impl Breaker {
    /// A closed one.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed, failures: 0, first: None, several: false, at: None }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Counts a failure of the event with this mark, none when it is not known which one it was; true when that opens it.
    /// One bad event alone does not, however often it is tried: it ends as a dead letter.
    pub fn failed(&mut self, event: Option<u64>, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if let Some(event) = event {
            self.several |= self.first.is_some_and(|first| first != event);
            self.first.get_or_insert(event);
        }
        let opens = match self.state {
            State::Closed => self.failures >= self.policy.failures && self.several,
            State::HalfOpen => true,
            State::Open => false,
        };
        if opens {
            self.state = State::Open;
            self.at = Some(now + Duration::from_millis(self.policy.open_ms));
        }
        opens
    }

    /// Half-opens it when it is time; true when that happens now.
    pub fn tick(&mut self, now: Instant) -> bool {
        let due = self.state == State::Open && self.at.is_some_and(|until| now >= until);
        if due {
            (self.state, self.at) = (State::HalfOpen, None);
        }
        due
    }

    /// Whether one may pass; it says how long it is until the next try otherwise.
    fn pass(&mut self, now: Instant) -> Result<(), Duration> {
        self.tick(now);
        match self.state {
            State::Closed => Ok(()),
            State::Open => Err(self.at.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))),
            State::HalfOpen => {
                if let Some(since) = self.at
                    && now < since + TRY_MAX
                {
                    return Err((since + TRY_MAX).duration_since(now).min(Duration::from_secs(1)));
                }
                self.at = Some(now);
                Ok(())
            }
        }
    }
}

/// The destinations that publishing fails for. Those without failures cost nothing.
#[derive(Debug)]
pub struct Destinations {
    policy: BreakerPolicy,
    failing: HashMap<String, Breaker>,
    /// Tells failures apart: each is another event's.
    count: u64,
}

impl Destinations {
    /// None fails yet.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, failing: HashMap::new(), count: 0 }
    }

    /// `CIRCUIT_OPEN` while the destination is left alone.
    pub fn pass(&mut self, to: &str, now: Instant) -> Result<(), Fault> {
        let Some(breaker) = self.failing.get_mut(to) else { return Ok(()) };
        breaker.pass(now).map_err(|left| {
            let why =
                format!("publishing to `{to}` failed {} times in a row: it is tried again later", breaker.failures);
            Fault::new(Code::CircuitOpen, why).with_retry_after(left.max(Duration::from_millis(100)))
        })
    }

    /// It took an event.
    pub fn succeeded(&mut self, to: &str) {
        self.failing.remove(to);
    }

    /// It did not; true when that opens its breaker.
    pub fn failed(&mut self, to: &str, now: Instant) -> bool {
        self.count += 1;
        if self.failing.len() >= DESTINATIONS_MAX && !self.failing.contains_key(to) {
            return false;
        }
        let (policy, count) = (self.policy, self.count);
        self.failing.entry(to.to_owned()).or_insert_with(|| Breaker::new(policy)).failed(Some(count), now)
    }

    /// How many have failures.
    pub fn failing(&self) -> usize {
        self.failing.len()
    }

    /// Those that are not closed, by name.
    pub fn open(&self) -> Vec<(String, State)> {
        let open = self.failing.iter().filter(|(_, breaker)| breaker.state != State::Closed);
        let mut open: Vec<_> = open.map(|(to, breaker)| (to.clone(), breaker.state)).collect();
        open.sort_by(|one, other| one.0.cmp(&other.0));
        open
    }
}

/// Whether a failed publish speaks against its destination: what the broker has no room or strength for. An agent's own
/// limits do not, nor does a broker that is away, which is away for all.
pub fn counts(fault: &Fault) -> bool {
    matches!(fault.code, Code::StreamFull | Code::RateLimited | Code::CapacityExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { failures: 5, open_ms: 60_000 };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn five_failures_open_it_for_a_minute_and_one_try_decides() {
        let (mut all, mut now) = (Destinations::new(POLICY), Instant::now());
        for failure in 1..=5 {
            assert!(all.pass("a.b", now).is_ok());
            assert_eq!(all.failed("a.b", now), failure == 5);
        }
        let fault = all.pass("a.b", now + SECOND).unwrap_err();
        assert_eq!((fault.code, fault.retry_after), (Code::CircuitOpen, Some(59 * SECOND)));
        assert!(all.pass("other", now).is_ok());
        assert_eq!(all.open(), [("a.b".to_owned(), State::Open)]);
        now += 60 * SECOND;
        assert!(all.pass("a.b", now).is_ok(), "one is tried");
        assert_eq!(all.pass("a.b", now).unwrap_err().retry_after, Some(SECOND), "one only");
        assert!(all.failed("a.b", now), "open again");
        assert!(all.pass("a.b", now + 59 * SECOND).is_err());
        assert!(all.pass("a.b", now + 60 * SECOND).is_ok());
        all.succeeded("a.b");
        assert!(all.pass("a.b", now + 60 * SECOND).is_ok() && all.open().is_empty() && all.failing() == 0);
    }

    #[test]
    fn a_success_in_between_starts_the_row_anew() {
        let (mut all, now) = (Destinations::new(POLICY), Instant::now());
        for _ in 0..10 {
            (0..4).for_each(|_| assert!(!all.failed("a", now)));
            all.succeeded("a");
        }
    }

    #[test]
    fn a_try_that_nobody_heard_of_is_given_up() {
        let (mut all, now) = (Destinations::new(POLICY), Instant::now());
        (0..5).for_each(|_| assert!(all.pass("a", now).is_ok() | all.failed("a", now)));
        let later = now + 60 * SECOND;
        assert!(all.pass("a", later).is_ok() && all.pass("a", later + 14 * SECOND).is_err());
        assert!(all.pass("a", later + TRY_MAX).is_ok());
    }

    #[test]
    fn one_bad_event_alone_opens_nothing() {
        let (mut breaker, now) = (Breaker::new(POLICY), Instant::now());
        (0..20).for_each(|_| assert!(!breaker.failed(Some(7), now)));
        assert!(breaker.failed(Some(8), now));
    }
}
