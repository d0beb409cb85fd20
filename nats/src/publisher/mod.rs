//! Publishing with certainty: every message gets the word that it is stored, or an error that says what is known.
//!
//! [`Publisher`] and [`Pending`] are the same for every backend; which one they stand on is decided once, when the bus is
//! reached, and costs a match, no allocation. `jetstream` is today's way over the network.

use std::time::Duration;

use agentbus_proto::Fault;
use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;

use crate::bus::memory;
use crate::connect::Link;

mod answer;
mod batch;
mod jetstream;
mod queue;
mod wire;

pub(crate) use answer::refused;

pub use batch::BATCH_MESSAGES_MAX;

/// How publishing behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// No answer for this long: the same message is sent again.
    pub answer_wait: Duration,
    /// After this long the outcome is reported as unknown.
    pub outcome_wait: Duration,
    /// While disconnected, a publish waits this long for the connection before it fails with `BROKER_DOWN`.
    pub link_wait: Duration,
    /// Most payload without an answer yet; a publish above it waits, `outcome_wait` at most.
    pub bytes_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        // A broker answers within milliseconds, a restart of it takes about a second.
        Self {
            answer_wait: Duration::from_secs(2),
            outcome_wait: Duration::from_secs(10),
            link_wait: Duration::from_secs(2),
            // Sixty events of the largest size, a hundred thousand small ones.
            bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// A message ready to be stored. Its headers carry a `Nats-Msg-Id`.
#[derive(Debug, Clone)]
pub struct Message {
    /// Full subject.
    pub subject: String,
    /// Headers, the id among them.
    pub headers: HeaderMap,
    /// Encoded event.
    pub payload: Bytes,
}

impl Message {
    /// The headers as lines of name, colon, value: a map's clone would be a dozen allocations.
    pub fn packed_headers(&self) -> String {
        pack(&self.headers)
    }

    /// The message with these packed headers.
    pub fn from_packed(subject: String, headers: &str, payload: Bytes) -> Self {
        Self { subject, headers: unpack(headers), payload }
    }
}

/// Headers as lines of name, colon, value. Neither side can contain a line end, and no name a colon.
fn pack(headers: &HeaderMap) -> String {
    let mut packed = String::with_capacity(256);
    for (name, values) in headers.iter() {
        for value in values {
            packed.extend([name.as_ref(), ":", value.as_str(), "\n"]);
        }
    }
    packed
}

fn unpack(packed: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    packed.lines().filter_map(|line| line.split_once(':')).for_each(|(name, value)| headers.append(name, value));
    headers
}

/// The broker's word that a message is stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Stored {
    /// Stream it is in.
    pub stream: String,
    /// Its sequence there.
    #[serde(rename = "seq")]
    pub seq: u64,
    /// The same id was stored before; `seq` is the earlier one's.
    #[serde(default)]
    pub duplicate: bool,
}

/// Publishes with PubAck. Cheap to clone; one per connection.
#[derive(Clone)]
pub struct Publisher {
    way: Way,
}

#[derive(Clone)]
enum Way {
    JetStream(jetstream::Publisher),
    Memory(memory::Sender),
}

/// A message on its way. Dropped, it is no longer waited for or sent again.
pub struct Pending {
    outcome: Outcome,
}

enum Outcome {
    JetStream(jetstream::Pending),
    /// Known already; told once.
    Known(Option<Result<Stored, Fault>>),
}

impl Publisher {
    /// Connects once more, as `link` did, for what is published.
    pub async fn start(link: Link, options: Options) -> Result<Self, Fault> {
        Ok(Self { way: Way::JetStream(jetstream::Publisher::start(link, options).await?) })
    }

    /// Over the bus in this process.
    pub(crate) fn memory(sender: memory::Sender) -> Self {
        Self { way: Way::Memory(sender) }
    }

    /// Hands a message to the connection, in call order; await [`Pending::stored`] for the outcome.
    pub async fn send(&self, message: Message) -> Result<Pending, Fault> {
        match &self.way {
            Way::JetStream(publisher) => Ok(Pending { outcome: Outcome::JetStream(publisher.send(message).await?) }),
            Way::Memory(sender) => {
                // A loop that never has to wait lets others run, too.
                tokio::task::coop::consume_budget().await;
                Ok(Pending { outcome: Outcome::Known(Some(sender.store(message))) })
            }
        }
    }

    /// Sends and waits for the outcome.
    pub async fn store(&self, message: Message) -> Result<Stored, Fault> {
        self.send(message).await?.stored().await
    }

    /// Stores all of them, one behind the other, or none. Ids that are stored already count as stored; then, and only then,
    /// the others are stored one by one.
    pub async fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault> {
        match &self.way {
            Way::JetStream(publisher) => publisher.store_all(messages).await,
            Way::Memory(sender) => sender.store_all(messages),
        }
    }

    /// Messages without an answer yet.
    pub fn in_flight(&self) -> usize {
        match &self.way {
            Way::JetStream(publisher) => publisher.in_flight(),
            Way::Memory(_) => 0,
        }
    }
}

impl Pending {
    /// Waits for the PubAck; the message is sent again while the outcome is unknown, `OUTCOME_UNKNOWN` in the end.
    pub async fn stored(mut self) -> Result<Stored, Fault> {
        self.outcome().await
    }

    /// The same, cancel-safe: may be called again until it has given the outcome.
    pub async fn outcome(&mut self) -> Result<Stored, Fault> {
        match &mut self.outcome {
            Outcome::JetStream(pending) => pending.outcome().await,
            Outcome::Known(outcome) => outcome.take().unwrap_or_else(|| Err(queue::unknown())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_headers_are_the_same_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "a/b:c");
        headers.insert("Ab-Cause", "");
        headers.append("X", "1");
        headers.append("X", " 2: ");
        assert_eq!(unpack(&pack(&headers)), headers);
    }
}
