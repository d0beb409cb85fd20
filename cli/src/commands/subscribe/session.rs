//! One subscription over one stream after another: opens, prints and settles, closes in order.

use std::pin::Pin;
use std::time::{Duration, Instant};

use agentbus_proto::json::{DeliveryJson, event_to_json};
use agentbus_proto::sidecar::v1::{
    Ack, Delivery, Nack, Open, Reject, SettleRequest, SubscribeRequest, SubscribeResponse, Subscription,
    settle_request::How, subscribe_request, subscribe_response,
};
use agentbus_proto::{Code, Fault};
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::Args;
use crate::filter::Filter;
use crate::instance::Global;
use crate::output::{self, Paint};

/// Frames waiting to be sent to the sidecar; more than any credit settles at once.
const FRAMES_MAX: usize = 4096;

/// A sidecar that was killed is back within a second; one that is not back by then is gone.
const AGAIN_LIMIT: Duration = Duration::from_secs(15);
const AGAIN_PAUSE: Duration = Duration::from_millis(200);
/// How long the sidecar may take to finish what it was asked for at the end.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// What outlives a stream.
pub(super) struct Session<'a> {
    pub(super) global: &'a Global,
    pub(super) args: &'a Args,
    /// Taken away to close our side: the sidecar then finishes what it was asked for and closes its own.
    frames: Option<mpsc::Sender<SubscribeRequest>>,
    /// Events printed.
    pub(super) taken: u64,
    pub(super) paint: Paint,
    /// What is printed.
    pub(super) filter: Option<Filter>,
    /// Up to here all was printed before the subscription began to take.
    pub(super) printed_until: u64,
}

/// Why a stream ended before we wanted.
pub(super) enum Ended {
    /// For good.
    For(anyhow::Error),
    /// The sidecar went away; the supervisor starts it again.
    ForNow(String),
}

impl<'a> Session<'a> {
    pub(super) fn new(global: &'a Global, args: &'a Args) -> anyhow::Result<Self> {
        let filter = args.filter.as_deref().map(Filter::parse).transpose()?;
        Ok(Self { global, args, frames: None, taken: 0, paint: Paint::stdout(), filter, printed_until: 0 })
    }

