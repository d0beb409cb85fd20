//! The program as a plain NATS client: async-nats at its best, as far as we know how.
//!
//! Publishes with message ids, pipelined; pulls 5000 at a time; acks plainly, without waiting for a confirmation.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use agentbus_nats::names::Names;
use agentbus_proto::event::v1::Event;
use anyhow::Context;
use async_nats::jetstream::{self, consumer::pull, context::PublishAckFuture};
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;

use crate::bench::events::{Events, Raw};

/// Publishes without an answer at once. More gains nothing (8192 was slower), and the client allows 5000.
const WINDOW: usize = 4096;
/// Messages one pull request asks for: 1000 is a tenth slower.
const BATCH: usize = 5000;
/// Unary publishes at once.
const IN_FLIGHT: usize = 64;

/// Publishes and consumes with full rights.
pub struct Direct {
    jetstream: jetstream::Context,
    names: Names,
}

/// Both ends of the latency measurement.
pub struct Echo<'a> {
    direct: &'a Direct,
    messages: pull::Stream,
}

impl Direct {
    /// On this connection.
    pub fn new(jetstream: &jetstream::Context, names: &Names) -> Self {
        Self { jetstream: jetstream.clone(), names: names.clone() }
    }

    async fn send(&self, raw: Raw) -> anyhow::Result<PublishAckFuture> {
        Ok(self.jetstream.publish_with_headers(raw.subject, raw.headers, raw.payload).await?)
    }

    /// Pipelined; returns when all are confirmed.
    pub async fn publish_streaming(&self, count: u64, mut make: impl FnMut() -> Raw) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut waiting = VecDeque::with_capacity(WINDOW);
        for _ in 0..count {
            if waiting.len() == WINDOW
                && let Some(oldest) = waiting.pop_front()
            {
                confirmed(oldest).await?;
            }
            waiting.push_back(self.send(make()).await?);
        }
        for one in waiting {
            confirmed(one).await?;
        }
        Ok(start.elapsed())
    }

    /// 64 at once, each waited for.
    pub async fn publish_unary_64(&self, count: u64, events: &mut Events) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let calls =
            stream::iter((0..count).map(|_| events.raw())).map(|raw| async { confirmed(self.send(raw).await?).await });
        calls.buffer_unordered(IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await?;
        Ok(start.elapsed())
    }

    /// One after the other.
    pub async fn publish_unary(&self, count: u64, events: &mut Events) -> anyhow::Result<Vec<Duration>> {
        let mut samples = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let start = Instant::now();
            confirmed(self.send(events.raw()).await?).await?;
            samples.push(start.elapsed());
        }
        Ok(samples)
    }

    /// Receives, decodes and acks so many; returns when the broker has seen all acks.
    pub async fn deliver(&self, group: &str, count: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut messages = self.messages(group).await?;
        for _ in 0..count {
            receive(&mut messages).await?;
        }
        super::settled(&self.jetstream, &self.names, group).await?;
        Ok(start.elapsed())
    }

    async fn messages(&self, group: &str) -> anyhow::Result<pull::Stream> {
        let name = Names::consumer(group);
        let consumer: jetstream::consumer::PullConsumer =
            self.jetstream.get_consumer_from_stream(&name, &self.names.events()).await?;
        Ok(consumer.stream().max_messages_per_batch(BATCH).messages().await?)
    }

    /// Opens both ends.
    pub async fn echo(&self, group: &str) -> anyhow::Result<Echo<'_>> {
        Ok(Echo { direct: self, messages: self.messages(group).await? })
    }
}

impl Echo<'_> {
    /// From publish to received and decoded. The confirmation is awaited after that.
    pub async fn round(&mut self, events: &mut Events) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let raw = events.raw();
        let sent_payload = raw.payload.clone();
        let sent = self.direct.send(raw).await?;
        let message = loop {
            let message = next(&mut self.messages).await?;
            Event::decode(message.payload.clone())?;
            if message.payload == sent_payload {
                break message;
            }
            // A leftover that was delivered twice.
            ack(&message).await?;
        };
        let took = start.elapsed();
        ack(&message).await?;
        confirmed(sent).await?;
        Ok(took)
    }
}

async fn receive(messages: &mut pull::Stream) -> anyhow::Result<()> {
    let message = next(messages).await?;
    Event::decode(message.payload.clone())?;
    ack(&message).await
}

async fn next(messages: &mut pull::Stream) -> anyhow::Result<jetstream::Message> {
    Ok(messages.next().await.context("the pull ended")??)
}

async fn ack(message: &jetstream::Message) -> anyhow::Result<()> {
    message.ack().await.map_err(|error| anyhow::anyhow!("cannot ack: {error}"))
}

async fn confirmed(sent: PublishAckFuture) -> anyhow::Result<()> {
    anyhow::ensure!(!sent.await?.duplicate, "an event counted as a duplicate");
    Ok(())
}
