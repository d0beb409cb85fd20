//! The subscribe stream: deliveries out, settles and credit in.
//!
//! A plain ack that succeeds is not answered: at full rate that would double the frames. Everything else is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agentbus_proto::sidecar::v1::{Failure, SettleResponse};
use agentbus_proto::sidecar::wire::{SettleRequest, SubscribeRequest, SubscribeResponse};
use agentbus_proto::sidecar::wire::{settle_request, subscribe_request, subscribe_response};
use agentbus_proto::{Code, Fault};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::State;
use super::grpc::{how, settled};
use super::problem::own;
use crate::inbound::table::CREDIT_MAX;
use crate::inbound::{Gone, Outgoing};

/// Settles of one stream that are still storing something.
const SETTLES_MAX: usize = 1024;
/// Acks taken together: they share a lock and a wake-up.
const ACKS_MAX: usize = 256;
/// Frames waiting for the agent besides deliveries, which the credit bounds.
const ANSWERS_MAX: usize = 1024;

/// How long the agent's side is read on after it stopped reading ours.
const LAST_FRAMES_WAIT: Duration = Duration::from_secs(1);

type Frame = Result<SubscribeResponse, Status>;

/// Reads the first frame, joins the groups, and serves the stream in a task of its own.
pub(super) async fn open(state: State, mut frames: Streaming<SubscribeRequest>) -> Result<Frames, Fault> {
    let first = frames.message().await.map_err(|status| own(&status))?;
    let Some(subscribe_request::Frame::Open(open)) = first.and_then(|frame| frame.frame) else {
        return Err(Fault::new(Code::InvalidEvent, "the first frame of a subscribe stream must be `open`"));
    };
    let groups = state.control.join(&open.subscriptions).await?;
    let (outgoing_tx, outgoing) = mpsc::channel(CREDIT_MAX + ANSWERS_MAX);
    let id = state.hub.attach(&groups, open.credit as usize, outgoing_tx)?;
    let (tx, rx) = mpsc::channel(ANSWERS_MAX);
    let subscription = Subscription { state, id, gone: Gone::Broken };
    tokio::spawn(run(subscription, frames, tx));
    Ok(Frames { answers: rx, outgoing })
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

/// What the agent reads: deliveries straight from the table, and the answers to its settles.
pub(super) struct Frames {
    answers: mpsc::Receiver<Frame>,
    outgoing: mpsc::Receiver<Outgoing>,
}

impl Stream for Frames {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        // Answers first: they are few, and free the agent's credit. Their end is the end of the stream.
        match self.answers.poll_recv(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => self.outgoing.poll_recv(cx).map(|out| out.map(|out| Ok(to_frame(out)))),
        }
    }
}

async fn run(mut subscription: Subscription, mut frames: Streaming<SubscribeRequest>, tx: mpsc::Sender<Frame>) {
    let state = subscription.state.clone();
    let mut settles = FuturesUnordered::new();
    let mut acks = Vec::new();
    let gone = loop {
        let first = tokio::select! {
            biased;
            () = state.stop.cancelled() => break Gone::Closed,
            frame = frames.message(), if settles.len() < SETTLES_MAX => frame,
            Some(frame) = settles.next(), if !settles.is_empty() => {
                if tx.send(Ok(frame)).await.is_err() {
                    break last_frames(&subscription, &mut frames, &tx).await;
                }
                continue;
            }
            () = tx.closed() => break last_frames(&subscription, &mut frames, &tx).await,
        };
        // Acks that are here already are taken together.
        let mut next = Some(first);
        while let Some(Ok(Some(request))) = next {
            settles.extend(take(&subscription, request, &mut acks).map(|slow| answer(&state, slow)));
            let more = acks.len() < ACKS_MAX && settles.len() < SETTLES_MAX;
            next = if more { frames.message().now_or_never() } else { None };
        }
        ack_all(&state, &mut acks, &tx).await;
        // A steady stream of acks must not keep the slower settles from their turn.
        while let Some(Some(frame)) = settles.next().now_or_never() {
            // The agent may be gone; its settle is done all the same.
            let _ = tx.send(Ok(frame)).await;
        }
        match next {
            None | Some(Ok(Some(_))) => {}
            // The agent closed its side: finish what it asked for, then let it go.
            Some(Ok(None)) => break Gone::Closed,
            Some(Err(_)) => break Gone::Broken,
        }
    };
    subscription.gone = gone;
    while let Some(frame) = settles.next().await {
        // The agent may be gone; its settle is done all the same.
        let _ = tx.send(Ok(frame)).await;
    }
}

/// Takes one frame of the agent: collects a plain ack, returns a settle that takes a while.
fn take(subscription: &Subscription, frame: SubscribeRequest, acks: &mut Vec<String>) -> Option<SettleRequest> {
    match frame.frame? {
        subscribe_request::Frame::Settle(settle) if is_plain_ack(&settle) => {
            acks.push(settle.delivery_id);
            None
        }
        subscribe_request::Frame::Settle(settle) => Some(settle),
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
    let mut acks = Vec::new();
    loop {
        match tokio::time::timeout_at(end, frames.message()).await {
            Ok(Ok(Some(frame))) => {
                if let Some(slow) = take(subscription, frame, &mut acks) {
                    answer(&subscription.state, slow).await;
                }
                ack_all(&subscription.state, &mut acks, tx).await;
            }
            Ok(Ok(None)) => return Gone::Closed,
            Ok(Err(_)) | Err(_) => return Gone::Broken,
        }
    }
}

fn is_plain_ack(settle: &SettleRequest) -> bool {
    matches!(settle.how, Some(settle_request::How::Ack(_))) && settle.emit.is_empty()
}

/// Plain acks are done at once and answered only if they failed; anything else is left to be awaited.
async fn ack_all(state: &State, acks: &mut Vec<String>, tx: &mpsc::Sender<Frame>) {
    if acks.is_empty() {
        return;
    }
    for (id, result) in state.hub.ack_all(acks.drain(..)).await {
        if let Err(fault) = result {
            let _ = tx.send(Ok(failed(id, &fault))).await;
        }
    }
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
