//! Storing a successor and only then telling the broker: retries, dead letters, give-backs.

use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::ack::Answer;
use agentbus_nats::headers;
use agentbus_nats::moves::{self, Class, Mover};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::trace::{Context, Kind, Span, semconv};

use super::admit::backoff;
use super::hub::Hub;
use super::table::Held;
use crate::memory::Verdict;
use crate::metrics::{Group, GroupClass};
use crate::outbound::fail;

/// Wait before a message is looked at again whose dead letter could not be stored.
const STALLED_WAIT: Duration = Duration::from_secs(5);

/// Where a failed delivery went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// A retry copy is stored.
    Retried,
    /// A dead letter is stored.
    Dead,
    /// It stays where it is and comes again after a delay.
    InPlace,
    /// Its dead letter could not be stored: it comes again after a delay, and is parked then, not handed out.
    Stalled,
}

impl Hub {
    fn mover<'a>(&'a self, group: &'a str, secret: &'a str) -> Mover<'a> {
        Mover { namespace: self.namespace(), group, agent: self.agent(), secret }
    }

    /// A failed attempt: the next one after a back-off, or the end of them.
    pub(super) async fn failed(&self, held: &Held, cause: &str, wait: Option<Duration>) -> Moved {
        self.receipt(held, "failed", cause);
        let attempt = held.fresh.attempt;
        if attempt >= held.fresh.attempts_max {
            return match self.dead(held, Class::Exhausted, cause).await {
                Ok(()) => Moved::Dead,
                Err(_) => {
                    self.stay(held, STALLED_WAIT).await;
                    Moved::Stalled
                }
            };
        }
        let backoff = backoff(&held.fresh.head, &held.group.policy);
        let delay = wait.unwrap_or_else(|| backoff.delay(attempt, rand::random()));
        if held.group.keeps_order() {
            // A copy elsewhere would overtake or be overtaken: order is kept by staying first in line.
            self.retried(&held.key.group);
            return self.stay(held, delay).await;
        }
        let mut span = self.span(Kind::Producer, "retry", held);
        span.attr(semconv::AGENTBUS_ATTEMPT, i64::from(attempt) + 1);
        let trace = span.context().traceparent();
        let due = SystemTime::now() + delay;
        let secret = self.secret(&held.key.group);
        let copy = moves::retry(
            self.mover(&held.key.group, &secret),
            &held.incoming,
            attempt + 1,
            due,
            Some(cause),
            Some(&trace),
        );
        match self.publisher().store(copy).await {
            Ok(_) => {
                self.answer(&held.incoming.receipt.subject, Answer::Ack).await;
                self.retried(&held.key.group);
                Moved::Retried
            }
            Err(fault) => {
                tracing::warn!(group = %held.key.group, seq = held.key.seq, %fault, "retry copy not stored, retrying in place");
                fail(&mut span, &fault);
                self.stay(held, delay).await
            }
        }
    }

    /// The same for one that was taken from its agent; a redelivery of what was moved is one too many.
    pub(super) async fn failed_alone(&self, held: &Held, cause: &str, wait: Option<Duration>) {
        let verdict = match self.failed(held, cause, wait).await {
            Moved::InPlace => return,
            Moved::Stalled => to_park(Class::Exhausted, cause),
            Moved::Retried | Moved::Dead => Verdict::Moved,
        };
        self.table().memory.remember(held.key.clone(), verdict);
    }

    /// A crash of whoever held it. The broker counts it for events; a retry copy counts by its attempts, because its
    /// delivery count also holds early rounds.
    pub(super) async fn crashed(&self, held: &Held) {
        self.metrics().delivery(&held.key.group, "crashed");
        self.handling_failed(held);
        if held.fresh.at_most_once {
            return;
        }
        match held.key.source {
            crate::memory::Source::Retry if !held.group.keeps_order() => {
                let cause = "the agent went away while it held the delivery";
                self.failed_alone(held, cause, Some(Duration::ZERO)).await;
            }
            _ => {
                self.receipt(held, "failed", "the agent went away while it held the delivery");
                self.put_back(held, None).await;
            }
        }
    }

    /// Hands a delivery back to its group without counting a failure: through the retry stream, due now, same attempt.
    pub(super) async fn give_back(&self, held: &Held) {
        self.metrics().delivery(&held.key.group, "given_back");
        if held.worked(Instant::now()).is_some() {
            self.receipt(held, "returned", "");
        }
        if held.fresh.at_most_once && held.worked(Instant::now()).is_some() {
            // The agent has seen it.
            return;
        }
        if held.group.keeps_order() && !held.fresh.at_most_once {
            let receipt = &held.incoming.receipt;
            self.put_back(held, None).await;
            // It would come back here, where nobody takes it, until the pin times out.
            self.bus().unpin(&receipt.stream, &receipt.consumer).await;
            return;
        }
        let mut returned = moves::returned(&held.incoming);
        if held.worked(Instant::now()).is_some() {
            // An agent that takes it and leaves, again and again, must not go on for ever.
            returned += 1;
            if returned > held.group.policy.crash_limit {
                let cause = format!("given back {returned} times without an answer");
                return self.failed_alone(held, &cause, None).await;
            }
        }
        let (now, secret) = (SystemTime::now(), self.secret(&held.key.group));
        let mover = self.mover(&held.key.group, &secret);
        let mut copy = moves::retry(mover, &held.incoming, held.fresh.attempt, now, None, None);
        copy.headers.insert(headers::RETURNED, returned.to_string());
        let answer = match self.publisher().store(copy).await {
            Ok(_) => {
                self.table().memory.remember(held.key.clone(), Verdict::Moved);
                Answer::Ack
            }
            Err(fault) => {
                tracing::warn!(group = %held.key.group, seq = held.key.seq, %fault, "given back in place");
                Answer::Nak(None)
            }
        };
        self.answer(&held.incoming.receipt.subject, answer).await;
    }

    /// Stores a dead letter for a held delivery, then acks it.
    pub(super) async fn dead(&self, held: &Held, class: Class, cause: &str) -> Result<(), Fault> {
        let mut span = self.span(Kind::Producer, "dead_letter", held);
        span.attr(semconv::ERROR_TYPE, class.as_str());
        let stored =
            self.park(&held.key.group, &held.incoming, held.fresh.attempt, class, cause, Some(span.context())).await;
        stored.inspect_err(|fault| fail(&mut span, fault))?;
        self.reply_dead(held, class, cause).await;
        Ok(())
    }

    /// Stores a dead letter and acks the message; on failure nothing is acked.
    pub(super) async fn park(
        &self,
        group: &str,
        incoming: &agentbus_nats::pull::Incoming,
        attempts: u32,
        class: Class,
        cause: &str,
        trace: Option<Context>,
    ) -> Result<(), Fault> {
        let trace = trace.map(|context| context.traceparent());
        let secret = self.secret(group);
        let letter = moves::dead_letter(self.mover(group, &secret), incoming, attempts, class, cause, trace.as_deref());
        let stored = match self.shares().take(&**self.bus(), self.agent(), group, &letter).await {
            Ok(()) => self.publisher().store(letter).await,
            Err(fault) => Err(fault),
        };
        match stored {
            Ok(_) => {
                self.answer(&incoming.receipt.subject, Answer::Ack).await;
                let label = GroupClass { group: group.to_owned(), class: class.as_str() };
                self.metrics().dead_letters.get_or_create(&label).inc();
                tracing::info!(group, seq = incoming.receipt.seq, class = class.as_str(), cause, "dead-lettered");
                Ok(())
            }
            Err(fault) => {
                tracing::warn!(group, seq = incoming.receipt.seq, %fault, "stalled: dead letter not stored, the message stays");
                let code = if fault.code == Code::ScopeDenied { Code::StreamFull } else { fault.code };
                Err(Fault { code, ..fault })
            }
        }
    }

    /// A message that is no delivery and must be parked; it comes again if that fails.
    pub(super) async fn park_unheard(
        &self,
        group: &str,
        incoming: &agentbus_nats::pull::Incoming,
        class: Class,
        cause: &str,
    ) {
        let parent = headers::get(Some(&incoming.headers), headers::TRACEPARENT);
        let parent = parent.and_then(Context::parse);
        let mut span = self.tracer().start(Kind::Producer, "dead_letter", parent.as_ref(), &[], None);
        span.attr(semconv::ERROR_TYPE, class.as_str());
        span.attr(semconv::MESSAGING_CONSUMER_GROUP_NAME, group.to_owned());
        let attempts = moves::attempt(incoming);
        if self.park(group, incoming, attempts, class, cause, Some(span.context())).await.is_err() {
            self.answer(&incoming.receipt.subject, Answer::Nak(Some(STALLED_WAIT))).await;
        }
    }

    async fn stay(&self, held: &Held, delay: Duration) -> Moved {
        self.put_back(held, Some(delay)).await;
        Moved::InPlace
    }

    /// Asks the broker to deliver it again, unless it may be somebody else's by now.
    async fn put_back(&self, held: &Held, delay: Option<Duration>) {
        if !held.is_lapsed(Instant::now()) {
            self.answer(&held.incoming.receipt.subject, Answer::Nak(delay)).await;
        }
    }

    fn retried(&self, group: &str) {
        self.metrics().retries.get_or_create(&Group { group: group.to_owned() }).inc();
    }

    /// A span under the agent's work on this delivery.
    pub(super) fn span(&self, kind: Kind, name: &'static str, held: &Held) -> Span {
        let mut span = self.tracer().start(kind, name, held.context.as_ref(), &[], None);
        // A retry and a dead letter are sends of the conventions; a settle is a settle.
        let operation = if kind == Kind::Producer { "send" } else { "settle" };
        self.describe(&mut span, name, operation, held);
        span
    }

    /// Notes how long the agent had a delivery.
    pub(super) fn observe(&self, held: &Held) {
        if let Some(worked) = held.worked(Instant::now()) {
            self.metrics().process_seconds.observe(worked.as_secs_f64());
        }
    }
}

/// What is remembered of a dead letter that could not be stored.
pub(super) fn to_park(class: Class, cause: &str) -> Verdict {
    Verdict::ToPark(class, headers::clean(cause, headers::CAUSE_BYTES_MAX))
}
