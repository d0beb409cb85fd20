//! What all asks of one sidecar may hold together: replies that their askers have not taken yet, wherever they wait.

use std::sync::Arc;
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of replies in this process. Each counts [`REPLY_BYTES`] beside its own, so their number has a bound, too.
pub(super) const BYTES_MAX: usize = 64 << 20;
/// What a reply costs besides its event.
const REPLY_BYTES: usize = 1 << 10;
/// Kept for the asks that wait already: with less left, no new one is taken in.
const RESERVE_BYTES: usize = BYTES_MAX / 4;
/// Askers read within moments, or not at all.
const AGAIN: Duration = Duration::from_secs(1);

/// The room of all asks.
#[derive(Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
}

/// A reply's part of it; free again when dropped.
#[derive(Debug)]
pub struct Share {
    _bytes: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(BYTES_MAX)) }
    }

    /// Whether one more ask may be taken in; `RATE_LIMITED` otherwise.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.free.available_permits() >= RESERVE_BYTES {
            return Ok(());
        }
        let why = "replies to other asks of this agent wait to be read and fill the memory for them; read those first";
        Err(Fault::new(Code::RateLimited, why).with_retry_after(AGAIN))
    }

    /// Takes in a reply of so many bytes; none when there is no room.
    pub(super) fn take(&self, bytes: usize) -> Option<Share> {
        let bytes = u32::try_from((bytes + REPLY_BYTES).min(BYTES_MAX)).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Share { _bytes: permit })
    }
}

/// More replies than are read: of one ask, or of all together.
pub(super) fn overrun() -> Fault {
    let why = "replies come faster than they are read, and fill the memory for them; the ask is given up: \
               asking again with the same id within 60 s gets what is stored";
    Fault::new(Code::RateLimited, why).with_retry_after(AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_replies_together_have_a_bound_in_bytes_and_in_number() {
        let room = Room::new();
        let half = room.take(BYTES_MAX / 2);
        assert!(half.is_some() && room.check().is_ok());
        let quarter = room.take(BYTES_MAX / 4 + 1);
        let fault = room.check().unwrap_err();
        assert_eq!((fault.code, fault.retry_after), (Code::RateLimited, Some(AGAIN)));
        assert!(room.take(BYTES_MAX / 4).is_none(), "but the asks that wait have the rest");
        drop((half, quarter));
        assert!(room.check().is_ok());
        let many: Vec<_> = std::iter::from_fn(|| room.take(0)).collect();
        assert_eq!(many.len(), BYTES_MAX / REPLY_BYTES);
        drop(many);
        assert!(room.take(2 * BYTES_MAX).is_some(), "one that is larger than all, when there is no other");
    }
}
