//! Numbers from samples: rates, percentiles, medians. Pure.

use std::time::Duration;

use serde::Serialize;

/// Latencies of one measurement, or the medians of several; microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50_us: f64,
    /// One of a hundred is slower.
    pub p99_us: f64,
}

/// CPU time of the parties in seconds per million events. `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// This process, the agent.
    pub agent: Option<f64>,
    /// The sidecar; none in the direct arm.
    pub sidecar: Option<f64>,
    /// nats-server.
    pub server: Option<f64>,
}

/// A measurement at full speed, or the medians of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Events per second.
    pub per_second: f64,
    /// What it cost.
    pub cpu_s_per_million: Cpu,
}

impl Rate {
    /// Of so many events in this time.
    pub fn of(events: u64, took: Duration, cpu: Cpu) -> Self {
        let per_million = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1e6 / events as f64);
        let cpu_s_per_million =
            Cpu { agent: per_million(cpu.agent), sidecar: per_million(cpu.sidecar), server: per_million(cpu.server) };
        Self { per_second: events as f64 / took.as_secs_f64().max(1e-9), cpu_s_per_million }
    }

    /// Medians, each figure by itself. `None` of nothing.
    pub fn median(rounds: &[Self]) -> Option<Self> {
        let cpu = |part: fn(&Cpu) -> Option<f64>| {
            median(&rounds.iter().filter_map(|rate| part(&rate.cpu_s_per_million)).collect::<Vec<_>>())
        };
        let cpu_s_per_million =
            Cpu { agent: cpu(|cpu| cpu.agent), sidecar: cpu(|cpu| cpu.sidecar), server: cpu(|cpu| cpu.server) };
        let per_second = median(&rounds.iter().map(|rate| rate.per_second).collect::<Vec<_>>())?;
        Some(Self { per_second, cpu_s_per_million })
    }
}

impl Latency {
    /// Of these samples. `None` of nothing.
    pub fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        let us = |share| percentile(&samples, share).map(|duration| duration.as_secs_f64() * 1e6);
        Some(Self { p50_us: us(0.50)?, p99_us: us(0.99)? })
    }

    /// Medians of each percentile.
    pub fn median(rounds: &[Self]) -> Option<Self> {
        let of = |part: fn(&Self) -> f64| median(&rounds.iter().map(part).collect::<Vec<_>>());
        Some(Self { p50_us: of(|latency| latency.p50_us)?, p99_us: of(|latency| latency.p99_us)? })
    }
}

/// Nearest rank: the smallest sample that at least this share of all do not exceed.
pub fn percentile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// The middle value; of an even number the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (share, wanted) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(percentile(&hundred, share), Some(wanted), "{share}");
        }
        assert_eq!(percentile(&[7], 0.99), Some(7));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn the_median_ignores_one_bad_round() {
        assert_eq!(median(&[100.0, 3.0, 101.0]), Some(100.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn rates_carry_what_they_cost() {
        let cpu = Cpu { agent: Some(0.5), sidecar: None, server: Some(2.0) };
        let rate = Rate::of(500_000, Duration::from_secs(2), cpu);
        assert_eq!(rate.per_second, 250_000.0);
        assert_eq!(rate.cpu_s_per_million, Cpu { agent: Some(1.0), sidecar: None, server: Some(4.0) });
        assert_eq!(Rate::median(&[rate, rate, rate]), Some(rate));
        assert_eq!(Rate::median(&[]), None);
    }

    #[test]
    fn latencies_do_not_need_sorted_samples() {
        let samples = [300, 100, 200].map(Duration::from_micros).to_vec();
        assert_eq!(Latency::of(samples), Some(Latency { p50_us: 200.0, p99_us: 300.0 }));
        assert_eq!(Latency::of(Vec::new()), None);
    }
}
