//! The registry bucket: joined groups (`groups.<agent>`) and the live state of instances (`agents.<instance>`).
//!
//! What is in it can be lost without harm to events: states are written again, and who joined a group asks again.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::bus::Bus;
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::names::Names;
use agentbus_proto::{Code, Fault};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::InstanceStatus;

/// Pause after a write failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The bucket of a namespace. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    bus: Arc<dyn Bus>,
    bucket: String,
}

impl Registry {
    /// On the bucket, which the topology has made.
    pub fn new(bus: Arc<dyn Bus>, names: &Names) -> Self {
        Self { bus, bucket: names.registry() }
    }

    /// Groups an agent had joined; empty when there are none or they cannot be read.
    pub async fn joined(&self, agent: &str) -> Result<Vec<GroupGrant>, Fault> {
        let key = joined_key(agent);
        let Some(entry) = self.bus.key(&self.bucket, &key).await? else { return Ok(Vec::new()) };
        Ok(serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
            tracing::warn!(key, %error, "unreadable registry entry");
            Vec::new()
        }))
    }

    /// Remembers the groups an agent has joined.
    pub async fn put_joined(&self, agent: &str, groups: &[GroupGrant]) -> Result<(), Fault> {
        self.put(joined_key(agent), &groups).await
    }

    async fn put(&self, key: String, value: &impl Serialize) -> Result<(), Fault> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Fault::new(Code::BadConfig, format!("cannot write registry entry `{key}`: {error}")))?;
        self.bus.put_key(&self.bucket, &key, bytes.into()).await.map(drop)
    }

    /// Writes every change of an instance until `stop`. Only the newest state counts: while the broker is away nothing
    /// piles up.
    pub async fn follow(self, mut instances: watch::Receiver<Vec<InstanceStatus>>, stop: CancellationToken) {
        let mut written: Vec<InstanceStatus> = Vec::new();
        loop {
            let current = instances.borrow_and_update().clone();
            let complete = self.write_changes(&mut written, &current).await;
            let pause =
                async { if complete { std::future::pending().await } else { tokio::time::sleep(RETRY_PAUSE).await } };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = instances.changed() => if changed.is_err() { break },
                () = pause => {}
            }
        }
        let last = instances.borrow().clone();
        self.write_changes(&mut written, &last).await;
    }

    async fn write_changes(&self, written: &mut Vec<InstanceStatus>, current: &[InstanceStatus]) -> bool {
        for status in current {
            if written.contains(status) {
                continue;
            }
            if let Err(fault) = self.put(format!("agents.{}", status.instance), status).await {
                tracing::debug!(instance = status.instance, error = %fault, "state not written to the registry yet");
                return false;
            }
            written.retain(|before| before.instance != status.instance);
            written.push(status.clone());
        }
        true
    }
}

fn joined_key(agent: &str) -> String {
    format!("groups.{agent}")
}
