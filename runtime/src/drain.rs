//! How a process stops: first everybody is asked to stop taking work, then everybody gets a bounded time to finish.
//!
//! The order: 1. a signal, `POST /drain` or the parent cancels the token; 2. every part that holds the token stops its intake
//! and finishes what it has; 3. `drain` waits for the tracked tasks, at most `grace`; 4. the caller flushes telemetry and leaves.
//! A second signal means that somebody is tired of waiting: the process ends at once with 130.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Exit code after a second signal, as shells report an interrupted program.
const INTERRUPTED: i32 = 130;

/// The stop button and the list of those who must finish. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
}

/// The grace ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tasks} tasks not finished after {grace:?}")]
pub struct Unfinished {
    /// Tasks still running.
    pub tasks: usize,
    /// What they were given.
    pub grace: Duration,
}

impl Shutdown {
    /// A process that runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when draining begins; give it to every part that takes work.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Tasks that [`Self::drain`] waits for.
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Begins draining without waiting. Idempotent.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until draining begins. Cancel-safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Begins draining and waits for the tracked tasks, at most `grace`. What did not finish keeps running; it dies with the
    /// runtime.
    pub async fn drain(&self, grace: Duration) -> Result<(), Unfinished> {
        self.begin();
        self.tracker.close();
        let finished = tokio::time::timeout(grace, self.tracker.wait()).await;
        finished.map_err(|_| Unfinished { tasks: self.tracker.len(), grace })
    }

    /// Begins draining on SIGINT or SIGTERM; on a second one the process exits at once with 130. Handlers are in place when
    /// this returns. Needs a runtime.
    pub fn on_signals(&self) -> io::Result<()> {
        let signals = signals()?;
        let shutdown = self.clone();
        // Not tracked: it outlives the drain on purpose, to hear the second signal.
        tokio::spawn(async move {
            let name = signals.await;
            info!(signal = name, "draining; a second signal ends at once");
            shutdown.begin();
        });
        Ok(())
    }
}

/// Resolves with the name of the first SIGINT or SIGTERM; a second one exits the process at once with 130.
/// Handlers are in place when this returns, before the future is polled.
pub fn signals() -> io::Result<impl Future<Output = &'static str> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // In `select!` nothing is lost: a signal that came meanwhile is kept by its stream.
    Ok(async move {
        let first = tokio::select! { _ = interrupt.recv() => "SIGINT", _ = terminate.recv() => "SIGTERM" };
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            warn!("second signal: leaving without finishing");
            std::process::exit(INTERRUPTED);
        });
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_tracked_tasks() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let task = shutdown.tracker().spawn(async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(shutdown.drain(Duration::from_secs(5)).await, Ok(()));
        assert!(task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_gives_up_after_the_grace() {
        let shutdown = Shutdown::new();
        shutdown.tracker().spawn(std::future::pending::<()>());
        let grace = Duration::from_secs(5);
        assert_eq!(shutdown.drain(grace).await, Err(Unfinished { tasks: 1, grace }));
        assert!(shutdown.is_draining());
    }

    #[tokio::test]
    async fn a_signal_begins_the_drain() {
        let shutdown = Shutdown::new();
        shutdown.on_signals().unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
        tokio::time::timeout(Duration::from_secs(10), shutdown.requested()).await.unwrap();
    }
}
