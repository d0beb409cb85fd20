//! Publishing to JetStream with certainty: every message gets the broker's PubAck or an error that says what is known.
//!
//! An id is fixed before the first send (`Nats-Msg-Id`), so an unknown outcome (no answer, a lost connection) is
//! answered by sending the same message again: one task looks after all of them, so that a message costs no timer of its
//! own. Answers come to one subscription with a slot per message; a slot is removed on time-out, unlike in the client's
//! own request multiplexer, which leaks them.
//!
//! Messages leave in the order in which they were given. They have a connection of their own (`wire`), because the client
//! library keeps what a broken connection did not take and writes it first on the next one, before anything can be sent
//! again; `queue` decides what goes when, so that nothing new passes what is sent again.
//!
//! This is the seam for the coalescer of the speed work: callers hand over [`Message`]s and await [`Stored`]; how many
//! travel together is decided behind [`Publisher::send`].

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use futures_util::StreamExt;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::queue::{Outcome, Queue, Slot, unknown};
use super::wire::Wire;
use super::{Message, Options, Stored, answer, batch};
use crate::connect::{Link, reconnect_delay};

/// How often messages without an answer are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Publishes with PubAck. Cheap to clone; one per connection.
#[derive(Clone)]
pub(super) struct Publisher {
    inner: Arc<Inner>,
    _tasks: Arc<DropGuard>,
}

struct Inner {
    link: Link,
    options: Options,
    inbox: String,
    line: Mutex<Line>,
    /// There is a connection, or what was held is sent.
    ready: Notify,
    /// Something is under way no more.
    fewer: Notify,
    /// Bytes that may still be under way.
    room: Arc<Semaphore>,
}

/// One lock for both, so that nothing is taken for a connection that was replaced.
#[derive(Default)]
struct Line {
    queue: Queue,
    /// What takes messages now.
    wire: Option<Arc<Wire>>,
}

/// A message on its way. Dropped, it is no longer waited for or sent again.
pub(super) struct Pending {
    inner: Arc<Inner>,
    slot: u64,
    answer: oneshot::Receiver<Outcome>,
}

impl Publisher {
    /// Connects once more, as `link` did, for what is published.
    pub async fn start(link: Link, options: Options) -> Result<Self, Fault> {
        let inbox = link.new_inbox();
        let room = Arc::new(Semaphore::new(options.bytes_max as usize));
        let (line, ready, fewer) = (Mutex::default(), Notify::new(), Notify::new());
        let inner = Arc::new(Inner { link, options, inbox, line, ready, fewer, room });
        let stop = CancellationToken::new();
        let first = Wire::open(&inner.link, &inner.inbox).await?;
        tokio::spawn(carry(inner.clone(), first, stop.clone()));
        tokio::spawn(give_up(inner.clone(), stop.clone()));
        Ok(Self { inner, _tasks: Arc::new(stop.drop_guard()) })
    }

    /// Hands a message to the connection, in call order; await [`Pending::outcome`].
    pub async fn send(&self, message: Message) -> Result<Pending, Fault> {
        let Options { answer_wait, outcome_wait, bytes_max, .. } = self.inner.options;
        let bytes = u32::try_from(message.payload.len()).unwrap_or(u32::MAX).min(bytes_max);
        let room = tokio::time::timeout(outcome_wait, self.inner.room.clone().acquire_many_owned(bytes)).await;
        let Ok(Ok(room)) = room else { return Err(slow()) };
        let ((tx, answer), now) = (oneshot::channel(), Instant::now());
        let deadline = now + outcome_wait;
        let slot = Slot::new(&message, tx, room, now + answer_wait, deadline);
        let (wire, slot) = self.inner.enter(slot, deadline).await?;
        // From here on the slot goes when this is dropped.
        let pending = Pending { inner: self.inner.clone(), slot, answer };
        self.inner.write(&wire, slot, message).await?;
        Ok(pending)
    }

