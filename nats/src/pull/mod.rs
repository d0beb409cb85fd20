//! Pulling from a durable consumer by demand, on any backend: [`Pull::want`] says how many messages the caller can take,
//! and exactly that many are asked for. Nothing here is prefetched.

use agentbus_proto::Fault;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use crate::ack::Receipt;
use crate::bus::memory;
use crate::connect::Link;

mod jetstream;
pub mod slices;

/// One message from the broker.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Ack subject and what it tells.
    pub receipt: Receipt,
    /// Subject it was stored on.
    pub subject: Subject,
    /// Headers.
    pub headers: HeaderMap,
    /// Encoded event.
    pub payload: Bytes,
}

/// Pulls from one consumer.
pub struct Pull {
    way: Way,
}

enum Way {
    JetStream(Box<jetstream::Pull>),
    Memory(memory::Taker),
}

impl Pull {
    /// Subscribes for the answers; asks for nothing yet.
    pub async fn open(link: &Link, stream: &str, consumer: &str) -> Result<Self, Fault> {
        Ok(Self { way: Way::JetStream(Box::new(jetstream::Pull::open(link, stream, consumer).await?)) })
    }

    /// Over the bus in this process.
    pub(crate) fn memory(taker: memory::Taker) -> Self {
        Self { way: Way::Memory(taker) }
    }

    /// Sets how many more messages the caller can take now. What is under way counts towards it.
    pub fn want(&mut self, messages: usize) {
        match &mut self.way {
            Way::JetStream(pull) => pull.want(messages),
            Way::Memory(taker) => taker.want(messages),
        }
    }

    /// The next message. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Incoming {
        match &mut self.way {
            Way::JetStream(pull) => pull.next().await,
            Way::Memory(taker) => taker.next().await,
        }
    }

    /// The next message if it is here already.
    pub fn try_next(&mut self) -> Option<Incoming> {
        match &mut self.way {
            Way::JetStream(pull) => pull.try_next(),
            Way::Memory(taker) => taker.try_next(),
        }
    }

    /// Ends all requests and returns what was on its way, within a second. Nothing comes afterwards; what is sent in the
    /// last round trip may be missed and comes to somebody after the ack wait.
    pub async fn finish(&mut self) -> Vec<Incoming> {
        match &mut self.way {
            Way::JetStream(pull) => pull.finish().await,
            Way::Memory(taker) => taker.finish(),
        }
    }
}
