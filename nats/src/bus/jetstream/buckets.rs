//! Buckets on JetStream. Every call is bounded: the client library's own waits are longer than anybody has.

use std::sync::PoisonError;
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::kv;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::super::{Entry, Watch};
use super::JetStream;

/// Longest wait for one answer of the broker.
const ANSWER_MAX: Duration = Duration::from_secs(5);

impl JetStream {
    /// The bucket, looked up once.
    pub(super) async fn bucket(&self, bucket: &str) -> Result<kv::Store, Fault> {
        let known = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).get(bucket).cloned();
        if let Some(store) = known {
            return Ok(store);
        }
        let store = bounded(bucket, self.context.get_key_value(bucket)).await?;
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket.to_owned(), store.clone());
        Ok(store)
    }
}

pub(super) async fn get(store: &kv::Store, key: &str) -> Result<Option<Entry>, Fault> {
    let entry = bounded(key, store.entry(key)).await?;
    let live = entry.filter(|entry| entry.operation == kv::Operation::Put);
    Ok(live.map(|kv::Entry { key, value, revision, .. }| Entry { key, value, revision }))
}

pub(super) async fn keys(store: &kv::Store) -> Result<Vec<String>, Fault> {
    bounded(&store.name, async {
        store.keys().await.map_err(|error| error.to_string())?.try_collect().await.map_err(|error| error.to_string())
    })
    .await
}

pub(super) async fn put(store: &kv::Store, key: &str, value: Bytes) -> Result<u64, Fault> {
    bounded(key, store.put(key, value)).await
}

pub(super) async fn swap(store: &kv::Store, key: &str, value: Bytes, expected: u64) -> Result<Option<u64>, Fault> {
    if expected == 0 {
        let made = async {
            match store.create(key, value).await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
                Err(error) => Err(error),
            }
        };
        return bounded(key, made).await;
    }
    let swapped = async {
        match store.update(key, value, expected).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(error),
        }
    };
    bounded(key, swapped).await
}

pub(super) async fn delete(store: &kv::Store, key: &str) -> Result<(), Fault> {
    bounded(key, store.delete(key)).await
}

pub(super) async fn watch(store: &kv::Store, filter: &str) -> Result<Watch, Fault> {
    bounded(filter, store.watch_with_history(filter)).await.map(Watch::jetstream)
}

async fn bounded<T, E: std::fmt::Display>(what: &str, call: impl Future<Output = Result<T, E>>) -> Result<T, Fault> {
    let fault = |why: String| Fault::new(Code::BrokerDown, format!("registry `{what}`: {why}"));
    match tokio::time::timeout(ANSWER_MAX, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fault(error.to_string())),
        Err(_) => Err(fault(format!("no answer from the broker within {} s", ANSWER_MAX.as_secs()))),
    }
}
