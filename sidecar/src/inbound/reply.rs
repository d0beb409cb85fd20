//! The settle verb `reply`: stores a reply to the asker, and acks the delivery with the last one.
//!
//! The same order as everywhere: reply → PubAck → ack. The reply's id comes from the delivery and its place, so a call
//! that is repeated stores nothing twice. An ask that becomes a dead letter is replied to with an error, so that its asker
//! need not wait for the deadline.

use std::time::SystemTime;

use agentbus_nats::headers;
use agentbus_nats::moves::Class;
use agentbus_nats::publisher::{Message, Stored};
use agentbus_nats::{msg_id, subject};
use agentbus_proto::event::v1::{Event, ReplyInfo};
use agentbus_proto::validate::ID_BYTES_MAX;
use agentbus_proto::{Address, Code, EventHead, Fault, timestamp, validate};
use agentbus_runtime::trace::{Kind, Span, semconv};
use bytes::Bytes;
use prost::Message as _;

use super::hub::Hub;
use super::settle::Settled;
use super::table::Held;
use crate::memory::Source;
use crate::outbound::{Parent, fail};

/// Type of every reply.
const REPLY_TYPE: &str = "reply";
/// Longest code of an agent's own, in bytes.
const ERROR_CODE_BYTES_MAX: usize = 64;
/// Longest text for people, in bytes.
const ERROR_MESSAGE_BYTES_MAX: usize = 1024;

/// What the agent replies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplyWith {
    /// Content.
    pub data: Bytes,
    /// Its media type.
    pub content_type: String,
    /// More follow; the delivery stays with the agent.
    pub more: bool,
    /// Its place among the replies of this delivery; none = the next.
    pub index: Option<u32>,
    /// Set when the agent could not do what was asked: a code of its own.
    pub error_code: String,
    /// What went wrong, for people.
    pub error_message: String,
}

impl Hub {
    /// Stores a reply, and acks after the last one.
    pub(super) async fn reply(&self, held: &Held, reply: ReplyWith) -> Result<Settled, Fault> {
        let by = asked_until(&held.fresh.head, SystemTime::now())?;
        let index = place(&reply, held.replied.next)?;
        let Some(index) = index else { return Ok(Settled::default()) };
        tracing::debug!(event = %held.fresh.head.id, index, until = ?by, "replying");
        let (last, mut span) = (!reply.more, self.reply_span(held));
        let sent = self.store_reply(held, reply, index, &mut span).await;
        let stored = sent.inspect_err(|fault| fail(&mut span, fault))?;
        if last && !held.fresh.at_most_once {
            self.ack_held(held).await?;
        }
        Ok(Settled { emitted: vec![stored], deadline: None })
    }

    /// Tells the asker that its ask became a dead letter. Best effort: it waits for its deadline otherwise. Not for asks
    /// to topics and channels: another group may still reply.
    pub(super) async fn reply_dead(&self, held: &Held, class: Class, cause: &str) {
        let head = &held.fresh.head;
        let to = head.to.as_ref().and_then(|to| Address::try_from(to).ok());
        if !matches!(to, Some(Address::Agent(_))) || asked_until(head, SystemTime::now()).is_err() {
            return;
        }
        let reply = ReplyWith {
            error_code: class.as_str().to_owned(),
            error_message: headers::clean(cause, ERROR_MESSAGE_BYTES_MAX),
            ..ReplyWith::default()
        };
        let mut span = self.reply_span(held);
        if let Err(fault) = self.store_reply(held, reply, held.replied.next, &mut span).await {
            tracing::warn!(event = %head.id, %fault, "the asker does not hear that its ask is a dead letter");
            fail(&mut span, &fault);
        }
    }

    async fn store_reply(
        &self,
        held: &Held,
        reply: ReplyWith,
        index: u32,
        span: &mut Span,
    ) -> Result<(String, Stored), Fault> {
        let now = SystemTime::now();
        let event = event(held, self.agent(), reply, index, now)?;
        let payload = Bytes::from(event.encode_to_vec());
        let head = EventHead::decode(&payload)?;
        validate(&head, payload.len(), self.outbound().limits(), now)?;
        let parent = Parent { context: None, tracestate: None };
        let headers = self.outbound().headers(&head, &parent, span.context());
        let asker = &held.fresh.head.source;
        let subject = subject::reply(self.namespace(), self.agent(), asker, &held.fresh.head.id);
        let stored = self.publisher().store(Message { subject, headers, payload }).await?;
        if span.is_recording() {
            span.attr(semconv::AGENTBUS_STREAM, stored.stream.clone());
            span.attr(semconv::AGENTBUS_SEQ, stored.seq as i64);
        }
        self.metrics().published_stored.inc();
        Ok((head.id, stored))
    }

    fn reply_span(&self, held: &Held) -> Span {
        let mut span = self.span(Kind::Producer, "reply", held);
        span.attr(semconv::MESSAGING_DESTINATION_NAME, format!("@{}", held.fresh.head.source));
        span
    }
}

