//! The program as an agent: the generated gRPC client, over TCP, beside a sidecar process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::names::Names;
use agentbus_proto::Fault;
use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::{
    Ack, AskRequest, Delivery, Open, PublishRequest, PublishResponse, ReplyWith, SettleRequest, SubscribeRequest,
    SubscribeResponse, Subscription, settle_request, subscribe_request, subscribe_response,
};
use anyhow::Context;
use async_nats::jetstream;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tonic::Streaming;

use crate::bench::events::Events;
use crate::client::Client;

/// Events on the publish stream without an answer.
const WINDOW: usize = 8192;
/// Deliveries not settled at once.
const CREDIT: u32 = 10_000;
/// Unary publishes at once.
const IN_FLIGHT: usize = 64;

/// Pipelined over one publish stream; returns when all are confirmed.
pub async fn publish_streaming(client: &Client, count: u64, mut events: Events) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let window = Arc::new(Semaphore::new(WINDOW));
    let free = window.clone();
    let requests = stream::unfold(0, move |sent| {
        let (free, request) = (free.clone(), (sent < count).then(|| request(events.event())));
        async move {
            let request = request?;
            free.acquire().await.ok()?.forget();
            Some((request, sent + 1))
        }
    });
    let mut answers = client.clone().publish_stream(requests).await.map_err(Fault::from)?.into_inner();
    let mut left = count;
    while left > 0 {
        stored(answers.message().await.map_err(Fault::from)?)?;
        window.add_permits(1);
        left -= 1;
    }
    Ok(start.elapsed())
}

/// 64 calls at once on one connection.
pub async fn publish_unary_64(client: &Client, count: u64, events: &mut Events) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let calls = stream::iter((0..count).map(|_| events.event())).map(|event| publish(client.clone(), event));
    calls.buffer_unordered(IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await?;
    Ok(start.elapsed())
}

/// One call after the other.
pub async fn publish_unary(client: &Client, count: u64, events: &mut Events) -> anyhow::Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let start = Instant::now();
        publish(client.clone(), events.event()).await?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}

async fn publish(mut client: Client, event: Event) -> anyhow::Result<()> {
    stored(Some(client.publish(request(event)).await.map_err(Fault::from)?.into_inner()))
}

fn request(event: Event) -> PublishRequest {
    PublishRequest { event: Some(event), ..PublishRequest::default() }
}

fn stored(answer: Option<PublishResponse>) -> anyhow::Result<()> {
    let answer = answer.context("the publish stream ended early")?;
    if let Some(failure) = answer.failure {
        return Err(Fault::from(failure).into());
    }
    anyhow::ensure!(answer.duplicate != Some(true), "an event counted as a duplicate");
    Ok(())
}

/// An open subscribe stream.
struct Subscriber {
    frames: mpsc::Sender<SubscribeRequest>,
    answers: Streaming<SubscribeResponse>,
}

impl Subscriber {
    async fn open(client: &Client, group: &str) -> anyhow::Result<Self> {
        // Room for an ack of everything held: the agent must never wait for the sidecar to read, which may be waiting for the agent.
        let (frames, rx) = mpsc::channel(CREDIT as usize + 1);
        let subscription = Subscription { group: group.to_owned(), ..Subscription::default() };
        send(&frames, subscribe_request::Frame::Open(Open { subscriptions: vec![subscription], credit: CREDIT }))
            .await?;
        let answers = client.clone().subscribe(received(rx)).await.map_err(Fault::from)?.into_inner();
        Ok(Self { frames, answers })
    }

    /// The next delivery; its event is decoded by then.
    async fn next(&mut self) -> anyhow::Result<Delivery> {
        let answer = self.answers.message().await.map_err(Fault::from)?.context("the subscribe stream ended early")?;
        match answer.frame {
            Some(subscribe_response::Frame::Delivery(delivery)) => Ok(delivery),
            Some(subscribe_response::Frame::Settled(settled)) => Err(settled
                .failure
                .map_or_else(|| anyhow::anyhow!("an ack was answered"), |failure| Fault::from(failure).into())),
            other => anyhow::bail!("the sidecar sent something else: {other:?}"),
        }
    }

    /// The delivery of this event. Another one is a leftover that was delivered twice: acked and passed over.
    async fn event(&mut self, id: &str) -> anyhow::Result<Delivery> {
        loop {
            let delivery = self.next().await?;
            if delivery.event.as_ref().is_some_and(|event| event.id == id) {
                return Ok(delivery);
            }
            self.ack(delivery).await?;
        }
    }

