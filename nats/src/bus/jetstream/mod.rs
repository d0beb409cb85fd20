//! The bus on NATS JetStream: the client library's calls, bounded and with our faults.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::Subject;
use async_nats::jetstream::{self, consumer::pull, kv, stream};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::{Bus, ConsumerInfo, Entry, Note, Server, StreamInfo, Subscription, Watch};
use crate::ack::{self, Answer};
use crate::connect::{self, Link, State, Violation};
use crate::publisher::{self, Message, Publisher, Stored};
use crate::pull::Pull;
use crate::pull::slices::{self, Slices};
use crate::read::{self, Page, Query, Record};

mod assets;
mod buckets;
mod records;

/// A connection to a broker.
pub struct JetStream {
    link: Link,
    context: jetstream::Context,
    publisher: Publisher,
    /// Buckets that were looked up.
    buckets: Mutex<HashMap<String, kv::Store>>,
}

impl JetStream {
    /// Connects, or says within 5 s why not.
    pub async fn connect(options: connect::Options) -> Result<Arc<Self>, Fault> {
        Self::on(Link::connect(options).await?).await
    }

    /// On a connection that is there.
    pub async fn on(link: Link) -> Result<Arc<Self>, Fault> {
        let context = jetstream::new(link.client.clone());
        let publisher = Publisher::start(link.clone(), publisher::Options::default()).await?;
        Ok(Arc::new(Self { link, context, publisher, buckets: Mutex::default() }))
    }

    /// The connection itself, for what only a NATS client asks: tests and the bench.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// A subject of the bus as this connection spells it.
    fn spell(&self, subject: &str) -> String {
        self.link.layout().spell(subject).into_owned()
    }

    /// JetStream on it, likewise.
    pub fn context(&self) -> &jetstream::Context {
        &self.context
    }
}

#[async_trait]
impl Bus for JetStream {
    fn state(&self) -> watch::Receiver<State> {
        self.link.state()
    }

    fn violations(&self) -> broadcast::Receiver<Violation> {
        self.link.violations()
    }

    fn server(&self) -> Server {
        let info = self.link.client.server_info();
        Server {
            url: format!("nats://{}:{}", info.host, info.port),
            version: info.version,
            message_bytes_max: info.max_payload,
            in_process: false,
        }
    }

    fn public_key(&self) -> String {
        self.link.identity().public_key()
    }

    async fn renew(&self, token: String) -> Result<(), Fault> {
        self.link.renew(token).await
    }

    async fn flush(&self, within: Duration) {
        // A closed client has nothing left to write.
        let _ = tokio::time::timeout(within, self.link.client.flush()).await;
    }

