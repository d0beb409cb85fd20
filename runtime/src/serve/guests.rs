//! Connections that have not shown a token yet, and which of them must go when there is no more room.
//!
//! On loopback every peer has the same address, so the line is drawn where it matters: whoever has shown a token keeps the
//! connection; whoever has not is a guest, stays for a short time, and makes room for newcomers, the oldest first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

/// The connection that a request came on, as an extension of the request.
#[derive(Clone, Debug, Default)]
pub struct Peer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    admitted: AtomicBool,
    cut: CancellationToken,
}

impl Peer {
    /// It has shown a valid token: it is no guest any more.
    pub fn admit(&self) {
        self.0.admitted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_guest(&self) -> bool {
        !self.0.admitted.load(Ordering::Relaxed)
    }

    /// Waits until its place is given to another.
    pub(super) async fn cut(&self) {
        self.0.cut.cancelled().await;
    }
}

/// The guests in the order of their arrival. Those that left or were admitted are forgotten now and then.
pub(super) struct Guests {
    waiting: VecDeque<Weak<Inner>>,
    kept_max: usize,
}

impl Guests {
    /// For so many connections at once.
    pub(super) fn new(connections_max: usize) -> Self {
        Self { waiting: VecDeque::new(), kept_max: connections_max.saturating_mul(2) }
    }

    pub(super) fn arrived(&mut self, peer: &Peer) {
        if self.waiting.len() >= self.kept_max {
            self.waiting.retain(|guest| guest.upgrade().is_some_and(|inner| Peer(inner).is_guest()));
        }
        self.waiting.push_back(Arc::downgrade(&peer.0));
    }

    /// Ends the connection of the oldest one, if there is one.
    pub(super) fn cut_oldest(&mut self) {
        while let Some(oldest) = self.waiting.pop_front() {
            if let Some(guest) = oldest.upgrade().map(Peer).filter(Peer::is_guest) {
                return guest.0.cut.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_guest_goes_and_whoever_was_admitted_stays() {
        let mut guests = Guests::new(4);
        let peers: Vec<Peer> = (0..4).map(|_| Peer::default()).collect();
        peers.iter().for_each(|peer| guests.arrived(peer));
        peers[0].admit();
        guests.cut_oldest();
        let cut: Vec<bool> = peers.iter().map(|peer| peer.0.cut.is_cancelled()).collect();
        assert_eq!(cut, [false, true, false, false]);
        drop(peers);
        guests.cut_oldest();
        assert!(guests.waiting.is_empty(), "those that left are no guests");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut guests = Guests::new(4);
        for _ in 0..100 {
            guests.arrived(&Peer::default());
            assert!(guests.waiting.len() <= 8);
        }
    }
}
