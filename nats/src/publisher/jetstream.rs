//! Publishing to JetStream with certainty: every message gets the broker's PubAck or an error that says what is known.
//!
//! An id is fixed before the first send (`Nats-Msg-Id`), so an unknown outcome (no answer, a lost connection) is
//! answered by sending the same message again: one task looks after all of them, so that a message costs no timer of its
//! own. Answers come to one subscription with a slot per message; a slot is removed on time-out, unlike in the client's
//! own request multiplexer, which leaks them.
//!
//! This is the seam for the coalescer of the speed work: callers hand over [`Message`]s and await [`Stored`]; how many
//! travel together is decided behind [`Publisher::send`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Message, Options, Stored, batch, pack, unpack};
use crate::connect::Link;

/// How often messages without an answer are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Both forms of the broker's answer. One flat struct: serde's untagged enums buffer everything first.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// A message without an answer yet.
struct Slot {
    subject: String,
    /// Packed: a map's clone would be a dozen allocations, for something that is hardly ever used.
    headers: String,
    payload: Bytes,
    answer: oneshot::Sender<Result<Stored, Fault>>,
    /// Connection it was last sent on.
    generation: u64,
    /// Sent again then, if there is no answer.
    again: Instant,
    /// Given up then.
    deadline: Instant,
    /// The last word on it: a refusal is certain, silence is not.
    refused: Option<Fault>,
    /// Nothing was heard since it was last sent.
    silent: bool,
    /// Its bytes of what may be under way; free again with the answer, whoever reads it and when.
    _room: OwnedSemaphorePermit,
}

/// Slots by number, in the order in which they were sent.
type Slots = BTreeMap<u64, Slot>;

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
    next: AtomicU64,
    slots: Mutex<Slots>,
    /// Bytes that may still be under way.
    room: Arc<Semaphore>,
}

/// A message on its way. Dropped, it is no longer waited for or sent again.
pub(super) struct Pending {
    inner: Arc<Inner>,
    slot: u64,
    answer: oneshot::Receiver<Result<Stored, Fault>>,
}

impl Publisher {
    /// Starts reading answers on `link`.
    pub async fn start(link: Link, options: Options) -> Result<Self, Fault> {
        let inbox = link.new_inbox();
        let answers = link.client.subscribe(format!("{inbox}.*")).await.map_err(|_| link.down())?;
        let violations = link.violations();
        let room = Arc::new(Semaphore::new(options.bytes_max as usize));
        let inner = Arc::new(Inner { link, options, inbox, next: AtomicU64::new(0), slots: Mutex::default(), room });
        let stop = CancellationToken::new();
        tokio::spawn(read_answers(inner.clone(), answers, violations, stop.clone()));
        tokio::spawn(send_again(inner.clone(), stop.clone()));
        tokio::spawn(give_up(inner.clone(), stop.clone()));
        Ok(Self { inner, _tasks: Arc::new(stop.drop_guard()) })
    }

    /// Hands a message to the connection, in call order; await [`Pending::outcome`].
    pub async fn send(&self, message: Message) -> Result<Pending, Fault> {
        let Options { answer_wait, outcome_wait, link_wait, bytes_max } = self.inner.options;
        let bytes = u32::try_from(message.payload.len()).unwrap_or(u32::MAX).min(bytes_max);
        let room = tokio::time::timeout(outcome_wait, self.inner.room.clone().acquire_many_owned(bytes)).await;
        let Ok(Ok(room)) = room else { return Err(slow()) };
        let generation = self.inner.link.up(link_wait).await?;
        let now = Instant::now();
        let (tx, answer) = oneshot::channel();
        let (again, deadline) = (now + answer_wait, now + outcome_wait);
        let waiting = Slot {
            subject: message.subject.clone(),
            headers: pack(&message.headers),
            payload: message.payload.clone(),
            answer: tx,
            generation,
            again,
            deadline,
            refused: None,
            silent: true,
            _room: room,
        };
        let slot = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.slots().insert(slot, waiting);
        // From here on the slot goes when this is dropped.
        let pending = Pending { inner: self.inner.clone(), slot, answer };
        self.inner.write(slot, message).await?;
        Ok(pending)
    }

