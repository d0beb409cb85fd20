//! What a bus tells about itself, its streams and its consumers. Plain data.

use async_nats::jetstream::{consumer, stream};
use time::OffsetDateTime;

/// The other side of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// `nats://host:port`; `memory:` for the bus in this process.
    pub url: String,
    /// Its version.
    pub version: String,
    /// Largest message it takes, in bytes.
    pub message_bytes_max: usize,
    /// Nothing of it survives this process.
    pub in_process: bool,
}

/// A stream: how it is set and what it holds.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Its configuration.
    pub config: stream::Config,
    /// When it was made: tells a stream from one of the same name that was lost.
    pub created: OffsetDateTime,
    /// Messages in it.
    pub messages: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Sequence of the oldest message; one more than the last when it is empty.
    pub first_seq: u64,
    /// Sequence of the newest message, gone ones included.
    pub last_seq: u64,
    /// Consumers on it.
    pub consumers: usize,
}

/// A durable consumer: how it is set and how far it is.
#[derive(Debug, Clone)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// Stream it reads.
    pub stream: String,
    /// Its configuration.
    pub config: consumer::Config,
    /// When it was made.
    pub created: OffsetDateTime,
    /// Stream sequence of the newest message it has handed out.
    pub delivered: u64,
    /// The last sequence matching this consumer below which all is acked; 0 before the first ack. A quiet consumer's stays
    /// far behind the end of the stream although it has read all: see `pending` and `ack_pending`.
    pub floor: u64,
    /// Matching messages it has not handed out yet.
    pub pending: u64,
    /// Handed out and not settled.
    pub ack_pending: u64,
    /// Of these, handed out more than once.
    pub redelivered: u64,
    /// Pull requests that wait for messages: somebody listens.
    pub waiting: u64,
}
