//! The bus inside this process: the same words as the broker's, nothing on disk, nothing left when the process ends.
//!
//! For tests of programs that embed agentbus, and for `agentbus up --memory`. Streams refuse when they are full, ids are
//! remembered for a window, deliveries come again after their ack wait: what sidecars and the control plane rely on is as
//! on the broker, and one suite of tests holds both to it. What it deliberately is not: shared between processes,
//! durable, or a guard. Whoever has a handle may do everything, because all of them are in this process; who may publish
//! where is checked by each sidecar.
//!
//! `world` decides (pure, the time comes in); this is the shell around it: one lock, one task that waits for what is
//! due. The time is tokio's, so a test may pause it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use agentbus_proto::{Code, Fault};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Bus, Change, Note};
use crate::connect::{Identity, State};
use crate::publisher::{Message, Publisher, Stored};
use crate::pull::Incoming;
use crate::{subject, topology};

mod bucket;
mod cursor;
mod filter;
mod handle;
mod listeners;
mod log;
mod read;
mod schedule;
mod takers;
#[cfg(test)]
mod tests;
mod world;

use handle::Handle;
use log::Now;
use world::World;

/// Where it is, in place of a broker's address.
pub const URL: &str = "memory:";

/// How the bus is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Largest message it takes, in bytes.
    pub message_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        // As a nats-server that was not told otherwise: what works here works there.
        Self { message_bytes_max: topology::BROKER_BYTES_MAX }
    }
}

/// A bus in this process. Cheap to clone; it ends with its last clone and handle.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

/// What all handles share.
struct Inner {
    world: Mutex<World>,
    options: Options,
    began: (Instant, SystemTime),
    /// Something is due earlier than was known.
    alarm: Arc<Notify>,
    /// A key was changed.
    keys: Notify,
    _keeper: DropGuard,
}

impl Memory {
    /// Starts an empty one. Needs a tokio runtime for as long as it lives.
    pub fn start(options: Options) -> Self {
        let stop = CancellationToken::new();
        let (ended, alarm) = (stop.clone(), Arc::new(Notify::new()));
        let inner = Arc::new(Inner {
            world: Mutex::default(),
            options,
            began: (Instant::now(), SystemTime::now()),
            alarm: alarm.clone(),
            keys: Notify::new(),
            _keeper: stop.drop_guard(),
        });
        tokio::spawn(keep(Arc::downgrade(&inner), alarm, ended));
        Self { inner }
    }

    /// A connection to it. `agent` names its inbox, as on the broker.
    pub fn connect(&self, agent: &str) -> Arc<dyn Bus> {
        Arc::new(Handle {
            publisher: Publisher::memory(Sender { inner: self.inner.clone() }),
            inner: self.inner.clone(),
            state: watch::Sender::new(State::Up(1)),
            violations: broadcast::Sender::new(1),
            public_key: Identity::new_user().public_key(),
            inbox: subject::inbox(agent),
            inboxes: AtomicU64::new(0),
        })
    }
}

impl Inner {
    fn now(&self) -> Now {
        let mono = Instant::now();
        let (began, date) = self.began;
        Now { mono, wall: date + mono.saturating_duration_since(began) }
    }

    /// Does something with the world; whoever waits for what is due hears of it when that comes earlier now.
    fn with<T>(&self, act: impl FnOnce(&mut World, Now) -> T) -> T {
        let now = self.now();
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut world, now);
        if world.has_alarm() {
            self.alarm.notify_one();
        }
        done
    }
}

/// Does what is due, until the last handle is gone: it holds none itself while it waits.
async fn keep(inner: Weak<Inner>, alarm: Arc<Notify>, ended: CancellationToken) {
    while let Some(strong) = inner.upgrade() {
        let due = strong.with(|world, now| {
            world.tick(now);
            world.plan(now)
        });
        drop(strong);
        let elapsed = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended.cancelled() => return,
            () = alarm.notified() => {}
            () = elapsed => {}
        }
    }
}

/// Stores for a [`Publisher`].
#[derive(Clone)]
pub(crate) struct Sender {
    inner: Arc<Inner>,
}

impl Sender {
    /// Stores at once; the outcome is known when this returns.
    pub fn store(&self, message: Message) -> Result<Stored, Fault> {
        self.fits(&message)?;
        self.inner.with(|world, now| world.store(message, now))
    }

    /// All of these or none.
    pub fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault> {
        messages.iter().try_for_each(|message| self.fits(message))?;
        self.inner.with(|world, now| world.store_all(messages, now))
    }

    fn fits(&self, message: &Message) -> Result<(), Fault> {
        if message.payload.len() > self.inner.options.message_bytes_max {
            return Err(Fault::new(Code::TooLarge, "the bus takes no message of this size (max_payload)"));
        }
        Ok(())
    }
}

/// One who pulls, for a [`crate::pull::Pull`]. Dropped, what was on its way to it comes again after the ack wait.
pub(crate) struct Taker {
    inner: Arc<Inner>,
    id: u64,
    bell: Arc<Notify>,
}

impl Taker {
    fn open(inner: &Arc<Inner>, stream: &str, consumer: &str) -> Self {
        let place = (stream.to_owned(), consumer.to_owned());
        let (id, bell) = inner.with(|world, now| world.takers.open(place, now.mono));
        Self { inner: inner.clone(), id, bell }
    }

    pub fn want(&mut self, messages: usize) {
        self.inner.with(|world, now| {
            if let Some(place) = world.takers.want(self.id, messages, now.mono) {
                world.serve(&place, now.mono);
            }
        });
    }

    pub async fn next(&mut self) -> Incoming {
        loop {
            // A loop that always finds something lets others run, too.
            tokio::task::coop::consume_budget().await;
            if let Some(incoming) = self.try_next() {
                return incoming;
            }
            self.bell.notified().await;
        }
    }

    pub fn try_next(&mut self) -> Option<Incoming> {
        self.inner.with(|world, now| world.pop(self.id, now.mono))
    }

    /// Ends it, and returns what was on its way.
    pub fn finish(&mut self) -> Vec<Incoming> {
        self.inner.with(|world, now| {
            let Some((place, rest)) = world.takers.close(self.id) else { return Vec::new() };
            // Somebody else may be served now.
            world.serve(&place, now.mono);
            rest
        })
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Follows the keys of a bucket, for a [`super::Watch`].
pub(super) struct Follower {
    inner: Arc<Inner>,
    bucket: String,
    filter: String,
    after: u64,
}

impl Follower {
    pub async fn next(&mut self) -> Result<Change, Fault> {
        loop {
            let inner = self.inner.clone();
            let mut changed = std::pin::pin!(inner.keys.notified());
            // Listening from here on: a change behind the look is not missed.
            changed.as_mut().enable();
            let look =
                |world: &mut World, _| world.bucket(&self.bucket).map(|bucket| bucket.change(self.after, &self.filter));
            let change = self.inner.with(look)?;
            if let Some(change) = change {
                self.after = match &change {
                    Change::Put(entry) => entry.revision,
                    Change::Removed { revision, .. } => *revision,
                };
                return Ok(change);
            }
            changed.await;
        }
    }
}

/// Notes for a [`super::Subscription`].
pub(super) type Notes = mpsc::Receiver<Note>;
