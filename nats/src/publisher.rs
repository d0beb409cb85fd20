//! Publishing with certainty: every message gets the broker's PubAck or an error that says what is known.
//!
//! An id is fixed before the first send (`Nats-Msg-Id`), so an unknown outcome (no answer, a lost connection) is
//! answered by sending the same message again. Answers come to one subscription with a slot per message; a slot is
//! removed on time-out, unlike in the client's own request multiplexer, which leaks them.
//!
//! This is the seam for the coalescer of the speed work: callers hand over [`Message`]s and await [`Stored`]; how many
//! travel together is decided behind [`Publisher::send`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connect::Link;

/// How publishing behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// No answer for this long: the same message is sent again.
    pub answer_wait: Duration,
    /// After this long the outcome is reported as unknown.
    pub outcome_wait: Duration,
    /// While disconnected, a publish waits this long for the connection before it fails with `BROKER_DOWN`.
    pub link_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // A broker answers within milliseconds, a restart of it takes about a second.
        Self {
            answer_wait: Duration::from_secs(2),
            outcome_wait: Duration::from_secs(10),
            link_wait: Duration::from_secs(2),
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

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Refused { error: Refusal },
    Stored(Stored),
}

type Slot = (String, oneshot::Sender<Result<Stored, Fault>>);

/// Publishes with PubAck. Cheap to clone; one per connection.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
    _reader: Arc<DropGuard>,
}

struct Inner {
    link: Link,
    options: Options,
    inbox: String,
    next: AtomicU64,
    slots: Mutex<HashMap<u64, Slot>>,
}

/// A message on its way.
pub struct Pending {
    inner: Arc<Inner>,
    message: Message,
    slot: u64,
    answer: oneshot::Receiver<Result<Stored, Fault>>,
    generation: u64,
    deadline: Instant,
}

impl Publisher {
    /// Starts reading answers on `link`.
    pub async fn start(link: Link, options: Options) -> Result<Self, Fault> {
        let inbox = link.new_inbox();
        let answers = link.client.subscribe(format!("{inbox}.*")).await.map_err(|_| link.down())?;
        let violations = link.violations();
        let inner = Arc::new(Inner { link, options, inbox, next: AtomicU64::new(0), slots: Mutex::default() });
        let stop = CancellationToken::new();
        tokio::spawn(read_answers(inner.clone(), answers, violations, stop.clone()));
        Ok(Self { inner, _reader: Arc::new(stop.drop_guard()) })
    }

    /// Hands a message to the connection, in call order; await [`Pending::stored`] for the outcome.
    pub async fn send(&self, message: Message) -> Result<Pending, Fault> {
        let generation = self.inner.link.up(self.inner.options.link_wait).await?;
        let deadline = Instant::now() + self.inner.options.outcome_wait;
        let (slot, answer) = self.inner.write(&message).await?;
        Ok(Pending { inner: self.inner.clone(), message, slot, answer, generation, deadline })
    }

    /// Sends and waits for the outcome.
    pub async fn store(&self, message: Message) -> Result<Stored, Fault> {
        self.send(message).await?.stored().await
    }

    /// Messages without an answer yet.
    pub fn in_flight(&self) -> usize {
        self.inner.slots().len()
    }
}

impl Inner {
    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, message: &Message) -> Result<(u64, oneshot::Receiver<Result<Stored, Fault>>), Fault> {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.slots().insert(slot, (message.subject.clone(), tx));
        let reply = format!("{}.{slot}", self.inbox);
        let Message { subject, headers, payload } = message.clone();
        let sent = self.link.client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match tokio::time::timeout(self.options.outcome_wait, sent).await {
            Ok(Ok(())) => Ok((slot, rx)),
            Ok(Err(error)) => {
                self.slots().remove(&slot);
                Err(match error.kind() {
                    async_nats::PublishErrorKind::MaxPayloadExceeded => {
                        Fault::new(Code::TooLarge, "the broker takes no message of this size (max_payload)")
                    }
                    async_nats::PublishErrorKind::InvalidSubject => Fault::new(Code::InvalidAddress, error.to_string()),
                    async_nats::PublishErrorKind::Send => self.link.down(),
                })
            }
            Err(_) => {
                self.slots().remove(&slot);
                Err(self.link.down())
            }
        }
    }

    /// Gives every waiting caller on a refused subject its answer at once.
    fn refuse(&self, subject: &str) {
        let mut slots = self.slots();
        let refused: Vec<u64> = slots.iter().filter(|(_, (s, _))| s == subject).map(|(slot, _)| *slot).collect();
        for (_, answer) in refused.into_iter().filter_map(|slot| slots.remove(&slot)) {
            let why = format!("the broker refuses `{subject}`: add the address to the agent's `publish` list");
            // The caller may have given up.
            let _ = answer.send(Err(Fault::new(Code::ScopeDenied, why)));
        }
    }
}

