//! What bounds an agent, and where its events wait: limits, breaker, spool.

use serde::{Deserialize, Serialize};

/// Limits of one agent; absent = none. The control plane puts its defaults in before it grants them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentLimits {
    /// Events published per second, averaged over a second.
    pub publish_per_second: Option<f64>,
    /// Largest encoded event, in bytes.
    pub event_bytes_max: Option<usize>,
    /// Deliveries held at once.
    pub in_flight_max: Option<usize>,
    /// Bytes of events stored per day, in all.
    pub stored_bytes_max: Option<u64>,
}

/// When an agent's spool is told to last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before each answer; events that come together share one fsync.
    #[default]
    Always,
    /// Every 100 ms; an answer waits for it.
    Interval,
    /// When the system likes: a killed sidecar loses nothing, a machine that loses power may.
    Never,
}

/// Where events wait while the broker is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolOptions {
    /// Most bytes on disk.
    pub bytes_max: u64,
    /// When they last.
    #[serde(default)]
    pub fsync: Fsync,
}

/// When a destination that keeps failing is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// So many failures in a row open it.
    pub failures: u32,
    /// After this long one is tried, in milliseconds.
    pub open_ms: u64,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 5, open_ms: 60_000 }
    }
}
