//! What an agent may use: events per second, bytes stored per day. Pure: time comes in.
//!
//! Limits are per instance. Without one nothing is counted. The size of an event is checked with the event itself, and
//! deliveries in flight where deliveries are handed out.

use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::grant::AgentLimits;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::bytesize;
use serde::{Deserialize, Serialize};

const DAY_SECONDS: u64 = 24 * 3600;

/// Bytes stored on one day, in UTC. Kept on disk, so that a restart does not begin a new day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Days since 1970.
    pub day: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counts for one instance.
#[derive(Debug)]
pub struct Meter {
    rate: Option<Bucket>,
    bytes_max: Option<u64>,
    used: Used,
}

/// Holds the events of one second, and is filled at the rate.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    events: f64,
    at: Instant,
}

impl Meter {
    /// For these limits; `None` when there is nothing to count.
    pub fn new(limits: &AgentLimits, used: Used, now: Instant) -> Option<Self> {
        if limits.publish_per_second.is_none() && limits.stored_bytes_max.is_none() {
            return None;
        }
        let bucket = |per_second: f64| Bucket { per_second, events: per_second.max(1.0), at: now };
        Some(Self { rate: limits.publish_per_second.map(bucket), bytes_max: limits.stored_bytes_max, used })
    }

    /// Takes `events` with `bytes` in all, or says when to come again: `RATE_LIMITED`, `QUOTA`.
    pub fn take(&mut self, events: usize, bytes: u64, now: Instant, time: SystemTime) -> Result<(), Fault> {
        if let Some(bytes_max) = self.bytes_max {
            let (day, left) = day(time);
            if self.used.day != day {
                self.used = Used { day, bytes: 0 };
            }
            if self.used.bytes.saturating_add(bytes) > bytes_max {
                let most = bytesize::format(bytes_max);
                let why = format!("the agent has used up its {most} of stored bytes for today (limits.stored_bytes)");
                return Err(Fault::new(Code::Quota, why).with_retry_after(left));
            }
        }
        if let Some(bucket) = &mut self.rate {
            bucket.take(events, now)?;
        }
        self.used.bytes += bytes;
        Ok(())
    }

    /// Gives back the bytes of what was not stored.
    pub fn give_back(&mut self, bytes: u64) {
        self.used.bytes = self.used.bytes.saturating_sub(bytes);
    }

    /// What is used today.
    pub fn used(&self) -> Used {
        self.used
    }
}

impl Bucket {
    fn take(&mut self, events: usize, now: Instant) -> Result<(), Fault> {
        let most = self.per_second.max(1.0);
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.events, self.at) = ((self.events + since * self.per_second).min(most), now);
        // More at once than a second allows pass when the bucket is full, and are made up for afterwards.
        let needed = (events as f64).min(most);
        // A hair's breadth: 0.1 + 0.2 is not 0.3.
        if self.events + 1e-9 < needed {
            let wait = Duration::try_from_secs_f64((needed - self.events) / self.per_second).unwrap_or(Duration::MAX);
            let why = format!("the agent publishes more than {} (limits.publish_rate)", rate(self.per_second));
            return Err(Fault::new(Code::RateLimited, why).with_retry_after(wait.max(Duration::from_millis(1))));
        }
        self.events -= events as f64;
        Ok(())
    }
}

/// A rate for people.
fn rate(per_second: f64) -> String {
    if per_second >= 1.0 {
        return format!("{per_second} events per second");
    }
    format!("one event in {:.0} s", 1.0 / per_second)
}

/// The day in UTC, and how long it lasts.
fn day(time: SystemTime) -> (u64, Duration) {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    (seconds / DAY_SECONDS, Duration::from_secs(DAY_SECONDS - seconds % DAY_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn meter(rate: Option<f64>, bytes: Option<u64>, used: Used, now: Instant) -> Meter {
        let limits = AgentLimits { publish_per_second: rate, stored_bytes_max: bytes, ..AgentLimits::default() };
        Meter::new(&limits, used, now).unwrap()
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        assert!(Meter::new(&AgentLimits::default(), Used::default(), Instant::now()).is_none());
    }

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_the_rate() {
        let now = Instant::now();
        let mut meter = meter(Some(10.0), None, Used::default(), now);
        (0..10).for_each(|_| meter.take(1, 1, now, at(0)).unwrap());
        let fault = meter.take(1, 1, now, at(0)).unwrap_err();
        assert_eq!((fault.code, fault.retry_after), (Code::RateLimited, Some(Duration::from_millis(100))));
        meter.take(1, 1, now + Duration::from_millis(100), at(0)).unwrap();
        assert!(meter.take(1, 1, now + Duration::from_millis(101), at(0)).is_err());
        // Idle time is not saved up beyond a second.
        let later = now + Duration::from_secs(60);
        (0..10).for_each(|_| meter.take(1, 1, later, at(0)).unwrap());
        assert!(meter.take(1, 1, later, at(0)).is_err());
    }

    #[test]
    fn many_at_once_are_made_up_for() {
        let now = Instant::now();
        let mut meter = meter(Some(2.0), None, Used::default(), now);
        meter.take(6, 6, now, at(0)).unwrap();
        let fault = meter.take(1, 1, now, at(0)).unwrap_err();
        assert_eq!(fault.retry_after, Some(Duration::from_millis(2500)));
        meter.take(1, 1, now + Duration::from_millis(2500), at(0)).unwrap();
    }

    #[test]
    fn a_quota_begins_anew_with_the_day_and_goes_on_after_a_restart() {
        let now = Instant::now();
        let mut first = meter(None, Some(100), Used::default(), now);
        first.take(1, 90, now, at(DAY_SECONDS + 10)).unwrap();
        let mut second = meter(None, Some(100), first.used(), now);
        let fault = second.take(1, 20, now, at(DAY_SECONDS + 20)).unwrap_err();
        let left = Duration::from_secs(DAY_SECONDS - 20);
        assert_eq!((fault.code, fault.retry_after), (Code::Quota, Some(left)));
        second.give_back(30);
        second.take(1, 20, now, at(DAY_SECONDS + 20)).unwrap();
        second.take(1, 100, now, at(2 * DAY_SECONDS)).unwrap();
    }
}
