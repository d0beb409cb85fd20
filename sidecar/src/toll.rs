//! Between an agent and the broker: its limits, and the destinations that are left alone. One branch for agents without.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::grant::Grant;
use agentbus_proto::{Address, Fault};
use agentbus_runtime::state;
use tokio_util::sync::CancellationToken;

use crate::breaker::{self, Destinations, State};
use crate::limits::{Meter, Used};
use crate::metrics::Metrics;

/// How often the count of stored bytes is written down: what a killed sidecar forgets.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Where, in the instance's folder.
const QUOTA_FILE: &str = "quota.json";

/// Counts and breakers of one agent's publishing. Cheap to clone.
#[derive(Clone)]
pub struct Toll {
    inner: Arc<Inner>,
}

struct Inner {
    meter: Option<Mutex<Meter>>,
    destinations: Option<Mutex<Destinations>>,
    /// How many destinations have failures: 0 nearly always, and then nothing is locked.
    failing: AtomicUsize,
    file: Option<PathBuf>,
    metrics: Metrics,
}

impl Toll {
    /// By a grant's limits; what was used today is read from the instance's folder.
    pub fn open(grant: &Grant, folder: Option<&Path>, metrics: Metrics) -> Self {
        let file = folder.filter(|_| grant.limits.stored_bytes_max.is_some()).map(|folder| folder.join(QUOTA_FILE));
        let text = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let used: Used = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let inner = Inner {
            meter: Meter::new(&grant.limits, used, Instant::now()).map(Mutex::new),
            destinations: grant.breaker.map(Destinations::new).map(Mutex::new),
            failing: AtomicUsize::new(0),
            file,
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Lets events through, all or none: `RATE_LIMITED`, `QUOTA` or `CIRCUIT_OPEN` otherwise.
    pub fn enter<'a>(&self, events: impl Iterator<Item = (&'a Address, usize)> + Clone) -> Result<(), Fault> {
        if let Some(mut destinations) = self.failing() {
            for (to, _) in events.clone() {
                destinations.pass(&to.to_string(), Instant::now())?;
            }
        }
        let Some(meter) = &self.inner.meter else { return Ok(()) };
        let (count, bytes) = events.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes as u64));
        lock(meter).take(count, bytes, Instant::now(), SystemTime::now()).inspect_err(|_| {
            self.inner.metrics.rate_limited.inc();
        })
    }

    /// Notes that an event was stored.
    pub fn stored(&self, to: &Address) {
        if let Some(mut destinations) = self.failing() {
            destinations.succeeded(&to.to_string());
            self.note(&destinations);
        }
    }

    /// Notes that an event was not stored, as far as is known.
    pub fn failed(&self, to: &Address, bytes: usize, fault: &Fault) {
        if let Some(meter) = &self.inner.meter
            && fault.code != agentbus_proto::Code::OutcomeUnknown
        {
            lock(meter).give_back(bytes as u64);
        }
        if let Some(destinations) = &self.inner.destinations
            && breaker::counts(fault)
        {
            let mut destinations = lock(destinations);
            if destinations.failed(&to.to_string(), Instant::now()) {
                tracing::warn!(%to, %fault, "publishing to it keeps failing: it is left alone for a while");
            }
            self.note(&destinations);
        }
    }

    /// Destinations that are left alone now, by name.
    pub fn open_breakers(&self) -> Vec<(String, State)> {
        self.failing().map(|destinations| destinations.open()).unwrap_or_default()
    }

    fn failing(&self) -> Option<MutexGuard<'_, Destinations>> {
        // Relaxed: one event more or less past a breaker that opens just now makes no difference.
        if self.inner.failing.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.inner.destinations.as_ref().map(lock)
    }

    fn note(&self, destinations: &Destinations) {
        self.inner.failing.store(destinations.failing(), Ordering::Relaxed);
        let worst = destinations.open().into_iter().map(|(_, state)| state).max().unwrap_or_default();
        self.inner.metrics.breaker("publish", "", worst);
    }

    /// Writes the count of stored bytes down while it changes, until stopped, and then once more.
    pub async fn save(self, stop: CancellationToken) {
        let (Some(meter), Some(file)) = (&self.inner.meter, &self.inner.file) else { return };
        let mut saved = lock(meter).used();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(SAVE_EVERY) => {}
            }
            let used = lock(meter).used();
            if used == saved {
                continue;
            }
            let (path, text) = (file.clone(), serde_json::to_vec(&used).unwrap_or_default());
            match tokio::task::spawn_blocking(move || state::write_private(&path, &text)).await {
                Ok(Ok(())) => saved = used,
                Ok(Err(error)) => tracing::warn!(%error, "the count of stored bytes is not written down"),
                Err(_) => return,
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
