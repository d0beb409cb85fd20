//! Writes the control plane's facts to the audit stream: what happened to agents, in order, once each.
//!
//! Facts queue here while the broker is away, and the queue is bounded. What people may want to know is recorded without
//! waiting: when little room is left it is dropped with a word in the log, because supervision must not stop for its diary.
//! What a state is folded from (that a run ended) is *kept*: the last quarter of the queue is for it alone, and whoever has
//! such a fact when even that is full waits. Facts that must be stored before something is done are no business of this queue:
//! see `dead_letters::redrive`.

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
/// Of these, for facts that are kept.
const KEPT_FACTS_ROOM: usize = QUEUE_FACTS_MAX / 4;
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

    /// Records one fact, such as `retention.trimmed.v1`; the time is added as `at`. Never waits.
    pub fn record(&self, fact: &str, body: Value) {
        let stored = self.fact(fact, body);
        let refused = match self.queue.capacity() > KEPT_FACTS_ROOM {
            true => self.queue.try_send(stored).err().map(mpsc::error::TrySendError::into_inner),
            false => Some(stored),
        };
        if let Some(Fact { body, .. }) = refused {
            let body = String::from_utf8_lossy(&body);
            tracing::warn!(fact, %body, "fact not recorded: too many are waiting for the broker");
        }
    }

    /// The same for a fact that a state is folded from, such as `agent.exited.v1`: never dropped for want of room. Waits only
    /// when thousands of them wait already.
    pub async fn keep(&self, fact: &str, body: Value) {
        let stored = self.fact(fact, body);
        if self.queue.send(stored).await.is_err() {
            tracing::warn!(fact, "fact not recorded: everything stops");
        }
    }

    fn fact(&self, fact: &str, mut body: Value) -> Fact {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now();
        body["at"] = Value::String(moves::rfc3339(now));
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        // Fixed here, before the first try, so that a repeated store is recognised.
        let id = format!("control-plane/{nanos:x}-{:x}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Fact { subject: subject::audit(&self.namespace, fact), id, body: body.to_string().into_bytes() }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn facts_that_are_kept_have_room_of_their_own_and_are_waited_for() {
        let (audit, mut service) = Audit::new("default");
        for _ in 0..QUEUE_FACTS_MAX {
            audit.record("retention.trimmed.v1", json!({}));
        }
        for number in 0..KEPT_FACTS_ROOM {
            audit.keep("agent.exited.v1", json!({"number": number})).await;
        }
        let mut one_more = std::pin::pin!(audit.keep("agent.exited.v1", json!({"number": "last"})));
        assert!(futures_util::poll!(&mut one_more).is_pending(), "the queue is full");
        let first = service.queue.recv().await.unwrap();
        assert_eq!(first.subject, "aba.default.retention.trimmed.v1");
        one_more.await;
        let mut kept = 0;
        while let Ok(fact) = service.queue.try_recv() {
            kept += usize::from(fact.subject == "aba.default.agent.exited.v1");
        }
        assert_eq!(kept, KEPT_FACTS_ROOM + 1);
    }
}
