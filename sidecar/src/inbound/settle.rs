//! The agent's answer to a delivery. Idempotent in the delivery id: a repeated settle gets the same answer.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::ack::{Answer, Receipt};
use agentbus_nats::held::nanos;
use agentbus_nats::moves::Class;
use agentbus_nats::msg_id;
use agentbus_nats::names::Names;
use agentbus_nats::publisher::Stored;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::trace::Kind;
use bytes::Bytes;

use super::admit::DELAY_MAX;
use super::hub::Hub;
use super::moves::{Moved, to_park};
use super::reply::ReplyWith;
use super::table::{Held, Missing};
use crate::memory::{Source, Verdict};
use crate::outbound::{Cause, Checked, Parent, fail};

/// How a delivery is settled.
#[derive(Debug, Clone, PartialEq)]
pub enum How {
    /// Done; these events are published first.
    Ack {
        /// Encoded events.
        emit: Vec<Bytes>,
    },
    /// Not now: try again later.
    Nack {
        /// Instead of the group's back-off.
        retry_after: Option<Duration>,
        /// For people.
        reason: String,
    },
    /// Never: dead-letter it.
    Reject {
        /// For people.
        reason: String,
    },
    /// More time.
    Extend {
        /// From now.
        by: Duration,
    },
    /// A reply to the asker; done with the last one.
    Reply(ReplyWith),
}

/// The answer to a settle.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    /// What was emitted: id and where it is stored.
    pub emitted: Vec<(String, Stored)>,
    /// The new deadline after an extend.
    pub deadline: Option<SystemTime>,
}

/// What `validate` allows.
const ID_BYTES_MAX: usize = 128;
/// Longest extension at once; the hard ceiling of a lease bounds their sum.
const EXTEND_MAX: Duration = Duration::from_secs(3600);

impl Hub {
    /// Settles a delivery. `LEASE_LOST` when it is no longer the agent's, `UNKNOWN_DELIVERY` when it never was.
    pub async fn settle(&self, id: &str, how: How) -> Result<Settled, Fault> {
        match how {
            How::Ack { emit } if emit.is_empty() => self.ack(id).await,
            How::Extend { by } => self.extend(id, by).await,
            how => self.settle_slowly(id, how).await,
        }
    }

    async fn ack(&self, id: &str) -> Result<Settled, Fault> {
        let failed = self.ack_all([id.to_owned()]).await.pop();
        failed.map_or_else(|| Ok(Settled::default()), |(_, result)| result)
    }

