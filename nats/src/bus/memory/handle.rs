//! One connection to the bus in this process: the trait on top of the world.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::consumer::{IntoConsumerConfig, pull};
use async_nats::jetstream::{kv, stream};
use async_nats::{HeaderMap, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::{Follower, Inner, Taker, read, world};
use crate::ack::{Answer, Receipt};
use crate::bus::{Bus, ConsumerInfo, Entry, Note, Server, StreamInfo, Subscription, Watch};
use crate::connect::{State, Violation};
use crate::publisher::{Message, Publisher, Stored};
use crate::pull::Pull;
use crate::read::{Page, Query, Record};

pub(super) struct Handle {
    pub inner: Arc<Inner>,
    pub publisher: Publisher,
    /// Always up: it is this process.
    pub state: watch::Sender<State>,
    pub violations: broadcast::Sender<Violation>,
    pub public_key: String,
    pub inbox: String,
    pub inboxes: AtomicU64,
}

#[async_trait]
impl Bus for Handle {
    fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn violations(&self) -> broadcast::Receiver<Violation> {
        self.violations.subscribe()
    }

    fn server(&self) -> Server {
        Server {
            url: super::URL.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            message_bytes_max: self.inner.options.message_bytes_max,
            in_process: true,
        }
    }

    fn public_key(&self) -> String {
        self.public_key.clone()
    }

    async fn renew(&self, _token: String) -> Result<(), Fault> {
        Ok(())
    }

    async fn flush(&self, _within: Duration) {}

    async fn round_trip(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn is_up(&self) -> bool {
        true
    }

    fn generation(&self) -> u64 {
        1
    }

    fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    async fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault> {
        self.publisher.store_all(messages).await
    }

    async fn pull(&self, stream: &str, consumer: &str) -> Result<Pull, Fault> {
        Ok(Pull::memory(Taker::open(&self.inner, stream, consumer)))
    }

    async fn answer(&self, receipt: &Subject, answer: Answer) {
        self.settle(receipt, answer);
    }

    async fn confirmed(&self, receipt: &Subject) -> bool {
        self.settle(receipt, Answer::Ack)
    }

    async fn read(&self, stream: &str, query: &Query) -> Result<Page, Fault> {
        self.inner.with(|world, _| world.log(stream).map(|log| read::page(log, query)))
    }

    async fn get(&self, stream: &str, seq: u64) -> Result<Option<Record>, Fault> {
        self.inner.with(|world, _| {
            let log = world.log(stream)?;
            Ok(log.records.get(&seq).map(|kept| read::record(seq, kept)))
        })
    }

    async fn find(&self, stream: &str, filter: &str, seq: u64) -> Result<Option<Record>, Fault> {
        self.inner.with(|world, _| world.log(stream).map(|log| read::find(log, filter, seq)))
    }

    async fn purge(&self, stream: &str, below: u64, filter: Option<&str>) -> Result<u64, Fault> {
        self.inner.with(|world, _| world.log(stream).map(|log| log.purge(below, filter)))
    }

    async fn delete(&self, stream: &str, seq: u64) -> Result<bool, Fault> {
        self.inner.with(|world, _| world.log(stream).map(|log| log.remove(seq).is_some()))
    }

    async fn stream_names(&self) -> Result<Vec<String>, Fault> {
        Ok(self.inner.with(|world, _| {
            let buckets = world.buckets.keys().map(|bucket| format!("KV_{bucket}"));
            world.streams.keys().cloned().chain(buckets).collect()
        }))
    }

    async fn stream(&self, name: &str) -> Result<Option<StreamInfo>, Fault> {
        Ok(self.inner.with(|world, _| world.stream(name)))
    }

    async fn create_stream(&self, config: &stream::Config) -> Result<(), Fault> {
        self.inner.with(|world, now| world.create_stream(config, now))
    }

    async fn update_stream(&self, config: &stream::Config) -> Result<(), Fault> {
        self.inner.with(|world, _| world.update_stream(config))
    }

    async fn subjects(&self, stream: &str, filter: &str) -> Result<Vec<(String, u64)>, Fault> {
        self.inner.with(|world, _| world.log(stream).map(|log| read::subjects(log, filter)))
    }

    async fn consumer(&self, stream: &str, name: &str) -> Result<Option<ConsumerInfo>, Fault> {
        Ok(self.inner.with(|world, _| world.consumer(stream, name)))
    }

    async fn consumers(&self, stream: &str, max: usize) -> Result<Vec<ConsumerInfo>, Fault> {
        self.inner.with(|world, _| {
            let names: Vec<String> = world.log(stream)?.cursors.keys().take(max).cloned().collect();
            Ok(names.iter().filter_map(|name| world.consumer(stream, name)).collect())
        })
    }

    async fn put_consumer(&self, stream: &str, config: pull::Config) -> Result<(), Fault> {
        self.inner.with(|world, now| world.put_consumer(stream, config.into_consumer_config(), now))
    }

    async fn put_bucket(&self, config: kv::Config) -> Result<(), Fault> {
        self.inner.with(|world, _| world.put_bucket(config));
        Ok(())
    }

    async fn key(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Fault> {
        self.inner.with(|world, _| Ok(world.bucket(bucket)?.get(key)))
    }

    async fn keys(&self, bucket: &str) -> Result<Vec<String>, Fault> {
        self.inner.with(|world, _| Ok(world.bucket(bucket)?.keys()))
    }

    async fn put_key(&self, bucket: &str, key: &str, value: Bytes) -> Result<u64, Fault> {
        let revision = self.inner.with(|world, _| world.bucket(bucket)?.put(key, value));
        self.inner.keys.notify_waiters();
        revision
    }

    async fn swap_key(&self, bucket: &str, key: &str, value: Bytes, expected: u64) -> Result<Option<u64>, Fault> {
        let revision = self.inner.with(|world, _| world.bucket(bucket)?.swap(key, value, expected));
        self.inner.keys.notify_waiters();
        revision
    }

    async fn delete_key(&self, bucket: &str, key: &str) -> Result<(), Fault> {
        let deleted = self.inner.with(|world, _| world.bucket(bucket).map(|bucket| bucket.delete(key)));
        self.inner.keys.notify_waiters();
        deleted
    }

    async fn watch(&self, bucket: &str, filter: &str) -> Result<Watch, Fault> {
        self.inner.with(|world, _| world.bucket(bucket).map(drop))?;
        let (inner, bucket, filter) = (self.inner.clone(), bucket.to_owned(), filter.to_owned());
        Ok(Watch::memory(Follower { inner, bucket, filter, after: 0 }))
    }

    fn new_inbox(&self) -> String {
        format!("{}.{:x}", self.inbox, self.inboxes.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn send_note(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> Result<(), Fault> {
        self.tell(subject, reply, payload);
        Ok(())
    }

    async fn request(&self, subject: &str, payload: Bytes, within: Duration) -> Result<Note, Fault> {
        let why = |why: &str| Fault::new(Code::BrokerDown, format!("no answer on `{subject}`: {why}"));
        let inbox = self.new_inbox();
        let mut answers = self.subscribe(&inbox, None).await?;
        if self.tell(subject, Some(&inbox), payload) == 0 {
            return Err(why("no responders"));
        }
        let answer = tokio::time::timeout(within, answers.next()).await;
        answer.ok().flatten().ok_or_else(|| why(&format!("waited {} ms", within.as_millis())))
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, Fault> {
        let notes = self.inner.with(|world, _| world.listeners.add(subject, queue));
        Ok(Subscription::memory(notes))
    }
}

impl Handle {
    fn settle(&self, receipt: &Subject, answer: Answer) -> bool {
        let Some(receipt) = Receipt::parse(receipt.clone()) else { return false };
        self.inner.with(|world, now| world.settle(&receipt, answer, now.mono))
    }

    /// A note, and a message where a stream takes its subject; tells how many heard it.
    fn tell(&self, subject: &str, reply: Option<&str>, payload: Bytes) -> usize {
        let (subject_, reply) = (subject.into(), reply.map(Into::into));
        let note = Note { subject: subject_, reply, headers: HeaderMap::new(), payload };
        self.inner.with(|world, now| {
            if world.streams.values().any(|log| log.takes(subject)) {
                // Heard on the way; nobody waits for the outcome.
                return usize::from(world.store(world::unheard(subject, note.payload), now).is_ok());
            }
            world.listeners.tell(&note)
        })
    }
}
