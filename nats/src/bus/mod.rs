//! The bus as everybody but this crate sees it: one trait, two backends.
//!
//! [`Bus`] says everything that the sidecar and the control plane do with a broker: store with certainty, pull by demand,
//! answer, read, keep streams and consumers, remember keys, ask and be asked. [`JetStream`] does it over the network;
//! [`Memory`] is a bounded bus inside this process, for tests and for `agentbus up --memory`. The words are ours; from the
//! client library come only plain data: configurations and header maps. A backend that does not do something says so
//! with a [`Fault`], never by pretending.
//!
//! What is done once per event does not pass a boxed future: [`Publisher`] and [`Pull`] are enums over the backends.

use std::sync::Arc;
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::Subject;
use async_nats::jetstream::{consumer::pull, kv, stream};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use crate::ack::Answer;
use crate::connect::{State, Violation};
use crate::publisher::{Message, Publisher, Stored};
use crate::pull::Pull;
use crate::pull::slices::Slices;
use crate::read::{Page, Query, Record};

mod facts;
mod jetstream;
mod keys;
pub mod memory;
mod notes;

pub use facts::{ConsumerInfo, Server, StreamInfo};
pub use jetstream::JetStream;
pub use keys::{Change, Entry, Watch};
pub use memory::Memory;
pub use notes::{Note, Subscription};

