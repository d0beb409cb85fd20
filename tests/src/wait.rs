//! Waiting for conditions. A time-out prints the last state, so that a failure explains itself.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Patience of a wait. Generous: a loaded machine must not fail a test that would pass a moment later.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `look` gives something; panics with the last state after [`PATIENCE`].
pub async fn until<T, S: Debug, F: Future<Output = Result<T, S>>>(what: &str, look: impl FnMut() -> F) -> T {
    until_within(what, PATIENCE, look).await
}

/// The same with a patience of its own.
pub async fn until_within<T, S: Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(state) if Instant::now() > end => panic!("no {what} within {patience:?}; last seen: {state:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
