//! Entries of a bucket, and following their changes.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::kv;
use bytes::Bytes;
use futures_util::StreamExt;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Grows with every write to the bucket.
    pub revision: u64,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Entry),
    /// It was removed.
    Removed {
        /// The key.
        key: String,
        /// The removal's own revision.
        revision: u64,
    },
}

/// The values of a bucket, then its changes, in order.
pub struct Watch {
    way: Way,
}

enum Way {
    JetStream(Box<kv::Watch>),
    Memory(super::memory::Follower),
}

impl Watch {
    pub(super) fn jetstream(watch: kv::Watch) -> Self {
        Self { way: Way::JetStream(Box::new(watch)) }
    }

    pub(super) fn memory(follower: super::memory::Follower) -> Self {
        Self { way: Way::Memory(follower) }
    }

    /// The next change. Cancel-safe. Errors are interruptions: it may be called again.
    pub async fn next(&mut self) -> Result<Change, Fault> {
        match &mut self.way {
            Way::JetStream(watch) => change(watch.next().await),
            Way::Memory(follower) => follower.next().await,
        }
    }
}

fn change<E: std::fmt::Display>(next: Option<Result<kv::Entry, E>>) -> Result<Change, Fault> {
    let ended = |why: String| Fault::new(Code::BrokerDown, format!("keys cannot be watched just now: {why}"));
    let entry = next.ok_or_else(|| ended("the watch ended".to_owned()))?;
    let kv::Entry { key, value, revision, operation, .. } = entry.map_err(|error| ended(error.to_string()))?;
    Ok(match operation {
        kv::Operation::Put => Change::Put(Entry { key, value, revision }),
        kv::Operation::Delete | kv::Operation::Purge => Change::Removed { key, revision },
    })
}