    async fn round_trip(&self) -> Result<(), Fault> {
        // The broker takes what a connection sends in order: an answer to this says that all of it is in place.
        let answer = self.context.query_account().await;
        answer.map(drop).map_err(|error| Fault::new(Code::BrokerDown, format!("no answer from the broker: {error}")))
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn generation(&self) -> u64 {
        self.link.generation()
    }

    fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    async fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault> {
        self.publisher.store_all(messages).await
    }

    async fn pull(&self, stream: &str, consumer: &str) -> Result<Pull, Fault> {
        Pull::open(&self.link, stream, consumer).await
    }

    async fn slices(
        &self,
        stream: &str,
        consumers: Vec<String>,
        pin_timeout: Option<Duration>,
    ) -> Result<Slices, Fault> {
        Ok(Slices::jetstream(slices::JetStream::open(&self.link, stream, consumers, pin_timeout).await?))
    }

    async fn renewed(&self, receipt: &Subject) -> bool {
        ack::renewed(&self.link.client, receipt).await
    }

    async fn unpin(&self, stream: &str, consumer: &str) {
        slices::unpin(&self.link, stream, consumer).await;
    }

    fn run_id(&self) -> String {
        self.link.client.server_info().server_id
    }

    async fn answer(&self, receipt: &Subject, answer: Answer) {
        ack::answer(&self.link.client, receipt, answer).await;
    }

    async fn confirmed(&self, receipt: &Subject) -> bool {
        ack::confirmed(&self.link.client, receipt).await
    }

    async fn read(&self, stream: &str, query: &Query) -> Result<Page, Fault> {
        read::page(&self.context, stream, query).await
    }

    async fn get(&self, stream: &str, seq: u64) -> Result<Option<Record>, Fault> {
        records::get(&self.context, stream, seq).await
    }

    async fn find(&self, stream: &str, filter: &str, seq: u64) -> Result<Option<Record>, Fault> {
        records::find(&self.context, stream, filter, seq).await
    }

    async fn purge(&self, stream: &str, below: u64, filter: Option<&str>) -> Result<u64, Fault> {
        records::purge(&self.context, stream, below, filter).await
    }

    async fn delete(&self, stream: &str, seq: u64) -> Result<bool, Fault> {
        records::delete(&self.context, stream, seq).await
    }

    async fn stream_names(&self) -> Result<Vec<String>, Fault> {
        assets::stream_names(&self.context).await
    }

    async fn stream(&self, name: &str) -> Result<Option<StreamInfo>, Fault> {
        assets::stream(&self.context, name).await
    }

    async fn create_stream(&self, config: &stream::Config) -> Result<(), Fault> {
        let made = self.context.create_stream(config).await;
        made.map(drop).map_err(|error| assets::refused(&config.name, "create", &error))
    }

    async fn update_stream(&self, config: &stream::Config) -> Result<(), Fault> {
        let changed = self.context.update_stream(config).await;
        changed.map(drop).map_err(|error| assets::refused(&config.name, "update", &error))
    }

    async fn subjects(&self, stream: &str, filter: &str) -> Result<Vec<(String, u64)>, Fault> {
        assets::subjects(&self.context, stream, filter).await
    }

    async fn consumer(&self, stream: &str, name: &str) -> Result<Option<ConsumerInfo>, Fault> {
        assets::consumer(&self.context, stream, name).await
    }

    async fn consumers(&self, stream: &str, max: usize) -> Result<Vec<ConsumerInfo>, Fault> {
        assets::consumers(&self.context, stream, max).await
    }

    async fn put_consumer(&self, stream: &str, config: pull::Config) -> Result<(), Fault> {
        assets::put_consumer(&self.context, stream, config).await
    }

    async fn put_bucket(&self, config: kv::Config) -> Result<(), Fault> {
        let bucket = config.bucket.clone();
        let store = self.context.create_or_update_key_value(config).await;
        let store = store.map_err(|error| assets::refused(&bucket, "create", &error))?;
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket, store);
        Ok(())
    }

    async fn key(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Fault> {
        buckets::get(&self.bucket(bucket).await?, key).await
    }

    async fn keys(&self, bucket: &str) -> Result<Vec<String>, Fault> {
        buckets::keys(&self.bucket(bucket).await?).await
    }

    async fn put_key(&self, bucket: &str, key: &str, value: Bytes) -> Result<u64, Fault> {
        buckets::put(&self.bucket(bucket).await?, key, value).await
    }

    async fn swap_key(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<Option<u64>, Fault> {
        buckets::swap(&self.bucket(bucket).await?, key, value, expected).await
    }

    async fn delete_key(&self, bucket: &str, key: &str) -> Result<(), Fault> {
        buckets::delete(&self.bucket(bucket).await?, key).await
    }

    async fn watch(&self, bucket: &str, filter: &str) -> Result<Watch, Fault> {
        buckets::watch(&self.bucket(bucket).await?, filter).await
    }

    fn new_inbox(&self) -> String {
        self.link.new_inbox()
    }

    async fn send_note(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> Result<(), Fault> {
        let (client, spelled) = (&self.link.client, self.spell(subject));
        let sent = match reply {
            Some(reply) => client.publish_with_reply(spelled, reply.to_owned(), payload).await,
            None => client.publish(spelled, payload).await,
        };
        sent.map_err(|error| Fault::new(Code::BrokerDown, format!("cannot send on `{subject}`: {error}")))
    }

    async fn request(&self, subject: &str, payload: Bytes, within: Duration) -> Result<Note, Fault> {
        let why =
            |why: &dyn std::fmt::Display| Fault::new(Code::BrokerDown, format!("no answer on `{subject}`: {why}"));
        match tokio::time::timeout(within, self.link.client.request(self.spell(subject), payload)).await {
            Ok(Ok(message)) => Ok(message.into()),
            Ok(Err(error)) => Err(why(&error)),
            Err(_) => Err(why(&format!("waited {} ms", within.as_millis()))),
        }
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, Fault> {
        let (client, spelled) = (&self.link.client, self.spell(subject));
        let listening = match queue {
            Some(queue) => client.queue_subscribe(spelled, queue.to_owned()).await,
            None => client.subscribe(spelled).await,
        };
        let down = |error| Fault::new(Code::BrokerDown, format!("cannot listen on `{subject}`: {error}"));
        listening.map(|heard| Subscription::jetstream(heard, self.link.layout())).map_err(down)
    }
}