    /// Stores all or none, where the broker can; ids it knows already count as stored. One by one, the first that is not
    /// stored ends it: nothing overtakes it.
    pub async fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault> {
        // An atomic batch of one is slower than a plain publish, and a plain one is atomic by itself.
        if messages.len() > 1 {
            self.inner.clear(&messages[0].subject).await?;
            if let Some(stored) = batch::store(&self.inner.link, &self.inner.options, &messages).await? {
                return Ok(stored);
            }
        }
        let mut stored = Vec::with_capacity(messages.len());
        for message in messages {
            stored.push(self.send(message).await?.outcome().await?);
        }
        Ok(stored)
    }

    /// Messages without an answer yet.
    pub fn in_flight(&self) -> usize {
        self.inner.line().queue.len()
    }
}

impl Inner {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a message may be sent past nothing that waits, and notes it as sent.
    async fn enter(&self, slot: Slot, deadline: Instant) -> Result<(Arc<Wire>, u64), Fault> {
        let mut slot = Some(slot);
        loop {
            let ready = self.ready.notified();
            let generation = self.link.up(self.options.link_wait).await?;
            if let Some(entered) = self.line().insert(generation, &mut slot) {
                return Ok(entered);
            }
            if tokio::time::timeout_at(deadline, ready).await.is_err() {
                return Err(self.link.down());
            }
        }
    }

    /// Waits until nothing that was given before now to the stream of `subject` is under way: a batch has the main
    /// connection and would pass it. What comes later is not waited for, and what is under way ends by its own deadline.
    async fn clear(&self, subject: &str) -> Result<(), Fault> {
        let (mark, deadline) = (self.line().queue.mark(), Instant::now() + self.options.outcome_wait);
        loop {
            let fewer = self.fewer.notified();
            if !self.line().queue.open_before(mark, subject) {
                return Ok(());
            }
            self.link.up(self.options.link_wait).await?;
            if tokio::time::timeout_at(deadline, fewer).await.is_err() {
                return Err(self.link.down());
            }
        }
    }

    async fn write(&self, wire: &Wire, slot: u64, message: Message) -> Result<(), Fault> {
        let reply = format!("{}.{slot}", self.inbox);
        let Message { subject, headers, payload } = message;
        let subject = spelled(&self.link, subject);
        let sent = wire.client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match tokio::time::timeout(self.options.outcome_wait, sent).await {
            Ok(Ok(())) => Ok(()),
            // The connection broke: the message is sent again on the next one.
            Ok(Err(error)) if error.kind() == async_nats::PublishErrorKind::Send => Ok(()),
            Ok(Err(error)) => Err(not_sent(&self.link, &error)),
            Err(_) => Err(unknown()),
        }
    }

    /// Sends again what is due. A connection that takes nothing is gone or hangs: the next look tries again, up to the
    /// deadline.
    async fn send_due(&self, wire: &Wire) {
        let due = self.line().queue.due(Instant::now());
        for (slot, message) in due {
            // Noted before: the answer may come before the next line runs.
            self.line().queue.sent(slot, Instant::now() + self.options.answer_wait);
            if !matches!(tokio::time::timeout(LOOK_EVERY, self.write(wire, slot, message)).await, Ok(Ok(()))) {
                self.line().queue.not_sent(slot, Instant::now());
                return;
            }
        }
        if self.line().queue.release() {
            self.ready.notify_waiters();
        }
    }

    /// Works on one connection until it breaks or is to be replaced.
    async fn work(&self, wire: &Arc<Wire>, mut answers: async_nats::Subscriber) {
        let mut violations = self.link.violations();
        let mut look = tokio::time::interval(LOOK_EVERY);
        {
            let mut line = self.line();
            line.queue.connected(Instant::now());
            line.wire = Some(wire.clone());
        }
        self.send_due(wire).await;
        self.ready.notify_waiters();
        loop {
            tokio::select! {
                biased;
                message = answers.next() => match message {
                    Some(message) => if self.settle(&message) { self.send_due(wire).await; },
                    None => return,
                },
                Ok(violation) = violations.recv() => self.refuse(&violation.subject),
                () = wire.broken() => return,
                () = self.link.reconnected(wire.generation) => return,
                _ = look.tick() => { self.send_due(wire).await; }
            }
        }
    }

