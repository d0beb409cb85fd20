//! Writes the control plane's facts to the audit stream: what happened to agents, in order, once each.
//!
//! Recording never waits: facts queue here while the broker is away. The queue is bounded; beyond it the newest fact is
//! dropped and counted in the log, because supervision must not stop for its diary.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentbus_nats::publisher::{Message, Publisher};
use agentbus_nats::{headers, moves, subject};
use async_nats::HeaderMap;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Facts waiting for the broker. A thousand restarts fit into an outage.
const QUEUE_FACTS_MAX: usize = 4096;
/// Pause after a fact could not be stored.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the last facts may take when everything stops.
const FLUSH_MAX: Duration = Duration::from_secs(2);

struct Fact {
    subject: String,
    id: String,
    body: Vec<u8>,
}

/// Records facts. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    namespace: String,
    queue: mpsc::Sender<Fact>,
}

/// Stores what was recorded.
pub struct Service {
    queue: mpsc::Receiver<Fact>,
}

impl Audit {
    /// A recorder and the service behind it.
    pub fn new(namespace: &str) -> (Self, Service) {
        let (tx, rx) = mpsc::channel(QUEUE_FACTS_MAX);
        (Self { namespace: namespace.to_owned(), queue: tx }, Service { queue: rx })
    }

    /// Records one fact, such as `agent.exited.v1`; the time is added as `at`. Never waits.
    pub fn record(&self, fact: &str, mut body: Value) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now();
        body["at"] = Value::String(moves::rfc3339(now));
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        // Fixed here, before the first try, so that a repeated store is recognised.
        let id = format!("control-plane/{nanos:x}-{:x}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let subject = subject::audit(&self.namespace, fact);
        if self.queue.try_send(Fact { subject, id, body: body.to_string().into_bytes() }).is_err() {
            tracing::warn!(fact, body = %body, "fact not recorded: too many are waiting for the broker");
        }
    }
}

impl Service {
    /// Stores facts in order until `stop`, then what is left within 2 s.
    pub async fn run(mut self, publisher: Publisher, stop: CancellationToken) {
        loop {
            // Cancel-safe: a fact is taken out only when it is then stored or given up on.
            let fact = tokio::select! {
                biased;
                fact = self.queue.recv() => fact,
                () = stop.cancelled() => break,
            };
            let Some(fact) = fact else { return };
            tokio::select! {
                () = store(&publisher, &fact) => {}
                () = async { stop.cancelled().await; tokio::time::sleep(FLUSH_MAX).await } => break,
            }
        }
        self.queue.close();
        let rest = async {
            while let Some(fact) = self.queue.recv().await {
                store(&publisher, &fact).await;
            }
        };
        if tokio::time::timeout(FLUSH_MAX, rest).await.is_err() {
            tracing::warn!("last facts not stored");
        }
    }
}

async fn store(publisher: &Publisher, fact: &Fact) {
    loop {
        let mut map = HeaderMap::new();
        map.insert(headers::MSG_ID, fact.id.as_str());
        map.insert(headers::CONTENT_TYPE, "application/json");
        let message = Message { subject: fact.subject.clone(), headers: map, payload: fact.body.clone().into() };
        match publisher.store(message).await {
            Ok(_) => return,
            Err(fault) => {
                tracing::debug!(subject = fact.subject, error = %fault, "fact not stored yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}
