//! The subscribe stream: deliveries out, settles and credit in.
//!
//! A plain ack that succeeds is not answered: at full rate that would double the frames. Everything else is.

use agentbus_proto::sidecar::v1::{Failure, SettleResponse};
use agentbus_proto::sidecar::wire::{SettleRequest, SubscribeRequest, SubscribeResponse};
use agentbus_proto::sidecar::wire::{settle_request, subscribe_request, subscribe_response};
use agentbus_proto::{Code, Fault};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::State;
use super::grpc::{how, settled};
use crate::inbound::table::CREDIT_MAX;
use crate::inbound::{Gone, Outgoing};

/// Settles of one stream that are still storing something.
const SETTLES_MAX: usize = 1024;
/// Frames waiting for the agent besides deliveries, which the credit bounds.
const ANSWERS_MAX: usize = 1024;

type Frame = Result<SubscribeResponse, Status>;

/// Reads the first frame, joins the groups, and serves the stream in a task of its own.
pub(super) async fn open(
    state: State,
    mut frames: Streaming<SubscribeRequest>,
) -> Result<mpsc::Receiver<Frame>, Fault> {
    let first = frames.message().await.map_err(Fault::from)?;
    let Some(subscribe_request::Frame::Open(open)) = first.and_then(|frame| frame.frame) else {
        return Err(Fault::new(Code::InvalidEvent, "the first frame of a subscribe stream must be `open`"));
    };
    let groups = state.control.join(&open.subscriptions).await?;
    let (outgoing_tx, outgoing) = mpsc::channel(CREDIT_MAX + ANSWERS_MAX);
    let id = state.hub.attach(&groups, open.credit as usize, outgoing_tx)?;
    let (tx, rx) = mpsc::channel(ANSWERS_MAX);
    let subscription = Subscription { state, id, gone: Gone::Broken };
    tokio::spawn(run(subscription, frames, outgoing, tx));
    Ok(rx)
}

/// Detaches whatever happens to the stream.
struct Subscription {
    state: State,
    id: u64,
    gone: Gone,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.state.hub.detach(self.id, self.gone);
    }
}

async fn run(
    mut subscription: Subscription,
    mut frames: Streaming<SubscribeRequest>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    tx: mpsc::Sender<Frame>,
) {
    let state = subscription.state.clone();
    let mut settles = FuturesUnordered::new();
    loop {
        tokio::select! {
            frame = frames.message(), if settles.len() < SETTLES_MAX => match frame {
                Ok(Some(frame)) => match frame.frame {
                    Some(subscribe_request::Frame::Settle(settle)) => {
                        if let Some(slow) = settle_now(&state, settle, &tx).await {
                            settles.push(answer(&state, slow));
                        }
                    }
                    Some(subscribe_request::Frame::Credit(credit)) => state.hub.credit(subscription.id, credit as usize),
                    Some(subscribe_request::Frame::Open(_)) | None => {}
                },
                // The agent closed its side: finish what it asked for, then let it go.
                Ok(None) => {
                    subscription.gone = Gone::Closed;
                    break;
                }
                Err(_) => break,
            },
            Some(frame) = settles.next(), if !settles.is_empty() => {
                if tx.send(Ok(frame)).await.is_err() {
                    break;
                }
            }
            Some(out) = outgoing.recv() => {
                if tx.send(Ok(to_frame(out))).await.is_err() {
                    break;
                }
            }
            () = tx.closed() => break,
            () = state.stop.cancelled() => {
                subscription.gone = Gone::Closed;
                break;
            }
        }
    }
    while let Some(frame) = settles.next().await {
        // The agent may be gone; its settle is done all the same.
        let _ = tx.send(Ok(frame)).await;
    }
}

/// A plain ack is done at once and answered only if it failed; anything else is left to be awaited.
async fn settle_now(state: &State, settle: SettleRequest, tx: &mpsc::Sender<Frame>) -> Option<SettleRequest> {
    let plain = matches!(settle.how, Some(settle_request::How::Ack(_))) && settle.emit.is_empty();
    if !plain {
        return Some(settle);
    }
    let (id, ack) = how(settle);
    let result = match ack {
        Ok(ack) => state.hub.settle(&id, ack).await.map(drop),
        Err(fault) => Err(fault),
    };
    if let Err(fault) = result {
        let frame = failed(id, &fault);
        let _ = tx.send(Ok(frame)).await;
    }
    None
}

async fn answer(state: &State, settle: SettleRequest) -> SubscribeResponse {
    let (id, how) = how(settle);
    let result = match how {
        Ok(how) => state.hub.settle(&id, how).await,
        Err(fault) => Err(fault),
    };
    match result {
        Ok(done) => frame(subscribe_response::Frame::Settled(settled(id, done))),
        Err(fault) => failed(id, &fault),
    }
}

fn failed(delivery_id: String, fault: &Fault) -> SubscribeResponse {
    let failure = Some(Failure::from(fault));
    frame(subscribe_response::Frame::Settled(SettleResponse { delivery_id, failure, ..Default::default() }))
}

fn to_frame(outgoing: Outgoing) -> SubscribeResponse {
    frame(match outgoing {
        Outgoing::Delivery(delivery) => subscribe_response::Frame::Delivery(*delivery),
        Outgoing::Lost(delivery_id, why) => {
            subscribe_response::Frame::Lost(agentbus_proto::sidecar::v1::Lost { delivery_id, why: Some((&why).into()) })
        }
        Outgoing::Draining => subscribe_response::Frame::Draining(true),
    })
}

fn frame(frame: subscribe_response::Frame) -> SubscribeResponse {
    SubscribeResponse { frame: Some(frame) }
}
