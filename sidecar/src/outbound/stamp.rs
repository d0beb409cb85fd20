//! Before an event is sent: it is checked, what its sender left out is filled in, and it becomes a message.

use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::publisher::Message;
use agentbus_nats::subject::{self, Lane, part};
use agentbus_nats::{headers, msg_id};
use agentbus_proto::event::v1::Priority;
use agentbus_proto::{Address, Code, EventHead, Fault, Stamp, stamp, validate};
use agentbus_runtime::trace::{Context, Kind, Span, semconv};
use async_nats::HeaderMap;
use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use super::{Cause, Outbound, Parent, Wish};

/// An event that may be sent.
pub struct Checked {
    pub(super) id: String,
    pub(super) to: Address,
    pub(super) message: Message,
    pub(super) span: Span,
    pub(super) since: Instant,
}

impl Checked {
    /// The event's id, given or made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What would be stored.
    pub fn message(&self) -> &Message {
        &self.message
    }
}

impl Outbound {
    /// Checks an event and fills in what is missing, sends nothing: so that of several either all go or none.
    pub fn check(
        &self,
        event: Bytes,
        wish: impl Into<Wish>,
        parent: &Parent,
        cause: Option<&Cause>,
    ) -> Result<Checked, Fault> {
        let result = self.try_check(event, wish.into(), parent, cause);
        result.inspect_err(|fault| self.inner.metrics.publish(fault.code.as_str()))
    }

    fn try_check(&self, event: Bytes, wish: Wish, parent: &Parent, cause: Option<&Cause>) -> Result<Checked, Fault> {
        let since = Instant::now();
        if event.is_empty() {
            return Err(Fault::new(Code::InvalidEvent, "the request holds no event"));
        }
        let now = SystemTime::now();
        let mut head = EventHead::decode(&event)?;
        check_data(&event)?;
        let stamped = self.stamp(&event, &mut head, wish.ttl, now, cause);
        let to = validate(&head, stamped.len(), &self.inner.limits, now)?;
        let scope = self.inner.scope.read().unwrap_or_else(PoisonError::into_inner).clone();
        scope.allow(&to, wish.park)?;
        let lane = Lane::from(Priority::try_from(head.priority).unwrap_or_default());
        let part = part(&head.ordering_key);
        let subject = subject::event(&self.inner.namespace, lane, &self.inner.agent, part, &to, &head.r#type)?;
        let span = self.span(&to, &head, stamped.len(), parent);
        let mut headers = self.headers(&head, parent, span.context());
        if let Some(cause) = cause {
            headers.insert(headers::name(headers::HANDLED), cause.handled.as_str());
        }
        let message = Message { subject, headers, payload: stamped };
        Ok(Checked { id: head.id, to, message, span, since })
    }

    /// Fills in what the sender left out, in the head and in the bytes alike.
    fn stamp(
        &self,
        event: &Bytes,
        head: &mut EventHead,
        ttl: Option<Duration>,
        now: SystemTime,
        cause: Option<&Cause>,
    ) -> Bytes {
        let mut add = Stamp { source: self.inner.agent.clone(), ..Stamp::default() };
        head.source.clone_from(&self.inner.agent);
        if head.id.is_empty() {
            head.id = cause.map_or_else(|| uuid::Uuid::now_v7().to_string(), |cause| cause.default_id.clone());
            add.id = Some(head.id.clone());
        }
        if head.r#type.is_empty() {
            let event_type = head.effective_type().to_owned();
            add.type_ = Some(event_type.clone());
            head.r#type = event_type;
        }
        if head.time.is_none() {
            head.time = Some(now.into());
            add.time = head.time;
        }
        if let Some(ttl) = ttl {
            head.expires = now.checked_add(ttl).map(Into::into);
            add.expires = head.expires;
        }
        if let Some(cause) = cause {
            if head.causation_id.is_empty() {
                head.causation_id.clone_from(&cause.event_id);
                add.causation_id = Some(cause.event_id.clone());
            }
            head.hops = cause.hops.saturating_add(1);
            add.hops = Some(head.hops);
        }
        if head.correlation_id.is_empty() {
            head.correlation_id = cause.map_or_else(|| head.id.clone(), |cause| cause.correlation_id.clone());
            add.correlation_id = Some(head.correlation_id.clone());
        }
        stamp(event, &add)
    }

    /// What is told on the broker beside the event itself.
    pub(crate) fn headers(&self, head: &EventHead, parent: &Parent, context: Context) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(headers::name(headers::MSG_ID), self.seal(&head.id));
        headers.insert(headers::name(headers::TRACEPARENT), context.traceparent());
        if let Some(state) = &parent.tracestate {
            headers.insert(headers::name(headers::TRACESTATE), state.as_str());
        }
        if !head.content_type.is_empty() {
            headers.insert(headers::name(headers::CONTENT_TYPE), head.content_type.as_str());
        }
        headers.insert(headers::name(headers::TYPE), head.r#type.as_str());
        headers.insert(headers::name(headers::CORRELATION), head.correlation_id.as_str());
        headers
    }

    fn seal(&self, id: &str) -> String {
        msg_id::sealed(&[&self.inner.agent, "/", id].concat(), &self.inner.secret)
    }

    fn span(&self, to: &Address, head: &EventHead, bytes: usize, parent: &Parent) -> Span {
        if !self.inner.tracer.enabled() {
            return self.inner.tracer.start(Kind::Producer, "publish", parent.context.as_ref(), &[], None);
        }
        let name = format!("publish {to}");
        let mut span = self.inner.tracer.start(Kind::Producer, name, parent.context.as_ref(), &[], None);
        span.attr(semconv::MESSAGING_SYSTEM, semconv::SYSTEM);
        span.attr(semconv::MESSAGING_OPERATION_NAME, "publish");
        span.attr(semconv::MESSAGING_OPERATION_TYPE, "send");
        span.attr(semconv::MESSAGING_DESTINATION_NAME, to.to_string());
        span.attr(semconv::MESSAGING_MESSAGE_ID, head.id.clone());
        span.attr(semconv::MESSAGING_MESSAGE_CONVERSATION_ID, head.correlation_id.clone());
        span.attr(semconv::MESSAGING_MESSAGE_BODY_SIZE, bytes as i64);
        span.attr(semconv::AGENTBUS_AGENT, self.inner.agent.clone());
        span.attr(semconv::AGENTBUS_NAMESPACE, self.inner.namespace.clone());
        span
    }
}

/// The head skips the payload without a look at its wire type; a receiver that decodes the whole event would fail on it.
fn check_data(mut event: &[u8]) -> Result<(), Fault> {
    const DATA: u32 = 13;
    let wrong = |why: &str| Fault::new(Code::InvalidEvent, format!("not an agentbus.event.v1.Event: {why}"));
    while !event.is_empty() {
        let (tag, wire_type) = decode_key(&mut event).map_err(|error| wrong(&error.to_string()))?;
        if tag == DATA && wire_type != WireType::LengthDelimited {
            return Err(wrong("`data` is not bytes"));
        }
        skip_field(wire_type, tag, &mut event, DecodeContext::default()).map_err(|error| wrong(&error.to_string()))?;
    }
    Ok(())
}