/// Until when a reply is wanted.
fn asked_until(head: &EventHead, now: SystemTime) -> Result<SystemTime, Fault> {
    let Some(by) = head.reply_by.as_ref() else {
        let why = "nobody waits for a reply: the event is no ask (it has no `reply_by`); ack it instead";
        return Err(Fault::new(Code::InvalidEvent, why));
    };
    match timestamp::to_system(by) {
        Some(until) if until > now => Ok(until),
        _ => {
            let when = timestamp::format(by).unwrap_or_default();
            let why = format!("the asker has stopped waiting at {when}: ack or reject the delivery");
            Err(Fault::new(Code::Expired, why))
        }
    }
}

/// The place of a reply, where `next` is the first that is free; none when it is stored already.
fn place(reply: &ReplyWith, next: u32) -> Result<Option<u32>, Fault> {
    let invalid = |why: String| Err(Fault::new(Code::InvalidEvent, why));
    if reply.error_code.is_empty() && !reply.error_message.is_empty() {
        return invalid("`error_message` needs an `error_code`".to_owned());
    }
    let readable = reply.error_code.bytes().all(|byte| byte.is_ascii_graphic());
    if !readable || reply.error_code.len() > ERROR_CODE_BYTES_MAX {
        return invalid(format!("`error_code` is at most {ERROR_CODE_BYTES_MAX} visible ASCII characters"));
    }
    if !reply.error_code.is_empty() && reply.more {
        return invalid("a reply with an `error_code` is the last one: leave `more` out".to_owned());
    }
    match reply.index {
        Some(index) if index < next && reply.more => Ok(None),
        Some(index) if index != next => invalid(format!("`index` is {index}; the next reply is number {next}")),
        _ => Ok(Some(next)),
    }
}

fn event(held: &Held, agent: &str, reply: ReplyWith, index: u32, now: SystemTime) -> Result<Event, Fault> {
    let ask = &held.fresh.head;
    let run = run(held);
    let info = ReplyInfo {
        request_id: ask.id.clone(),
        index,
        r#final: !reply.more,
        error_code: reply.error_code,
        error_message: headers::clean(&reply.error_message, ERROR_MESSAGE_BYTES_MAX),
        group: held.key.group.to_string(),
        run: run.clone(),
    };
    Ok(Event {
        id: reply_id(&ask.id, &held.key.group, &run, index),
        source: agent.to_owned(),
        to: Some(Address::Agent(ask.source.clone()).into()),
        r#type: REPLY_TYPE.to_owned(),
        time: Some(timestamp::from_system(now)),
        correlation_id: ask.chain().to_owned(),
        causation_id: ask.id.clone(),
        content_type: reply.content_type,
        data: reply.data,
        // A reply ends at its asker: it makes no loop longer.
        hops: ask.hops.saturating_add(1).min(agentbus_proto::Limits::default().hops_max),
        reply: Some(info),
        ..Event::default()
    })
}

/// Which handling of the ask by the group this is. Greater as text for each later one: a retry is a copy in the retry
/// stream, a crash one more delivery of the same.
fn run(held: &Held) -> String {
    let source = match held.key.source {
        Source::Events => 'e',
        Source::Retry => 'r',
    };
    format!("{source}{:012}.{:06}", held.key.seq, held.replied.delivered)
}

fn reply_id(ask: &str, group: &str, run: &str, index: u32) -> String {
    let id = format!("{ask}/{group}/{run}/{index}");
    if id.len() <= ID_BYTES_MAX { id } else { format!("reply-{}", msg_id::derive("", &id)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ask_that_waits_can_be_replied_to() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100);
        let until = |seconds: i64| EventHead {
            reply_by: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..EventHead::default()
        };
        assert!(asked_until(&until(101), now).is_ok());
        assert_eq!(asked_until(&until(100), now).unwrap_err().code, Code::Expired);
        let fault = asked_until(&EventHead::default(), now).unwrap_err();
        assert!(fault.code == Code::InvalidEvent && fault.message.contains("no ask"), "{fault}");
    }

    #[test]
    fn a_reply_takes_the_next_place_and_a_repetition_none() {
        let check = |index: Option<u32>, more: bool, wanted: Result<Option<u32>, Code>| {
            let reply = ReplyWith { index, more, ..ReplyWith::default() };
            assert_eq!(place(&reply, 2).map_err(|fault| fault.code), wanted, "{index:?} {more}");
        };
        check(None, true, Ok(Some(2)));
        check(Some(2), false, Ok(Some(2)));
        check(Some(1), true, Ok(None));
        check(Some(1), false, Err(Code::InvalidEvent));
        check(Some(3), true, Err(Code::InvalidEvent));
        let failed = |error_code: &str, error_message: &str, more| {
            let (error_code, error_message) = (error_code.to_owned(), error_message.to_owned());
            place(&ReplyWith { error_code, error_message, more, ..ReplyWith::default() }, 0).is_ok()
        };
        assert!(failed("NO_SUCH_FILE", "a.txt", false));
        assert!(!failed("NO_SUCH_FILE", "", true) && !failed("", "why", false) && !failed("a b", "", false));
        assert!(!failed(&"x".repeat(65), "", false));
    }

    #[test]
    fn an_id_is_never_too_long() {
        assert_eq!(reply_id("q", "g", "e1.1", 0), "q/g/e1.1/0");
        let (one, other) = (reply_id(&"q".repeat(128), "g", "e1.1", 0), reply_id(&"q".repeat(128), "g", "e1.1", 1));
        assert!(one.len() <= ID_BYTES_MAX && one != other);
    }
}
