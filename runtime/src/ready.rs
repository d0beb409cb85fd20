//! Readiness: each part of a process holds a latch, and the process is ready when every latch says so.
//!
//! A latch may go back (the broker left), with its reason. Liveness is not decided here: a process that waits for its broker
//! is alive, and restarting it would help nobody.

use std::sync::Arc;

use tokio::sync::watch;

/// One latch: its name, and why it is not ready.
pub type Entry = (String, Result<(), String>);

/// All latches of a process. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    entries: Arc<watch::Sender<Vec<Entry>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// No latches yet: ready.
    pub fn new() -> Self {
        Self { entries: Arc::new(watch::Sender::new(Vec::new())) }
    }

    /// Takes the latch `name`, not ready until it says so. Take all of them before announcing an address; asking twice for a
    /// name gives the same latch.
    pub fn latch(&self, name: impl Into<String>) -> Latch {
        let name = name.into();
        self.entries.send_modify(|entries| {
            if !entries.iter().any(|(known, _)| *known == name) {
                entries.push((name.clone(), Err("starting".to_owned())));
            }
        });
        Latch { name, readiness: self.clone() }
    }

    /// Whether every latch is ready.
    pub fn is_ready(&self) -> bool {
        all_ready(&self.entries.borrow())
    }

    /// All latches in the order they were taken.
    pub fn snapshot(&self) -> Vec<Entry> {
        self.entries.borrow().clone()
    }

    /// Follows every change.
    pub fn watch(&self) -> watch::Receiver<Vec<Entry>> {
        self.entries.subscribe()
    }

    /// Waits until every latch is ready. Cancel-safe.
    pub async fn wait(&self) {
        // Fails only without a sender, and we are one.
        let _ = self.watch().wait_for(|entries| all_ready(entries)).await;
    }
}

fn all_ready(entries: &[Entry]) -> bool {
    entries.iter().all(|(_, state)| state.is_ok())
}

/// One part's say in the readiness of its process. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Latch {
    name: String,
    readiness: Readiness,
}

impl Latch {
    /// This part can do its work.
    pub fn ready(&self) {
        self.set(Ok(()));
    }

    /// This part cannot do its work now.
    pub fn unready(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        self.readiness.entries.send_if_modified(|entries| {
            match entries.iter_mut().find(|(name, _)| *name == self.name) {
                Some((_, known)) if *known != state => {
                    *known = state;
                    true
                }
                _ => false,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_every_latch_is() {
        let readiness = Readiness::new();
        let (broker, agent) = (readiness.latch("broker"), readiness.latch("agent"));
        broker.ready();
        assert!(!readiness.is_ready());
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        agent.ready();
        waiting.await.unwrap();

        broker.unready("connection lost");
        let expect = [("broker".to_owned(), Err("connection lost".to_owned())), ("agent".to_owned(), Ok(()))];
        assert_eq!(readiness.snapshot(), expect);
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_name_is_one_latch() {
        let readiness = Readiness::new();
        readiness.latch("broker").ready();
        readiness.latch("broker");
        assert!(readiness.is_ready());
        assert_eq!(readiness.snapshot().len(), 1);
    }
}
