//! Receipts: who was through with which attempt at an event, and when.
//!
//! Written for what went wrong, for the end of what went wrong before, and for events whose sender or receiver (`receipts`
//! in agentbus.yaml) wants it. A remark,
//! never a condition: nothing waits for a receipt, and one that cannot be written is not missed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::grant::ControlReply;
use agentbus_nats::held::nanos;
use agentbus_nats::moves::Origin;
use agentbus_nats::publisher::Message;
use agentbus_nats::pull::Incoming;
use agentbus_nats::{headers, subject};
use agentbus_proto::{Code, Fault};
use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};

use super::hub::Hub;
use super::table::Held;

/// Receipts on their way at once; more are not written.
const UNDER_WAY_MAX: usize = 128;
/// The control plane makes the stream within milliseconds, or is away.
const STREAM_WAIT: Duration = Duration::from_secs(2);

/// What writing receipts needs to remember.
pub(super) struct Receipts {
    /// Set when the stream is known to be there.
    made: OnceCell<()>,
    room: Arc<Semaphore>,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { made: OnceCell::new(), room: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }
}

impl Hub {
    /// Notes that an attempt was acked, where somebody wants to know or it was not the first.
    pub(super) fn receipt_of_ack(&self, held: &Held) {
        let wanted = held.fresh.head.delivery.as_ref().is_some_and(|delivery| delivery.receipt);
        if wanted || held.fresh.attempt > 1 || held.group.policy.receipts {
            self.receipt(held, "acked", "");
        }
    }

    /// Notes how an attempt ended.
    pub(super) fn receipt(&self, held: &Held, outcome: &'static str, cause: &str) {
        let handed = held.worked(Instant::now()).and_then(|worked| SystemTime::now().checked_sub(worked));
        self.note(&held.key.group, &held.incoming, held.fresh.attempt, handed, outcome, cause);
    }

    /// The same for what was never handed out.
    pub(super) fn note(
        &self,
        group: &str,
        incoming: &Incoming,
        attempt: u32,
        handed: Option<SystemTime>,
        outcome: &'static str,
        cause: &str,
    ) {
        let origin = Origin::of(incoming);
        if origin.stream != self.names().events() {
            return;
        }
        let Ok(place) = Arc::clone(&self.receipts().room).try_acquire_owned() else { return };
        let mut to = HeaderMap::new();
        to.insert(headers::name(headers::ATTEMPT), attempt.to_string());
        to.insert(headers::name(headers::OUTCOME), outcome);
        if let Some(handed) = handed {
            to.insert(headers::name(headers::HANDED), (nanos(handed) / 1_000_000).to_string());
        }
        if !cause.is_empty() {
            to.insert(headers::name(headers::CAUSE), headers::clean(cause, headers::CAUSE_BYTES_MAX));
        }
        let subject = subject::receipt(self.namespace(), group, self.agent(), origin.seq);
        let (hub, message) = (self.clone(), Message { subject, headers: to, payload: Bytes::new() });
        self.spawn_task(async move {
            let _place = place;
            if let Err(fault) = hub.write_receipt(message).await {
                tracing::debug!(%fault, "receipt not written");
            }
        });
    }

    async fn write_receipt(&self, message: Message) -> Result<(), Fault> {
        let ask = async || {
            let verb = subject::control(self.namespace(), self.agent(), "receipts");
            let answer = self.bus().request(&verb, Bytes::from_static(b"{}"), STREAM_WAIT).await?;
            match serde_json::from_slice(&answer.payload) {
                Ok(ControlReply::Answer(_)) => Ok(()),
                answer => Err(Fault::new(Code::ControlPlaneDown, format!("no stream for receipts: {answer:?}"))),
            }
        };
        self.receipts().made.get_or_try_init(ask).await?;
        self.publisher().store(message).await.map(drop)
    }
}
