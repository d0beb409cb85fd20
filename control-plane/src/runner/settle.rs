//! Tells the sidecar a verdict and waits until it has taken it.
//!
//! By unary calls, not on the subscribe stream: each is answered, needs no stream, and a delivery id outlives the sidecar
//! that gave it, so a sidecar that is just being replaced is simply waited for.

use std::time::Duration;

use agentbus_proto::sidecar::v1 as pb;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::backoff::Backoff;
use pb::settle_request::How;
use tokio::time::Instant;

use super::answer;
use super::client::Client;
use super::verdict::{Reply, Verdict};

/// One call. A nack is stored by the sidecar before it answers, and the broker may be slow.
const CALL_MAX: Duration = Duration::from_secs(30);
/// After this long nobody holds the delivery any more; the event comes again.
const PATIENCE: Duration = Duration::from_secs(60);
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(2), factor: 2.0, jitter: 0.3 };

/// Returns when the verdict is taken or nobody will take it any more; the latter is logged, and the event comes again.
pub(super) async fn settle(client: Client, delivery_id: String, mut verdict: Verdict) {
    let until = Instant::now() + PATIENCE;
    let mut failures = 0;
    loop {
        let Err(fault) = once(client.clone(), &delivery_id, &verdict).await else { return };
        if let Verdict::Reply(reply) = &verdict
            && let Some(other) = answer::instead(reply, &fault)
        {
            tracing::warn!(%delivery_id, %fault, "the reply is not taken as it is");
            verdict = other;
            continue;
        }
        failures += 1;
        let pause = fault.retry_after.unwrap_or_else(|| BACKOFF.delay(failures, rand::random())).min(BACKOFF.max);
        if !fault.code.retryable() || Instant::now() + pause > until {
            tracing::warn!(%delivery_id, ?verdict, %fault, "verdict not taken; the event comes again");
            return;
        }
        tracing::debug!(%delivery_id, %fault, "verdict is sent again");
        tokio::time::sleep(pause).await;
    }
}

async fn once(mut client: Client, delivery_id: &str, verdict: &Verdict) -> Result<(), Fault> {
    let call = client.settle(request(delivery_id, verdict));
    let silent = |_| Fault::new(Code::OutcomeUnknown, "the sidecar does not answer");
    tokio::time::timeout(CALL_MAX, call).await.map_err(silent)??;
    Ok(())
}

fn request(delivery_id: &str, verdict: &Verdict) -> pb::SettleRequest {
    let how = match verdict.clone() {
        Verdict::Ack => How::Ack(pb::Ack {}),
        Verdict::Nack(reason) => How::Nack(pb::Nack { retry_after: None, reason }),
        Verdict::Reject(reason) => How::Reject(pb::Reject { reason }),
        Verdict::Reply(Reply { data, content_type, error_code, error_message }) => {
            How::Reply(pb::ReplyWith { data, content_type, error_code, error_message, ..Default::default() })
        }
    };
    pb::SettleRequest { delivery_id: delivery_id.to_owned(), emit: Vec::new(), how: Some(how) }
}