    async fn ack(&self, delivery: Delivery) -> anyhow::Result<()> {
        self.settle(delivery, settle_request::How::Ack(Ack {})).await
    }

    /// Replies with the data of the ask, and waits until that is stored.
    async fn reply(&mut self, mut delivery: Delivery) -> anyhow::Result<()> {
        let Event { data, content_type, .. } = delivery.event.take().unwrap_or_default();
        let reply = ReplyWith { data, content_type, ..ReplyWith::default() };
        self.settle(delivery, settle_request::How::Reply(reply)).await?;
        let answer = self.answers.message().await.map_err(Fault::from)?.context("the subscribe stream ended early")?;
        match answer.frame {
            Some(subscribe_response::Frame::Settled(settled)) => {
                settled.failure.map_or(Ok(()), |failure| Err(Fault::from(failure).into()))
            }
            other => anyhow::bail!("the sidecar sent something else: {other:?}"),
        }
    }

    async fn settle(&self, delivery: Delivery, how: settle_request::How) -> anyhow::Result<()> {
        let settle = SettleRequest { delivery_id: delivery.delivery_id, emit: Vec::new(), how: Some(how) };
        send(&self.frames, subscribe_request::Frame::Settle(settle)).await
    }
}

fn received<T>(rx: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|item| (item, rx)) })
}

async fn send(frames: &mpsc::Sender<SubscribeRequest>, frame: subscribe_request::Frame) -> anyhow::Result<()> {
    frames.send(SubscribeRequest { frame: Some(frame) }).await.context("the subscribe stream ended early")
}

/// Receives and acks so many; returns when the broker has seen all acks.
pub async fn deliver(
    client: &Client,
    jetstream: &jetstream::Context,
    names: &Names,
    group: &str,
    count: u64,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut subscriber = Subscriber::open(client, group).await?;
    for _ in 0..count {
        let delivery = subscriber.next().await?;
        subscriber.ack(delivery).await?;
    }
    super::settled(jetstream, names, group).await?;
    Ok(start.elapsed())
}

/// Both ends of the latency measurement: two agents with a sidecar each.
pub struct Echo {
    publisher: Client,
    requests: mpsc::Sender<PublishRequest>,
    answers: Streaming<PublishResponse>,
    subscriber: Subscriber,
}

impl Echo {
    /// Opens both ends.
    pub async fn open(publisher: &Client, subscriber: &Client, group: &str) -> anyhow::Result<Self> {
        let (requests, rx) = mpsc::channel(1);
        let answers = publisher.clone().publish_stream(received(rx)).await.map_err(Fault::from)?.into_inner();
        let subscriber = Subscriber::open(subscriber, group).await?;
        Ok(Self { publisher: publisher.clone(), requests, answers, subscriber })
    }

    /// From publish on an open stream to received and decoded. The answer is awaited after that.
    pub async fn round(&mut self, events: &mut Events) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let event = events.event();
        let id = event.id.clone();
        self.requests.send(request(event)).await.context("the publish stream ended early")?;
        let delivery = self.subscriber.event(&id).await?;
        let took = start.elapsed();
        self.subscriber.ack(delivery).await?;
        stored(self.answers.message().await.map_err(Fault::from)?)?;
        Ok(took)
    }

    /// The same with a unary publish.
    pub async fn round_unary(&mut self, events: &mut Events) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let event = events.event();
        let id = event.id.clone();
        let published = publish(self.publisher.clone(), event);
        let received = async {
            let delivery = self.subscriber.event(&id).await?;
            anyhow::Ok((delivery, start.elapsed()))
        };
        let (published, received) = tokio::join!(published, received);
        published?;
        let (delivery, took) = received?;
        self.subscriber.ack(delivery).await?;
        Ok(took)
    }

    /// There and back: from an ask to its reply, decoded.
    pub async fn round_ask(&mut self, events: &mut Events) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let event = events.event();
        let id = event.id.clone();
        let mut client = self.publisher.clone();
        let asked = async {
            let request = AskRequest { event: Some(event), timeout: None };
            let mut replies = client.ask(request).await.map_err(Fault::from)?.into_inner();
            let reply = replies.message().await.map_err(Fault::from)?.context("the ask ended without a reply")?;
            anyhow::ensure!(reply.r#final, "a reply in several pieces");
            anyhow::Ok(start.elapsed())
        };
        let replied = async {
            let delivery = self.subscriber.event(&id).await?;
            self.subscriber.reply(delivery).await
        };
        let (asked, replied) = tokio::join!(asked, replied);
        replied?;
        asked
    }
}