    /// Gives every waiting caller on a refused subject its answer at once.
    fn refuse(&self, subject: &str) {
        let refused = self.line().queue.refused(subject);
        refused.into_iter().for_each(|slot| slot.refuse(denied(subject)));
        self.fewer.notify_waiters();
    }

    /// Takes an answer in; true when something that was held may go now.
    fn settle(&self, message: &async_nats::Message) -> bool {
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let Some(number) = number else { return false };
        let mut line = self.line();
        let queue = &mut line.queue;
        // An answer without a slot is one that came after its time-out, or a second one.
        match answer::read(message) {
            Err(fault) if fault.code == Code::BrokerDown => {
                queue.absent(number, fault, Instant::now()).into_iter().for_each(Slot::give_up);
            }
            outcome => queue.answered(number).into_iter().for_each(|slot| slot.end(outcome.clone())),
        }
        self.fewer.notify_waiters();
        queue.may_go()
    }
}

impl Line {
    /// Leaves the message where it is when there is no connection that knows the newest token, or others wait to be sent again.
    fn insert(&mut self, generation: u64, slot: &mut Option<Slot>) -> Option<(Arc<Wire>, u64)> {
        let wire = self.wire.as_ref().filter(|wire| wire.generation == generation)?;
        Some((wire.clone(), self.queue.insert(slot)?))
    }
}

impl Pending {
    /// Waits for the PubAck; the message is sent again while the outcome is unknown, `OUTCOME_UNKNOWN` in the end.
    /// Cancel-safe: may be called again until it has given the outcome.
    pub async fn outcome(&mut self) -> Outcome {
        (&mut self.answer).await.unwrap_or_else(|_| Err(unknown()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.inner.line().queue.remove(self.slot).is_some() {
            self.inner.fewer.notify_waiters();
        }
    }
}

fn slow() -> Fault {
    Fault::new(Code::RateLimited, "the broker is slower than the events that come; nothing of this one was sent")
        .with_retry_after(Duration::from_secs(1))
}

/// A message's subject as this connection spells it.
pub(super) fn spelled(link: &Link, subject: String) -> String {
    match link.layout().spell(&subject) {
        Cow::Borrowed(_) => subject,
        Cow::Owned(spelled) => spelled,
    }
}

/// A subject that the broker does not let this connection publish on.
pub(super) fn denied(subject: &str) -> Fault {
    let why = format!("the broker refuses `{subject}`: add the address to the agent's `publish` list");
    Fault::new(Code::ScopeDenied, why)
}

/// Why the connection did not take a message.
pub(super) fn not_sent(link: &Link, error: &async_nats::PublishError) -> Fault {
    match error.kind() {
        async_nats::PublishErrorKind::MaxPayloadExceeded => {
            Fault::new(Code::TooLarge, "the broker takes no message of this size (max_payload)")
        }
        async_nats::PublishErrorKind::InvalidSubject => Fault::new(Code::InvalidAddress, error.to_string()),
        async_nats::PublishErrorKind::Send => link.down(),
    }
}

/// Ends what is over its deadline. Waits for nothing else, so that a deadline holds whatever the connection does.
async fn give_up(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let late = inner.line().queue.expired(Instant::now());
                late.into_iter().for_each(Slot::give_up);
                inner.fewer.notify_waiters();
            }
        }
    }
}

/// Keeps a connection for what is published, beginning with `first`.
async fn carry(inner: Arc<Inner>, first: (Wire, async_nats::Subscriber), stop: CancellationToken) {
    let work = async {
        let (mut opened, mut failures) = (Ok(first), 0);
        loop {
            match opened {
                Ok((wire, answers)) => {
                    failures = 0;
                    inner.work(&Arc::new(wire), answers).await;
                    inner.line().wire = None;
                }
                Err(fault) => {
                    tracing::debug!(%fault, "no connection for what is published");
                    failures += 1;
                    tokio::time::sleep(reconnect_delay(failures)).await;
                }
            }
            opened = Wire::open(&inner.link, &inner.inbox).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
