//! Storing a successor and only then telling the broker: retries, dead letters, give-backs.

use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::ack::Answer;
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::headers;
use agentbus_nats::moves::{self, Class, Mover};
use agentbus_nats::publisher::Message;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::trace::{Context, Kind, Span, semconv};

use super::admit::{Suspect, backoff, millis};
use super::hub::Hub;
use super::table::{Held, good_for};
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
        self.next_attempt(held, cause, delay).await
    }

    /// A copy in the retry stream that is the next attempt; without it the message stays where it is.
    async fn next_attempt(&self, held: &Held, cause: &str, delay: Duration) -> Moved {
        let attempt = held.fresh.attempt;
        let mut span = self.span(Kind::Producer, "retry", held);
        span.attr(semconv::AGENTBUS_ATTEMPT, i64::from(attempt) + 1);
        let trace = span.context().traceparent();
        let due = SystemTime::now() + delay;
        let secret = self.secret(&held.key.group);
        let mut copy = moves::retry(
            self.mover(&held.key.group, &secret),
            &held.incoming,
            attempt + 1,
            due,
            Some(cause),
            Some(&trace),
        );
        // Having been handled it is beyond suspicion, unless it was to blame.
        mark(&mut copy, held.fresh.suspect.as_ref().filter(|suspect| suspect.crashes > 0));
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

    /// Its agent died with this and nothing else in hand. The next attempt follows at once, and is handed out alone.
    pub(super) async fn crashed(&self, mut held: Held) {
        self.metrics().delivery(&held.key.group, "crashed");
        if held.fresh.at_most_once {
            return;
        }
        let cause = "the agent went away while it held the delivery";
        self.receipt(&held, "failed", cause);
        if held.group.keeps_order() {
            // The broker counts it.
            self.put_back(&held, None).await;
            return;
        }
        let crashes = held.fresh.suspect.as_ref().map_or(0, |suspect| suspect.crashes) + 1;
        held.fresh.suspect = Some(Suspect { crashes, death_ms: millis(SystemTime::now()), stays: false });
        let verdict = if crashes < held.group.policy.crash_limit {
            match self.next_attempt(&held, cause, Duration::ZERO).await {
                Moved::Retried => Verdict::Moved,
                // It counts as a delivery there.
                _ => Verdict::Died,
            }
        } else {
            let cause = format!("its agent died {crashes} times with nothing else in hand");
            match self.dead(&held, Class::Crash, &cause).await {
                Ok(()) => Verdict::Moved,
                Err(_) => {
                    self.stay(&held, STALLED_WAIT).await;
                    to_park(Class::Crash, &cause)
                }
            }
        };
        self.table().memory.remember(held.key.clone(), verdict);
    }

    /// Its agent died with this and others in hand. It keeps its attempt, and says to whoever gets it that it is a suspect.
    pub(super) async fn suspected(&self, held: &Held) {
        self.metrics().delivery(&held.key.group, "crashed");
        self.receipt(held, "returned", "");
        if !held.fresh.at_most_once {
            self.hand_on(held, moves::returned(&held.incoming)).await;
        }
    }

    /// Hands a delivery back to its group without counting a failure.
    pub(super) async fn give_back(&self, held: &Held) {
        self.metrics().delivery(&held.key.group, "given_back");
        let worked = held.worked(Instant::now()).is_some();
        if worked {
            self.receipt(held, "returned", "");
        }
        if held.fresh.at_most_once && worked {
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
        // An agent that takes it and leaves, again and again, must not go on for ever.
        let returned = moves::returned(&held.incoming) + u32::from(worked);
        if worked && returned > held.group.policy.crash_limit {
            let cause = format!("given back {returned} times without an answer");
            return self.failed_alone(held, &cause, None).await;
        }
        self.hand_on(held, returned).await;
    }

    /// Through the retry stream, due now, same attempt: so the broker's delivery count stays as it is.
    async fn hand_on(&self, held: &Held, returned: u32) {
        let (now, secret) = (SystemTime::now(), self.secret(&held.key.group));
        let mover = self.mover(&held.key.group, &secret);
        let mut copy = moves::retry(mover, &held.incoming, held.fresh.attempt, now, None, None);
        copy.headers.insert(headers::RETURNED, returned.to_string());
        mark(&mut copy, held.fresh.suspect.as_ref());
        let (verdict, answer) = match self.publisher().store(copy).await {
            Ok(_) => (Verdict::Moved, Answer::Ack),
            Err(fault) => {
                tracing::warn!(group = %held.key.group, seq = held.key.seq, %fault, "given back in place");
                (if held.fresh.suspect.is_some() { Verdict::Died } else { Verdict::Lost }, Answer::Nak(None))
            }
        };
        self.table().memory.remember(held.key.clone(), verdict);
        self.answer(&held.incoming.receipt.subject, answer).await;
    }

    /// Acks a held delivery, unless it may be somebody else's by now: then the ack would let the next one of its order out
    /// beside it.
    pub(super) async fn ack_held(&self, held: &Held) -> Result<(), Fault> {
        if self.table().has_lapsed(held, Instant::now()) {
            return Err(Fault::new(Code::LeaseLost, "the broker could not be reached in time: the event comes again"));
        }
        self.answer(&held.incoming.receipt.subject, Answer::Ack).await;
        Ok(())
    }

    /// Stores a dead letter for a held delivery, then acks it.
    pub(super) async fn dead(&self, held: &Held, class: Class, cause: &str) -> Result<(), Fault> {
        let mut span = self.span(Kind::Producer, "dead_letter", held);
        span.attr(semconv::ERROR_TYPE, class.as_str());
        let trace = Some(span.context());
        let stored = self.store_dead(&held.group.name, &held.incoming, held.fresh.attempt, class, cause, trace).await;
        stored.inspect_err(|fault| fail(&mut span, fault))?;
        self.ack_held(held).await.inspect_err(|fault| fail(&mut span, fault))?;
        self.reply_dead(held, class, cause).await;
        Ok(())
    }

    /// Stores a dead letter. The message is the caller's to ack.
    async fn store_dead(
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

    /// A message that is no delivery and must be parked; it comes again if that fails, or takes so long that it may be
    /// somebody else's by then.
    pub(super) async fn park_unheard(
        &self,
        group: &GroupGrant,
        incoming: &agentbus_nats::pull::Incoming,
        class: Class,
        cause: &str,
    ) {
        let taken = Instant::now();
        let parent = headers::get(Some(&incoming.headers), headers::TRACEPARENT);
        let parent = parent.and_then(Context::parse);
        let mut span = self.tracer().start(Kind::Producer, "dead_letter", parent.as_ref(), &[], None);
        span.attr(semconv::ERROR_TYPE, class.as_str());
        span.attr(semconv::MESSAGING_CONSUMER_GROUP_NAME, group.name.clone());
        let attempts = moves::attempt(incoming);
        let stored = self.store_dead(&group.name, incoming, attempts, class, cause, Some(span.context())).await;
        if group.keeps_order() && taken.elapsed() >= good_for(group) {
            return;
        }
        let answer = if stored.is_ok() { Answer::Ack } else { Answer::Nak(Some(STALLED_WAIT)) };
        self.answer(&incoming.receipt.subject, answer).await;
    }

    async fn stay(&self, held: &Held, delay: Duration) -> Moved {
        self.put_back(held, Some(delay)).await;
        Moved::InPlace
    }

    /// Asks the broker to deliver it again, unless it may be somebody else's by now.
    async fn put_back(&self, held: &Held, delay: Option<Duration>) {
        if !self.table().has_lapsed(held, Instant::now()) {
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

/// Tells whoever gets the copy what is known of deaths with the event in hand.
fn mark(copy: &mut Message, suspect: Option<&Suspect>) {
    if let Some(suspect) = suspect {
        copy.headers.insert(headers::CRASHES, format!("{}/{}", suspect.crashes, suspect.death_ms));
    }
}

/// What is remembered of a dead letter that could not be stored.
pub(super) fn to_park(class: Class, cause: &str) -> Verdict {
    Verdict::ToPark(class, headers::clean(cause, headers::CAUSE_BYTES_MAX))
}
