//! The subscribe stream: deliveries out, settles and credit in.
//!
//! A plain ack that succeeds is not answered: at full rate that would double the frames. Everything else is.

use std::time::Duration;

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

/// How long the agent's side is read on after it stopped reading ours.
const LAST_FRAMES_WAIT: Duration = Duration::from_secs(1);

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
    let gone = loop {
        tokio::select! {
            frame = frames.message(), if settles.len() < SETTLES_MAX => match frame {
                Ok(Some(frame)) => settles.extend(take(&subscription, frame, &tx).await.map(|slow| answer(&state, slow))),
                // The agent closed its side: finish what it asked for, then let it go.
                Ok(None) => break Gone::Closed,
                Err(_) => break Gone::Broken,
            },
            Some(frame) = settles.next(), if !settles.is_empty() => {
                if tx.send(Ok(frame)).await.is_err() {
                    break last_frames(&subscription, &mut frames, &tx).await;
                }
            }
            Some(out) = outgoing.recv() => {
                if tx.send(Ok(to_frame(out))).await.is_err() {
                    break last_frames(&subscription, &mut frames, &tx).await;
                }
            }
            () = tx.closed() => break last_frames(&subscription, &mut frames, &tx).await,
            () = state.stop.cancelled() => break Gone::Closed,
        }
    };
    subscription.gone = gone;
    while let Some(frame) = settles.next().await {
        // The agent may be gone; its settle is done all the same.
        let _ = tx.send(Ok(frame)).await;
    }
}

/// Takes one frame of the agent; returns a settle that takes a while.
async fn take(subscription: &Subscription, frame: SubscribeRequest, tx: &mpsc::Sender<Frame>) -> Option<SettleRequest> {
    match frame.frame? {
        subscribe_request::Frame::Settle(settle) => settle_now(&subscription.state, settle, tx).await,
        subscribe_request::Frame::Credit(credit) => {
            subscription.state.hub.credit(subscription.id, credit as usize);
            None
        }
        subscribe_request::Frame::Open(_) => None,
    }
}

/// The agent reads no more. What it wrote before counts, and its own side tells whether it left or broke down: a
/// stream that is cancelled on a living connection is a goodbye.
async fn last_frames(
    subscription: &Subscription,
    frames: &mut Streaming<SubscribeRequest>,
    tx: &mpsc::Sender<Frame>,
) -> Gone {
    let end = tokio::time::Instant::now() + LAST_FRAMES_WAIT;
    loop {
        match tokio::time::timeout_at(end, frames.message()).await {
            Ok(Ok(Some(frame))) => {
                if let Some(slow) = take(subscription, frame, tx).await {
                    answer(&subscription.state, slow).await;
                }
            }
            Ok(Ok(None)) => return Gone::Closed,
            Ok(Err(_)) | Err(_) => return Gone::Broken,
        }
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