    /// Acks without outputs, many at once: one lock and one wake-up for all of them. Gives back those that need an
    /// answer because they were not held, with it.
    pub async fn ack_all(&self, ids: impl IntoIterator<Item = String>) -> Vec<(String, Result<Settled, Fault>)> {
        let (mut ended, mut missing, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        {
            let (mut table, now) = (self.table(), Instant::now());
            for id in ids {
                table.take_lapsed(&id, now);
                match table.end(&id, Verdict::Acked) {
                    Ok(held) => {
                        if table.bounds.succeeded(&held.key.group) {
                            closed.push(held.key.group.clone());
                        }
                        ended.push(held);
                    }
                    Err(why) => missing.push((id, why)),
                }
            }
        }
        for held in &ended {
            let _span = self.settle_span(held, "ack");
            if !held.fresh.at_most_once {
                self.answer(&held.incoming.receipt.subject, Answer::Ack).await;
            }
            self.receipt_of_ack(held);
            self.observe(held);
        }
        for same in ended.chunk_by(|one, next| one.key.group == next.key.group) {
            self.metrics().deliveries_ended(&same[0].key.group, "acked", same.len() as u64);
        }
        closed.iter().for_each(|group| self.breaker_closed(group));
        if !ended.is_empty() {
            self.after_all();
        }
        let mut answers = Vec::with_capacity(missing.len());
        for (id, why) in missing {
            let result = self.not_held(&id, why, &How::Ack { emit: Vec::new() }).await;
            answers.push((id, result));
        }
        answers
    }

    async fn extend(&self, id: &str, by: Duration) -> Result<Settled, Fault> {
        let extended = {
            let (mut table, now) = (self.table(), Instant::now());
            table.take_lapsed(id, now);
            table.extend(id, by.min(EXTEND_MAX), now)
        };
        match extended {
            Ok((left, subject)) => {
                self.answer(&subject, Answer::Progress).await;
                Ok(Settled { deadline: Some(SystemTime::now() + left), ..Settled::default() })
            }
            Err(missing) => self.not_held(id, missing, &How::Extend { by }).await,
        }
    }

    /// Verdicts that store something first. The delivery stays held and extended meanwhile.
    async fn settle_slowly(&self, id: &str, how: How) -> Result<Settled, Fault> {
        let started = {
            let mut table = self.table();
            table.take_lapsed(id, Instant::now());
            table.settling(id).map(Held::copy)
        };
        let held = match started {
            Ok(held) => held,
            Err(missing) => return self.not_held(id, missing, &how).await,
        };
        // A caller that goes away while we store must not leave the delivery in between.
        let mut guard = Settling { hub: self, id, verdict: None };
        let result = match how {
            How::Ack { emit } => self.emit(&held, emit).await.map(|settled| (settled, Verdict::Acked, "acked")),
            How::Nack { retry_after, reason } => Ok(self.nack(&held, retry_after, &reason).await),
            How::Reject { reason } => self.reject(&held, &reason).await,
            How::Reply(reply) if reply.more => {
                let replied = self.reply(&held, reply).await?;
                if !replied.emitted.is_empty() {
                    self.table().replied(id);
                }
                drop(guard);
                // A word to the asker is a sign of life.
                return self
                    .extend(id, held.fresh.ack_deadline)
                    .await
                    .map(|more| Settled { deadline: more.deadline, ..replied });
            }
            How::Reply(reply) => self.reply(&held, reply).await.map(|settled| (settled, Verdict::Acked, "acked")),
            How::Extend { .. } => return Ok(Settled::default()),
        };
        let (settled, verdict, outcome) = result?;
        if !settled.emitted.is_empty() {
            self.table().memory.remember_emitted(held.key.clone(), settled.emitted.clone().into());
        }
        guard.verdict = Some(verdict);
        drop(guard);
        if outcome == "acked" {
            self.handling_succeeded(&held.key.group);
            self.receipt_of_ack(&held);
        }
        self.metrics().delivery(&held.key.group, outcome);
        Ok(settled)
    }

    async fn nack(&self, held: &Held, wait: Option<Duration>, reason: &str) -> (Settled, Verdict, &'static str) {
        let _span = self.settle_span(held, "nack");
        if wait.is_none() {
            // An agent that says when to come again is well; it only puts the event off.
            self.handling_failed(held);
        }
        let cause = if reason.is_empty() { "nacked by the agent without a reason" } else { reason };
        let verdict = match self.failed(held, cause, wait.map(|wait| wait.min(DELAY_MAX))).await {
            Moved::Retried => Verdict::Nacked,
            Moved::Dead => Verdict::Dead,
            Moved::InPlace => Verdict::Later,
            Moved::Stalled => to_park(Class::Exhausted, cause),
        };
        (Settled::default(), verdict, "nacked")
    }

    async fn reject(&self, held: &Held, reason: &str) -> Result<(Settled, Verdict, &'static str), Fault> {
        let _span = self.settle_span(held, "reject");
        let cause = if reason.is_empty() { "rejected by the agent" } else { reason };
        self.dead(held, Class::Rejected, cause).await?;
        self.receipt(held, "rejected", cause);
        Ok((Settled::default(), Verdict::Dead, "rejected"))
    }

    /// How an emitted event names the delivery that led to it.
    fn handled(&self, held: &Held) -> String {
        let handed = held.worked(Instant::now()).and_then(|worked| SystemTime::now().checked_sub(worked));
        let ms = handed.map_or(0, |handed| nanos(handed) / 1_000_000);
        format!("{}/{}/{ms}", held.key.group, held.fresh.attempt)
    }

    /// Checks all outputs, then stores them in order, all together or none, then acks. Their ids come from the delivery, so a
    /// repetition stores nothing twice within the broker's window.
    async fn emit(&self, held: &Held, events: Vec<Bytes>) -> Result<Settled, Fault> {
        let mut span = self.settle_span(held, "ack");
        let parent = Parent { context: held.context, tracestate: None };
        let head = &held.fresh.head;
        let receipt = &held.incoming.receipt;
        let mut checked: Vec<Checked> = Vec::with_capacity(events.len());
        let mut ids = HashSet::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            let cause = Cause {
                correlation_id: head.chain().to_owned(),
                event_id: head.id.clone(),
                hops: head.hops,
                handled: self.handled(held),
                default_id: emitted_id(&format!("{}/{}/{}", receipt.stream, receipt.seq, held.key.group), index),
            };
            let one = self.outbound().check(event, None, &parent, Some(&cause));
            let one = one.and_then(|one| if ids.insert(one.id().to_owned()) { Ok(one) } else { Err(twice(one.id())) });
            checked.push(one.inspect_err(|fault| fail(&mut span, fault))?);
        }
        let emitted = self.outbound().store_all(checked).await.inspect_err(|fault| fail(&mut span, fault))?;
        self.ack_held(held).await?;
        Ok(Settled { emitted, deadline: None })
    }