    /// Stores all or none, where the broker can; ids it knows already count as stored.
    pub async fn store_all(&self, messages: Vec<Message>) -> Result<Vec<Stored>, Fault> {
        // An atomic batch of one is slower than a plain publish, and a plain one is atomic by itself.
        if messages.len() > 1
            && let Some(stored) = batch::store(&self.inner.link, &self.inner.options, &messages).await?
        {
            return Ok(stored);
        }
        let mut pending = Vec::with_capacity(messages.len());
        for message in messages {
            pending.push(self.send(message).await?);
        }
        let mut stored = Vec::with_capacity(pending.len());
        for mut one in pending {
            stored.push(one.outcome().await?);
        }
        Ok(stored)
    }

    /// Messages without an answer yet.
    pub fn in_flight(&self) -> usize {
        self.inner.slots().len()
    }
}

impl Inner {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, slot: u64, message: Message) -> Result<(), Fault> {
        let reply = format!("{}.{slot}", self.inbox);
        let Message { subject, headers, payload } = message;
        let subject = spelled(&self.link, subject);
        let sent = self.link.client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match tokio::time::timeout(self.options.outcome_wait, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(not_sent(&self.link, &error)),
            Err(_) => Err(self.link.down()),
        }
    }

    /// Gives every waiting caller on a refused subject its answer at once.
    fn refuse(&self, subject: &str) {
        for (_, slot) in self.slots().extract_if(.., |_, slot| slot.subject == subject) {
            // The caller may have given up.
            let _ = slot.answer.send(Err(denied(subject)));
        }
    }

    /// Ends those over their deadline.
    fn give_up(&self, now: Instant) {
        for (_, slot) in self.slots().extract_if(.., |_, slot| now >= slot.deadline) {
            let _ = slot.answer.send(Err(slot.refused.unwrap_or_else(unknown)));
        }
    }

    /// Notes that a message is sent once more.
    fn sent(&self, number: u64, generation: u64) {
        if let Some(slot) = self.slots().get_mut(&number) {
            slot.again = Instant::now() + self.options.answer_wait;
            (slot.generation, slot.silent) = (generation, true);
        }
    }

    /// Those that are to be sent again, in the order in which they were sent.
    fn due(&self, now: Instant) -> Vec<(u64, Message)> {
        let mut slots = self.slots();
        let generation = self.link.generation();
        if generation == 0 {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (number, slot) in slots.iter_mut() {
            if now >= slot.again || slot.generation != generation {
                // Silence after the last send, or another connection, makes a refusal old news.
                if slot.silent || slot.generation != generation {
                    slot.refused = None;
                }
                let (subject, headers) = (slot.subject.clone(), unpack(&slot.headers));
                due.push((*number, Message { subject, headers, payload: slot.payload.clone() }));
            }
        }
        due
    }
}

impl Pending {
    /// Waits for the PubAck; the message is sent again while the outcome is unknown, `OUTCOME_UNKNOWN` in the end.
    /// Cancel-safe: may be called again until it has given the outcome.
    pub async fn outcome(&mut self) -> Result<Stored, Fault> {
        (&mut self.answer).await.unwrap_or_else(|_| Err(unknown()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.inner.slots().remove(&self.slot);
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

pub(super) fn unknown() -> Fault {
    let why = "no answer from the broker: the event may or may not be stored; publish it again with the same id";
    Fault::new(Code::OutcomeUnknown, why)
}

/// Ends what is over its deadline. Waits for nothing else, so that a deadline holds whatever the connection does.
async fn give_up(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => inner.give_up(Instant::now()),
        }
    }
}

/// Looks after what got no answer: now and then, and when there is another connection.
async fn send_again(inner: Arc<Inner>, stop: CancellationToken) {
    let mut state = inner.link.state();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let generation = inner.link.generation();
        for (slot, message) in inner.due(Instant::now()) {
            // Noted before: the answer may come before the next line runs.
            inner.sent(slot, generation);
            // A connection that takes nothing is gone or hangs: the next look tries again, up to the deadline.
            if !matches!(tokio::time::timeout(LOOK_EVERY, inner.write(slot, message)).await, Ok(Ok(()))) {
                break;
            }
        }
    }
}

async fn read_answers(
    inner: Arc<Inner>,
    mut answers: async_nats::Subscriber,
    mut violations: tokio::sync::broadcast::Receiver<crate::connect::Violation>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            message = answers.next() => match message {
                Some(message) => settle(&inner, &message),
                None => return,
            },
            Ok(violation) = violations.recv() => inner.refuse(&violation.subject),
            () = stop.cancelled() => return,
        }
    }
}