/// A bus. One handle is one identity: what it may do is decided when it is made.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    // ---- The connection -------------------------------------------------------------------------------------------

    /// The connection's state, to watch.
    fn state(&self) -> watch::Receiver<State>;

    /// What the bus refuses this connection, from now on.
    fn violations(&self) -> broadcast::Receiver<Violation>;

    /// What is on the other side.
    fn server(&self) -> Server;

    /// The public key this connection is made with; what tokens are minted for.
    fn public_key(&self) -> String;

    /// Takes a new token into use: what was written is flushed first, then the connection is made anew.
    async fn renew(&self, token: String) -> Result<(), Fault>;

    /// Writes out what is still in this process, within `within`. Says nothing about what the broker did with it.
    async fn flush(&self, within: Duration);

    /// Returns when the broker has taken everything that was sent before, subscriptions included. Needs the control
    /// plane's rights.
    async fn round_trip(&self) -> Result<(), Fault>;

    /// Whether it is connected now.
    fn is_up(&self) -> bool {
        self.generation() > 0
    }

    /// Number of the current connection; 0 while there is none.
    fn generation(&self) -> u64 {
        match *self.state().borrow() {
            State::Up(generation) => generation,
            State::Down(_) => 0,
        }
    }

    /// Waits until connected, `within` at most; `BROKER_DOWN` otherwise.
    async fn up(&self, within: Duration) -> Result<u64, Fault> {
        let mut state = self.state();
        let up = state.wait_for(|state| matches!(state, State::Up(_)));
        let reached = tokio::time::timeout(within, up).await.is_ok_and(|reached| reached.is_ok());
        if reached { Ok(self.generation()) } else { Err(self.down()) }
    }

    /// The fault for "not connected".
    fn down(&self) -> Fault {
        let why = match &*self.state().borrow() {
            State::Down(why) => why.clone(),
            State::Up(_) => "no answer".to_owned(),
        };
        Fault::new(Code::BrokerDown, format!("the broker cannot be reached ({why}); it is tried again all the time"))
            .with_retry_after(Duration::from_secs(1))
    }

    // ---- Storing --------------------------------------------------------------------------------------------------

    /// Stores one message after the other, each with its word. Cheap to clone: whoever stores often keeps one.
    fn publisher(&self) -> &Publisher;

    /// Stores one message and waits for the word that it is.
    async fn store(&self, message: Message) -> Result<Stored, Fault> {
        self.publisher().store(message).await
    }

    /// Stores all of these or none; they must belong to one stream. In their order, one place in the answer for each.
    async fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault>;

    // ---- Taking ---------------------------------------------------------------------------------------------------

    /// Pulls from a durable consumer; asks for nothing yet.
    async fn pull(&self, stream: &str, consumer: &str) -> Result<Pull, Fault>;

    /// Pulls from several consumers of a stream, each asked by itself. `pin_timeout`: where one sidecar at a time is pinned,
    /// after how long without a request another one is.
    async fn slices(
        &self,
        stream: &str,
        consumers: Vec<String>,
        _pin_timeout: Option<Duration>,
    ) -> Result<Slices, Fault> {
        let mut pulls = Vec::with_capacity(consumers.len());
        for consumer in &consumers {
            pulls.push(self.pull(stream, consumer).await?);
        }
        Ok(Slices::each(pulls))
    }

    /// Answers a delivery by the subject of its receipt. Not confirmed: a lost answer leads to another delivery.
    async fn answer(&self, receipt: &Subject, answer: Answer);

    /// Starts the ack wait of a delivery anew; false when the bus did not say so within 2 s.
    async fn renewed(&self, receipt: &Subject) -> bool {
        self.answer(receipt, Answer::Progress).await;
        true
    }

    /// Lets go of the pin of a consumer, whoever has it, so that a standby is asked at once. Not confirmed.
    async fn unpin(&self, _stream: &str, _consumer: &str) {}

    /// Which run of the bus this is: another one may have forgotten what it had handed out last.
    fn run_id(&self) -> String {
        String::new()
    }

    /// Acks and waits until the bus says so; false when it did not within 2 s. For what must never come twice.
    async fn confirmed(&self, receipt: &Subject) -> bool;

    // ---- Reading and removing (the control plane's rights) --------------------------------------------------------

    /// One page of what a stream holds. Takes nothing.
    async fn read(&self, stream: &str, query: &Query) -> Result<Page, Fault>;

    /// One record by its sequence; none when there is none any more.
    async fn get(&self, stream: &str, seq: u64) -> Result<Option<Record>, Fault>;

    /// The first record at or behind `seq` whose subject matches `filter`.
    async fn find(&self, stream: &str, filter: &str, seq: u64) -> Result<Option<Record>, Fault>;

    /// Removes all records with a sequence *below* `below` whose subject matches `filter` (none = all); tells how many.
    /// Nothing that a group still needs is protected: whoever calls has looked.
    async fn purge(&self, stream: &str, below: u64, filter: Option<&str>) -> Result<u64, Fault>;

    /// Removes one record; false when it was gone.
    async fn delete(&self, stream: &str, seq: u64) -> Result<bool, Fault>;

    // ---- Streams and consumers (the control plane's rights) -------------------------------------------------------

    /// Names of all streams.
    async fn stream_names(&self) -> Result<Vec<String>, Fault>;

    /// A stream's configuration and state; none when it does not exist.
    async fn stream(&self, name: &str) -> Result<Option<StreamInfo>, Fault>;

    /// Makes a stream. `CAPACITY_EXCEEDED` when the storage is too small for it.
    async fn create_stream(&self, config: &stream::Config) -> Result<(), Fault>;

    /// Changes a stream to this configuration.
    async fn update_stream(&self, config: &stream::Config) -> Result<(), Fault>;

    /// How many messages a stream has on each subject that matches.
    async fn subjects(&self, stream: &str, filter: &str) -> Result<Vec<(String, u64)>, Fault>;

    /// A consumer's configuration and state; none when it, or its stream, does not exist.
    async fn consumer(&self, stream: &str, name: &str) -> Result<Option<ConsumerInfo>, Fault>;

    /// The consumers of a stream, `max` at most.
    async fn consumers(&self, stream: &str, max: usize) -> Result<Vec<ConsumerInfo>, Fault>;

    /// Makes or changes a durable consumer. `BROKER_DOWN` and `CAPACITY_EXCEEDED` may pass; `INVALID_ADDRESS` (its
    /// filters) and `BAD_CONFIG` (everything else of it) are for good.
    async fn put_consumer(&self, stream: &str, config: pull::Config) -> Result<(), Fault>;

    // ---- Keys (the control plane's rights) ------------------------------------------------------------------------

    /// Makes or changes a bucket.
    async fn put_bucket(&self, config: kv::Config) -> Result<(), Fault>;

    /// A key's value and revision.
    async fn key(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Fault>;

    /// All keys that have a value.
    async fn keys(&self, bucket: &str) -> Result<Vec<String>, Fault>;

    /// Writes a key and tells its revision.
    async fn put_key(&self, bucket: &str, key: &str, value: Bytes) -> Result<u64, Fault>;

    /// Writes a key if `expected` is its revision now (0 = it has no value); none when it is another one.
    async fn swap_key(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<Option<u64>, Fault>;

    /// Removes a key; nothing happens when there is none.
    async fn delete_key(&self, bucket: &str, key: &str) -> Result<(), Fault>;

    /// The values of now, then every change, of the keys that match (`agents.*`).
    async fn watch(&self, bucket: &str, filter: &str) -> Result<Watch, Fault>;

    // ---- Notes: what is not stored --------------------------------------------------------------------------------

    /// A fresh subject below this connection's inbox, for answers.
    fn new_inbox(&self) -> String;

    /// Sends a note to whoever listens now; nobody hears it otherwise. `reply` is where an answer is wanted.
    async fn send_note(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> Result<(), Fault>;

    /// Asks, and waits for the first answer. `BROKER_DOWN` when there is none within `within`, at once when nobody
    /// listens.
    async fn request(&self, subject: &str, payload: Bytes, within: Duration) -> Result<Note, Fault>;

    /// Listens on a subject pattern, alone or as one of a queue group. What is stored in a stream is heard, too.
    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, Fault>;
}

/// A bus handle to share.
pub type Shared = Arc<dyn Bus>;

impl std::fmt::Debug for dyn Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("server", &self.server().url).finish_non_exhaustive()
    }
}