    /// Opens a stream; the subscription is in place when this returns. Without a group: all that is declared for us.
    pub(super) async fn open(&mut self, group: &str) -> anyhow::Result<Streaming<SubscribeResponse>> {
        let subscription = (!group.is_empty()).then(|| Subscription {
            patterns: self.args.patterns.clone(),
            group: group.to_owned(),
            types: self.args.types.clone(),
            ordered: self.args.ordered,
            by_key: self.args.by_key,
            split_lanes: self.args.split_lanes,
            ..Subscription::default()
        });
        let subscriptions = subscription.into_iter().collect();
        let mut client = self.global.client().await?;
        let (frames, rx) = mpsc::channel(FRAMES_MAX);
        self.frames = Some(frames);
        self.send(subscribe_request::Frame::Open(Open { subscriptions, credit: self.credit() })).await;
        let requests = stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|request| (request, rx)) });
        Ok(client.subscribe(requests).await.map_err(Fault::from)?.into_inner())
    }

    /// The same after the sidecar went away.
    pub(super) async fn again(&mut self, group: &str) -> anyhow::Result<Streaming<SubscribeResponse>> {
        let began = Instant::now();
        loop {
            tokio::time::sleep(AGAIN_PAUSE).await;
            match self.open(group).await {
                Err(error) if began.elapsed() > AGAIN_LIMIT => return Err(error),
                Err(error) => tracing::debug!(%error, "not back yet"),
                opened => return opened,
            }
        }
    }

    /// Near the end no more are asked for than are wanted, so that others of the group get the rest.
    fn credit(&self) -> u32 {
        let left = self.args.max.map_or(u64::MAX, |max| max.saturating_sub(self.taken));
        self.args.credit.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
    }

    /// Prints and settles until the wanted number is reached or a signal comes.
    pub(super) async fn serve(
        &mut self,
        answers: &mut Streaming<SubscribeResponse>,
        mut stop: Pin<&mut impl Future<Output = &'static str>>,
    ) -> Result<(), Ended> {
        loop {
            // A branch that loses loses nothing: frames stay in the stream, a signal stays pending.
            let answer = tokio::select! {
                answer = answers.message() => answer,
                _ = &mut stop => return Ok(()),
            };
            let frame = match answer.map_err(Fault::from) {
                Ok(Some(answer)) => answer.frame,
                Ok(None) => return Err(Ended::ForNow("the sidecar closed the stream".to_owned())),
                Err(fault) if fault.code == Code::OutcomeUnknown => {
                    return Err(Ended::ForNow("the sidecar went away".to_owned()));
                }
                Err(fault) => return Err(Ended::For(fault.into())),
            };
            match frame {
                Some(subscribe_response::Frame::Delivery(delivery)) => {
                    let last = self.take(delivery).await.map_err(Ended::For)?;
                    if last {
                        return Ok(());
                    }
                }
                Some(other) => report(other),
                None => {}
            }
        }
    }

    /// Closes our side and waits until the sidecar has done what it was asked for.
    pub(super) async fn finish(&mut self, mut answers: Streaming<SubscribeResponse>) -> anyhow::Result<()> {
        self.frames = None;
        let finish = async {
            // Deliveries that still come are left alone: the sidecar gives them to others of the group.
            while let Ok(Some(answer)) = answers.message().await {
                answer.frame.into_iter().for_each(report);
            }
        };
        if tokio::time::timeout(FINISH_LIMIT, finish).await.is_err() {
            output::say("the sidecar did not confirm the last acks; those events may come again");
        }
        Ok(())
    }

    /// Whether a delivery is to be printed.
    fn is_wanted(&self, delivery: &Delivery) -> bool {
        let event = || delivery.event.as_ref().map(event_to_json).unwrap_or_default();
        delivery.seq > self.printed_until && self.filter.as_ref().is_none_or(|filter| filter.matches(&event()))
    }

    /// Prints and settles one; says whether it was the last one wanted.
    async fn take(&mut self, delivery: Delivery) -> anyhow::Result<bool> {
        let delivery_id = delivery.delivery_id.clone();
        if !self.is_wanted(&delivery) {
            let how = Some(How::Ack(Ack {}));
            self.send(subscribe_request::Frame::Settle(SettleRequest { delivery_id, emit: Vec::new(), how })).await;
            return Ok(false);
        }
        if self.global.json {
            output::json_line(&DeliveryJson::from(delivery))?;
        } else {
            output::line(super::text(&delivery, self.paint))?;
        }
        let reason = || self.args.reason.clone();
        let how = if self.args.nack {
            How::Nack(Nack { retry_after: None, reason: reason() })
        } else if self.args.reject {
            How::Reject(Reject { reason: reason() })
        } else {
            How::Ack(Ack {})
        };
        self.taken += 1;
        self.send(subscribe_request::Frame::Settle(SettleRequest { delivery_id, emit: Vec::new(), how: Some(how) }))
            .await;
        if self.credit() < self.args.credit {
            self.send(subscribe_request::Frame::Credit(self.credit())).await;
        }
        Ok(self.args.max.is_some_and(|max| self.taken >= max))
    }

    async fn send(&self, frame: subscribe_request::Frame) {
        if let Some(frames) = &self.frames {
            // The stream is gone: its end is reported by the other direction.
            let _ = frames.send(SubscribeRequest { frame: Some(frame) }).await;
        }
    }
}

/// Says what is no delivery and worth a word. A plain ack is answered only when it failed.
fn report(frame: subscribe_response::Frame) {
    match frame {
        subscribe_response::Frame::Settled(settled) => {
            if let Some(failure) = settled.failure {
                output::say(format!("not settled, it comes again: {}", Fault::from(failure)));
            }
        }
        subscribe_response::Frame::Lost(lost) => {
            let why = lost.why.map(Fault::from).map(|fault| fault.to_string()).unwrap_or_default();
            output::say(format!("lost a delivery, it comes again: {why}"));
        }
        subscribe_response::Frame::Draining(_) => output::say("the sidecar is draining"),
        subscribe_response::Frame::Delivery(_) => {}
    }
}
