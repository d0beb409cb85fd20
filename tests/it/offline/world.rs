//! One broker, one agent `writer` with a spool, a folder that survives its sidecars.

use std::collections::HashMap;
use std::time::Duration;

use agentbus_nats::grant::{Fsync, SpoolOptions};
use agentbus_proto::EventHead;
use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::{PublishResponse, Stored};
use agentbus_tests::grpc::{self, Client};
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use tempfile::TempDir;

/// A spool that never fills up in a test.
pub const SPOOL: SpoolOptions = SpoolOptions { bytes_max: 16 << 20, fsync: Fsync::Always };

pub struct World {
    pub broker: Broker,
    pub state: TempDir,
}

impl World {
    pub async fn start() -> Self {
        let state = tempfile::Builder::new().prefix("agentbus-spool-").tempdir().expect("temporary folder");
        Self { broker: Broker::start().await, state }
    }

    pub fn folder(&self) -> &str {
        self.state.path().to_str().expect("UTF-8")
    }

    pub fn member(&self) -> Member<'_> {
        Member {
            agent: "writer",
            publish: &["note.>"],
            state: Some(self.folder()),
            spool: Some(SPOOL),
            ..Member::default()
        }
    }

    pub async fn sidecar(&self) -> SidecarProcess {
        SidecarProcess::start(&self.broker, self.member()).await
    }

    /// The broker forgets ids after this long.
    pub async fn dedupe_window(&self, window: Duration) {
        let stream = self.broker.context.get_stream(self.broker.names.events()).await.expect("stream exists");
        let mut config = stream.cached_info().config.clone();
        config.duplicate_window = window;
        self.broker.context.update_stream(config).await.expect("updated");
    }

    /// The events stream holds so many bytes.
    pub async fn room(&self, bytes_max: i64) {
        let stream = self.broker.context.get_stream(self.broker.names.events()).await.expect("stream exists");
        let mut config = stream.cached_info().config.clone();
        config.max_bytes = bytes_max;
        self.broker.context.update_stream(config).await.expect("updated");
    }

    /// How often each id is stored, and the ids in the order in which they were stored first.
    pub async fn stored(&self) -> (HashMap<String, u32>, Vec<String>) {
        let (mut counts, mut order) = (HashMap::new(), Vec::new());
        for message in self.broker.messages(&self.broker.names.events()).await {
            let id = EventHead::decode(&message.payload).expect("an event").id;
            let count = counts.entry(id.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                order.push(id);
            }
        }
        (counts, order)
    }
}

pub fn note(id: &str) -> Event {
    Event { id: id.to_owned(), ..grpc::event("note.made", id.to_owned()) }
}

/// `prefix-0`, `prefix-1`, …
pub fn notes(prefix: &str, count: usize) -> Vec<Event> {
    (0..count).map(|n| note(&format!("{prefix}-{n}"))).collect()
}

pub fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

/// Publishes all and expects each to be kept there.
pub async fn publish(client: &mut Client, events: Vec<Event>, place: Stored) -> Vec<PublishResponse> {
    let answers = grpc::publish_all(client, events).await;
    for answer in &answers {
        assert_eq!((answer.failure.as_ref(), answer.stored()), (None, place), "{answer:?}");
    }
    answers
}

/// Waits until the spool has this many events.
pub async fn spooled(sidecar: &SidecarProcess, events: f64) {
    until("spooled events", || async {
        let now = sidecar.metric("agentbus_spool_events").await;
        if now == events { Ok(()) } else { Err(now) }
    })
    .await;
}