    /// The delivery is not held here: settled before, lost, or handed out by a sidecar that is gone.
    async fn not_held(&self, id: &str, missing: Missing, how: &How) -> Result<Settled, Fault> {
        if missing == Missing::Settling {
            return Err(Fault::new(Code::LeaseLost, "another settle of this delivery is under way"));
        }
        let Some(receipt) = self.seal().open(id) else {
            return Err(Fault::new(Code::UnknownDelivery, "no such delivery: use the delivery_id as it was received"));
        };
        let Some(key) = self.key(&receipt) else {
            return Err(Fault::new(Code::UnknownDelivery, "the delivery belongs to a group this agent is not in"));
        };
        let verdict = self.table().memory.verdict(&key).cloned();
        match (verdict, how) {
            (Some(Verdict::Acked), How::Ack { .. } | How::Reply(_)) => {
                let emitted = self.table().memory.emitted(&key).map(|emitted| emitted.to_vec()).unwrap_or_default();
                Ok(Settled { emitted, deadline: None })
            }
            (Some(Verdict::Nacked | Verdict::Later), How::Nack { .. })
            | (Some(Verdict::Dead | Verdict::ToPark(..)), How::Reject { .. } | How::Nack { .. }) => {
                Ok(Settled::default())
            }
            (Some(_), _) => Err(Fault::new(
                Code::LeaseLost,
                "the delivery is no longer this agent's: it was settled, ran over its deadline or was given back",
            )),
            (None, how) => self.orphan(&receipt, key, how).await,
        }
    }

    /// Handed out by a sidecar that was replaced. The ack subject still works; the payload is gone, so a failure is
    /// left to the broker: it delivers again.
    async fn orphan(&self, receipt: &Receipt, key: crate::memory::Key, how: &How) -> Result<Settled, Fault> {
        if self.group(&key.group).is_some_and(|group| group.keeps_order()) {
            // Somebody else may hold it by now, and this answer would let the next one overtake.
            let why = "the sidecar was replaced and this group keeps an order: the event comes again";
            return Err(Fault::new(Code::LeaseLost, why));
        }
        let answer = match how {
            How::Reply(_) => {
                let why = "the sidecar was replaced and no longer knows the ask: it comes again, reply to it then";
                return Err(Fault::new(Code::LeaseLost, why));
            }
            How::Ack { emit } if !emit.is_empty() => {
                let why = "the sidecar was replaced: publish the outputs with ids of their own, then ack without emit";
                return Err(Fault::new(Code::LeaseLost, why));
            }
            How::Ack { .. } => {
                self.table().acked_elsewhere(key);
                Answer::Ack
            }
            How::Nack { retry_after, .. } => {
                Answer::Nak(Some(retry_after.unwrap_or(Duration::from_secs(2)).min(DELAY_MAX)))
            }
            How::Reject { reason } => {
                self.table().memory.remember(key, to_park(Class::Rejected, reason));
                Answer::Nak(None)
            }
            How::Extend { .. } => Answer::Progress,
        };
        self.answer(&receipt.subject, answer).await;
        let deadline = matches!(how, How::Extend { .. }).then(|| SystemTime::now() + Duration::from_secs(10));
        Ok(Settled { deadline, ..Settled::default() })
    }

    fn key(&self, receipt: &Receipt) -> Option<crate::memory::Key> {
        let names = self.names();
        let (source, group) = if receipt.stream == names.events() {
            (Source::Events, Names::group_of(&receipt.consumer))
        } else if receipt.stream == names.retry() {
            (Source::Retry, receipt.consumer.strip_suffix("-retry")?)
        } else {
            return None;
        };
        let group = self.group_name(group)?;
        Some(crate::memory::Key { group, source, seq: receipt.seq, stored_at: receipt.stored_at })
    }

    fn settle_span(&self, held: &Held, operation: &'static str) -> agentbus_runtime::trace::Span {
        let mut span = self.span(Kind::Client, "settle", held);
        span.attr("agentbus.settle", operation);
        span
    }
}

/// The broker would take the second for a repetition of the first, and it would be lost.
fn twice(id: &str) -> Fault {
    Fault::new(Code::InvalidEvent, format!("two outputs of one ack have the id `{id}`: give each its own, or none"))
}

/// The id of an output: fixed by its delivery and its place, and never longer than ids may be.
fn emitted_id(delivery: &str, index: usize) -> String {
    let id = format!("{delivery}/{index}");
    if id.len() <= ID_BYTES_MAX { id } else { format!("emit-{}", msg_id::derive("", &id)) }
}

/// Brings a delivery out of *settling* whatever happens to the caller.
struct Settling<'a> {
    hub: &'a Hub,
    id: &'a str,
    verdict: Option<Verdict>,
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let held = self.hub.table().settled(self.id, self.verdict.take());
        if let Some(held) = held {
            self.hub.observe(&held);
            self.hub.after_all();
        }
    }
}