fn settle(inner: &Inner, message: &async_nats::Message) {
    let number = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
    let Some(number) = number else { return };
    let outcome = read(message);
    let (mut slots, now) = (inner.slots(), Instant::now());
    if let Err(fault) = &outcome
        && fault.code == Code::BrokerDown
        && let Some(slot) = slots.get_mut(&number).filter(|slot| now < slot.deadline)
    {
        // No stream answered: no leader just now, or the broker is coming up.
        (slot.again, slot.refused, slot.silent) = (now + LOOK_EVERY, Some(fault.clone()), false);
        return;
    }
    // An answer without a slot is one that came after its time-out, or a second one.
    if let Some(slot) = slots.remove(&number) {
        let _ = slot.answer.send(outcome);
    }
}

/// What an answer of the broker says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The PubAck.
    Stored(Stored),
    /// No, with the server's error code.
    Refused(u64, Fault),
    /// No stream answered: no leader just now, or the broker is coming up.
    Absent(Fault),
    /// It cannot be read, so nobody knows.
    Unreadable(Fault),
}

pub(super) fn verdict(message: &async_nats::Message) -> Verdict {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        let why = "no stream takes this subject: `agentbus streams plan` shows what is missing";
        return Verdict::Absent(Fault::new(Code::BrokerDown, why).with_retry_after(Duration::from_secs(1)));
    }
    answer(&message.payload)
}

fn read(message: &async_nats::Message) -> Result<Stored, Fault> {
    match verdict(message) {
        Verdict::Stored(stored) => Ok(stored),
        Verdict::Refused(_, fault) | Verdict::Absent(fault) | Verdict::Unreadable(fault) => Err(fault),
    }
}

fn answer(payload: &[u8]) -> Verdict {
    let unreadable = |why: String| Verdict::Unreadable(Fault::new(Code::OutcomeUnknown, why));
    match serde_json::from_slice(payload) {
        Ok(Answer { error: Some(error), .. }) => Verdict::Refused(error.err_code, refusal(&error)),
        Ok(Answer { stream, seq, duplicate, .. }) if !stream.is_empty() => {
            Verdict::Stored(Stored { stream, seq, duplicate })
        }
        Ok(_) => unreadable("the broker's answer names no stream".to_owned()),
        Err(error) => unreadable(format!("unreadable answer from the broker: {error}")),
    }
}

/// A refusal in the broker's numbers and words.
pub(crate) fn refused(err_code: u64, description: &str) -> Fault {
    refusal(&Refusal { err_code, description: description.to_owned() })
}

/// Server error codes that mean back-pressure, so that callers can tell "later" from "never" (facts: nats.md §2).
fn refusal(error: &Refusal) -> Fault {
    let text = &error.description;
    match error.err_code {
        10077 | 10047 | 10028 | 10023 => {
            let why =
                format!("the stream is full ({text}): `agentbus status` shows which; make room or raise its size");
            Fault::new(Code::StreamFull, why).with_retry_after(Duration::from_secs(5))
        }
        10167 => Fault::new(Code::RateLimited, format!("the broker is overloaded ({text})"))
            .with_retry_after(Duration::from_millis(500)),
        10054 => Fault::new(Code::TooLarge, format!("the stream takes no message of this size ({text})")),
        code => Fault::new(Code::BrokerDown, format!("the broker did not store it: {text} (error {code})"))
            .with_retry_after(Duration::from_secs(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_stream_and_an_overloaded_broker_are_back_pressure() {
        let fault = |code| refusal(&Refusal { err_code: code, description: "x".into() });
        assert_eq!(fault(10077).code, Code::StreamFull);
        assert_eq!(fault(10167).code, Code::RateLimited);
        assert_eq!(fault(10054).code, Code::TooLarge);
        assert!(fault(10077).retry_after.is_some());
    }

    #[test]
    fn puback_and_error_are_told_apart() {
        let stored = answer(br#"{"stream":"AB_x_EVENTS","seq":3,"duplicate":true}"#);
        assert!(matches!(stored, Verdict::Stored(Stored { seq: 3, duplicate: true, .. })));
        let refused = answer(
            br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#,
        );
        assert!(matches!(refused, Verdict::Refused(10077, fault) if fault.code == Code::StreamFull));
        assert!(matches!(answer(b"{}"), Verdict::Unreadable(fault) if fault.code == Code::OutcomeUnknown));
    }
}