impl Pending {
    /// Waits for the PubAck; sends again while the outcome is unknown, `OUTCOME_UNKNOWN` in the end.
    pub async fn stored(mut self) -> Result<Stored, Fault> {
        let link = self.inner.link.clone();
        loop {
            let again = Instant::now() + self.inner.options.answer_wait;
            // The last word decides what is said in the end: a refusal is certain, silence is not.
            let refused = tokio::select! {
                answer = &mut self.answer => match answer {
                    Ok(Err(fault)) if fault.code == Code::BrokerDown && Instant::now() < self.deadline => {
                        // No stream answered: no leader just now, or the broker is coming up.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Some(fault)
                    }
                    Ok(answer) => return answer,
                    Err(_) => None,
                },
                () = link.reconnected(self.generation) => None,
                () = tokio::time::sleep_until(again.min(self.deadline)) => None,
            };
            if Instant::now() >= self.deadline {
                return Err(refused.unwrap_or_else(unknown));
            }
            self.send_again().await?;
        }
    }

    async fn send_again(&mut self) -> Result<(), Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let Ok(generation) = self.inner.link.up(left).await else { return Err(unknown()) };
        self.inner.slots().remove(&self.slot);
        (self.slot, self.answer) = self.inner.write(&self.message).await.map_err(|_| unknown())?;
        self.generation = generation;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.inner.slots().remove(&self.slot);
    }
}

fn unknown() -> Fault {
    let why = "no answer from the broker: the event may or may not be stored; publish it again with the same id";
    Fault::new(Code::OutcomeUnknown, why)
}

async fn read_answers(
    inner: Arc<Inner>,
    mut answers: async_nats::Subscriber,
    mut violations: tokio::sync::broadcast::Receiver<crate::connect::Violation>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            message = answers.next() => match message {
                Some(message) => settle(&inner, &message),
                None => return,
            },
            Ok(violation) = violations.recv() => inner.refuse(&violation.subject),
        }
    }
}

fn settle(inner: &Inner, message: &async_nats::Message) {
    let slot = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
    // An answer without a slot is one that came after its time-out.
    let Some((_, answer)) = slot.and_then(|slot: u64| inner.slots().remove(&slot)) else { return };
    let _ = answer.send(read(message));
}

fn read(message: &async_nats::Message) -> Result<Stored, Fault> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        let why = "no stream takes this subject: `agentbus streams plan` shows what is missing";
        return Err(Fault::new(Code::BrokerDown, why).with_retry_after(Duration::from_secs(1)));
    }
    match serde_json::from_slice(&message.payload) {
        Ok(Answer::Stored(stored)) => Ok(stored),
        Ok(Answer::Refused { error }) => Err(refusal(&error)),
        Err(error) => Err(Fault::new(Code::OutcomeUnknown, format!("unreadable answer from the broker: {error}"))),
    }
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
        let stored: Answer = serde_json::from_str(r#"{"stream":"AB_x_EVENTS","seq":3,"duplicate":true}"#).unwrap();
        assert!(matches!(stored, Answer::Stored(Stored { seq: 3, duplicate: true, .. })));
        let refused: Answer = serde_json::from_str(
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#,
        )
        .unwrap();
        assert!(matches!(refused, Answer::Refused { .. }));
    }
}
