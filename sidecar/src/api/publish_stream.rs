//! The publish stream: many events under way at once, one answer each, in order.

use std::collections::VecDeque;

use agentbus_proto::Fault;
use agentbus_proto::sidecar::v1::{PublishResponse, Stored};
use agentbus_proto::sidecar::wire::PublishRequest;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::State;
use super::problem::own;
use crate::outbound::{Kept, Outbound, Parent, Sent, Wish};

/// Events of one stream without an answer yet. Full = the agent is not read from: back-pressure.
const WINDOW: usize = 4096;

/// An event of the stream, until it is answered.
struct UnderWay {
    reference: u64,
    sent: Result<Sent, Fault>,
}

/// Runs until the agent closes the stream and everything is answered.
pub(super) async fn run(
    state: State,
    parent: Parent,
    mut requests: Streaming<PublishRequest>,
    answers: mpsc::Sender<Result<PublishResponse, Status>>,
) {
    // Answers are in order, so only the oldest is waited for: no task and no wake-up for each of the others.
    let mut under_way: VecDeque<UnderWay> = VecDeque::new();
    let (mut open, mut broken) = (true, None);
    while open || !under_way.is_empty() {
        tokio::select! {
            biased;
            Some(answer) = oldest(&mut under_way), if !under_way.is_empty() => {
                under_way.pop_front();
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            request = requests.message(), if open && under_way.len() < WINDOW => match request {
                Ok(Some(request)) => under_way.push_back(send(&state.outbound, &parent, request).await),
                Ok(None) => open = false,
                // A broken stream or a frame that cannot be read: what was sent before is stored all the same and
                // answered first; then the agent is told, so that it does not take the end for an answer to everything.
                Err(status) => (open, broken) = (false, Some(own(&status))),
            },
            () = state.stop.cancelled(), if open => open = false,
        }
    }
    if let Some(status) = broken {
        // Nobody there is fine.
        let _ = answers.send(Err(status)).await;
    }
}

async fn send(outbound: &Outbound, parent: &Parent, request: PublishRequest) -> UnderWay {
    let reference = request.r#ref;
    UnderWay { reference, sent: publish(outbound, parent, request).await }
}

/// The answer to the oldest. Cancel-safe; the caller removes it when it has the answer.
async fn oldest(under_way: &mut VecDeque<UnderWay>) -> Option<PublishResponse> {
    let UnderWay { reference, sent } = under_way.front_mut()?;
    let outcome = match sent {
        Ok(sent) => sent.outcome().await,
        Err(fault) => Err(fault.clone()),
    };
    Some(respond(*reference, outcome))
}

/// Checks a request and hands it to the broker.
pub(super) async fn publish(outbound: &Outbound, parent: &Parent, request: PublishRequest) -> Result<Sent, Fault> {
    let ttl = request.ttl.map(|ttl| super::duration("ttl", ttl)).transpose()?;
    outbound.send(request.event, Wish { ttl, park: request.park }, parent, None).await
}

/// The answer to one publish.
pub(super) fn respond(reference: u64, outcome: Result<(String, Kept), Fault>) -> PublishResponse {
    match outcome {
        Ok((id, Kept::Spool)) => {
            PublishResponse { id, r#ref: reference, stored: Stored::Spool.into(), ..Default::default() }
        }
        Ok((id, Kept::Broker(stored))) => PublishResponse {
            id,
            r#ref: reference,
            stored: Stored::Broker.into(),
            stream: stored.stream,
            seq: Some(stored.seq),
            duplicate: Some(stored.duplicate),
            failure: None,
        },
        Err(fault) => PublishResponse { r#ref: reference, failure: Some((&fault).into()), ..Default::default() },
    }
}
