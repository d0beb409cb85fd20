//! Background tasks with a name: failures and panics are logged, never lost, and each task says what its failure means.
//!
//! Tasks are tracked by [`Shutdown`], which waits for them at the end; they hold its token to learn when to stop.

use std::fmt::Display;

use tracing::{Instrument, debug, error, error_span};

use crate::drain::Shutdown;

/// What the end of a task in error means to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The others can do without it.
    Log,
    /// Nothing works without it: begin draining.
    Drain,
}

/// Spawns the background tasks of one process. Clones share the shutdown.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    shutdown: Shutdown,
}

impl Tasks {
    /// Tasks that end with `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown }
    }

    /// The shutdown they belong to.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Runs `future` in a span named after `name`. Needs a runtime.
    pub fn spawn<E: Display + Send + 'static>(
        &self,
        name: &'static str,
        on_failure: OnFailure,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        // A task of its own, so that its panic ends nothing but itself.
        let work = tokio::spawn(future.instrument(error_span!("task", name)));
        let shutdown = self.shutdown.clone();
        self.shutdown.tracker().spawn(async move {
            match work.await {
                Ok(Ok(())) => return debug!(task = name, "task finished"),
                Ok(Err(error)) => error!(task = name, %error, "task failed"),
                Err(error) if error.is_panic() => error!(task = name, %error, "task panicked"),
                Err(_) => return debug!(task = name, "task cancelled"),
            }
            if on_failure == OnFailure::Drain {
                shutdown.begin();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_vital_task_takes_the_process_with_it() {
        let tasks = Tasks::default();
        tasks.spawn("vital", OnFailure::Drain, async { Err("gone") });
        tokio::time::timeout(GRACE, tasks.shutdown().requested()).await.unwrap();
        assert_eq!(tasks.shutdown().drain(GRACE).await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let tasks = Tasks::default();
        tasks.spawn("panics", OnFailure::Drain, async {
            if true { panic!("on purpose") } else { Ok::<(), String>(()) }
        });
        tokio::time::timeout(GRACE, tasks.shutdown().requested()).await.unwrap();
    }

    #[tokio::test]
    async fn a_lesser_task_fails_alone() {
        let tasks = Tasks::default();
        tasks.spawn("lesser", OnFailure::Log, async { Err("gone") });
        tasks.shutdown().tracker().close();
        tokio::time::timeout(GRACE, tasks.shutdown().tracker().wait()).await.unwrap();
        assert!(!tasks.shutdown().is_draining());
    }
}
