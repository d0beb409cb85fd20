//! Spans with explicit context: what the bus records about an event, and how a trace goes on in the next process.
//!
//! A [`Context`] is the W3C `traceparent`: plain bytes, copied by value, carried in headers. No thread-locals: work on one event
//! hops between tasks, and a forgotten guard would hang spans under the wrong parent. `tracestate` is opaque to us and
//! travels beside the context as an optional string.
//! With tracing switched off a [`Span`] costs a few copies, and its context is the parent's own: as the OpenTelemetry API asks
//! of a tracer without an SDK, so that a trace that passes through us stays whole. This file knows nothing of exporters.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

/// The place of one span in one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// Never all zero.
    pub trace_id: [u8; 16],
    /// Never all zero.
    pub span_id: [u8; 8],
    /// The caller may have recorded its span. Samplers downstream follow it unless told otherwise.
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent` header value. `None` for anything the W3C recommendation calls invalid; then the caller starts a
    /// new trace. Versions above 00 are read as far as we know them.
    /// See <https://www.w3.org/TR/trace-context/#traceparent-header>.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.splitn(5, '-');
        let version: [u8; 1] = hex(parts.next()?)?;
        let trace_id = hex(parts.next()?)?;
        let span_id = hex(parts.next()?)?;
        let flags: [u8; 1] = hex(parts.next()?)?;
        let foreign = version == [0xff] || (version == [0] && parts.next().is_some());
        let empty = trace_id == [0; 16] || span_id == [0; 8];
        (!foreign && !empty).then_some(Self { trace_id, span_id, sampled: flags[0] & 1 == 1 })
    }

    /// The `traceparent` header value, version 00.
    pub fn traceparent(&self) -> String {
        let flags = u8::from(self.sampled);
        format!("00-{:032x}-{:016x}-{flags:02x}", u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id))
    }

    /// A new random trace. Marked as sampled: a process that does not export leaves the choice to those who do.
    pub fn root() -> Self {
        Self { trace_id: rand::random::<u128>().max(1).to_be_bytes(), span_id: random_span_id(), sampled: true }
    }

    /// The same trace, a new span id.
    pub fn child(&self) -> Self {
        Self { span_id: random_span_id(), ..*self }
    }

    /// The trace id in hex, as trace viewers take it.
    pub fn trace_id_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }

    fn to_otel(self, remote: bool) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let (trace, span) = (TraceId::from_bytes(self.trace_id), SpanId::from_bytes(self.span_id));
        SpanContext::new(trace, span, flags, remote, TraceState::default())
    }

    fn from_otel(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| Self {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            sampled: context.is_sampled(),
        })
    }
}

fn random_span_id() -> [u8; 8] {
    rand::random::<u64>().max(1).to_be_bytes()
}

/// Exactly `N` bytes in lower-case hex.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (target, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *target = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// What a span is to the others in its trace.
/// See <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/#span-kind>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Creates or sends an event: `publish`, `create`.
    Producer,
    /// Processes an event: `process`.
    Consumer,
    /// Asks another party and waits: `receive`, `settle`, a plain call.
    Client,
    /// A step inside one process.
    Internal,
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Client => SpanKind::Client,
            Kind::Internal => SpanKind::Internal,
        }
    }
}

/// Starts spans. Cheap to clone; does nothing when tracing is off.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<SdkTracer>);

impl Tracer {
    /// A tracer that records nothing and only passes contexts on.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// A tracer that records through the OpenTelemetry SDK.
    pub fn new(tracer: SdkTracer) -> Self {
        Self(Some(tracer))
    }

    /// Whether spans go anywhere: lets callers skip work that only serves attributes.
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Starts a span under `parent` (none: a new trace), linked to `links`, begun at `start` (none: now).
    pub fn start(
        &self,
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        parent: Option<&Context>,
        links: &[Context],
        start: Option<SystemTime>,
    ) -> Span {
        let Some(tracer) = &self.0 else {
            return Span { inner: None, context: parent.copied().unwrap_or_else(Context::root) };
        };
        let mut builder = SpanBuilder::from_name(name).with_kind(kind.into());
        if let Some(start) = start {
            builder = builder.with_start_time(start);
        }
        if !links.is_empty() {
            builder = builder.with_links(links.iter().map(|link| Link::with_context(link.to_otel(true))).collect());
        }
        // Built from the empty context, never from `Context::current()`: nothing ambient can slip in.
        let base = opentelemetry::Context::new();
        let around = match parent {
            Some(parent) => base.with_remote_span_context(parent.to_otel(true)),
            None => base,
        };
        let inner = tracer.build_with_context(builder, &around);
        // Invalid only after shutdown; then we pass the parent on, as when disabled.
        let context = Context::from_otel(inner.span_context()).or(parent.copied()).unwrap_or_else(Context::root);
        Span { inner: Some(inner), context }
    }
}

/// One running span. Ends when dropped.
#[derive(Debug)]
#[must_use = "a span that is dropped at once measures nothing"]
pub struct Span {
    inner: Option<SdkSpan>,
    context: Context,
}

impl Span {
    /// What to put into headers and to give to children. Always valid: with tracing off it is the parent's, or a new root.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Whether attributes are kept: false when tracing is off or the sampler said no.
    pub fn is_recording(&self) -> bool {
        self.inner.as_ref().is_some_and(opentelemetry::trace::Span::is_recording)
    }

    /// Sets one attribute; keys are in [`semconv`].
    pub fn attr(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.inner {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed. `message` is for people; the stable code belongs into [`semconv::ERROR_TYPE`].
    pub fn fail(&mut self, message: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.inner {
            span.set_status(Status::error(message));
        }
    }

    /// Ends the span now.
    pub fn end(self) {}

    /// Ends the span at a moment in the past.
    pub fn end_at(mut self, at: SystemTime) {
        if let Some(span) = &mut self.inner {
            span.end_with_timestamp(at);
        }
    }
}

/// Attribute keys.
///
/// From the OpenTelemetry semantic conventions for messaging
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/messaging/>) and errors
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/>); the `agentbus.` ones are ours.
pub mod semconv {
    /// The messaging system; always [`SYSTEM`].
    pub const MESSAGING_SYSTEM: &str = "messaging.system";
    /// The value of [`MESSAGING_SYSTEM`].
    pub const SYSTEM: &str = "agentbus";
    /// The verb as the system calls it: `publish`, `receive`, `process`, `ack`, `nack`, `reject`, `retry`, `dead_letter`.
    pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
    /// The kind of operation in the convention's words: `create`, `send`, `receive`, `process`, `settle`.
    pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
    /// The address: `task.done`, `@agent`, `#channel`.
    pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
    /// The event id.
    pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
    /// The correlation id.
    pub const MESSAGING_MESSAGE_CONVERSATION_ID: &str = "messaging.message.conversation_id";
    /// The group that consumes.
    pub const MESSAGING_CONSUMER_GROUP_NAME: &str = "messaging.consumer.group.name";
    /// Size of the payload, in bytes.
    pub const MESSAGING_MESSAGE_BODY_SIZE: &str = "messaging.message.body.size";
    /// The stable error code of what failed.
    pub const ERROR_TYPE: &str = "error.type";
    /// Which attempt at the event this is, from 1.
    pub const AGENTBUS_ATTEMPT: &str = "agentbus.attempt";
    /// Time between the event being stored and being handed to the agent, in milliseconds.
    pub const AGENTBUS_QUEUE_WAIT_MS: &str = "agentbus.queue_wait_ms";
    /// The agent.
    pub const AGENTBUS_AGENT: &str = "agentbus.agent";
    /// The namespace.
    pub const AGENTBUS_NAMESPACE: &str = "agentbus.namespace";
    /// The stream that holds the event.
    pub const AGENTBUS_STREAM: &str = "agentbus.stream";
    /// The stream sequence of the event.
    pub const AGENTBUS_SEQ: &str = "agentbus.seq";
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_survives_a_round_trip() {
        let context = Context::parse(EXAMPLE).unwrap();
        assert!(context.sampled);
        assert_eq!(context.traceparent(), EXAMPLE);
        assert_eq!(context.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let unsampled = EXAMPLE.replace("-01", "-02");
        assert!(!Context::parse(&unsampled).unwrap().sampled);
    }

    #[test]
    fn invalid_traceparents_are_refused() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let cases = [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            &zero_trace,
        ];
        for case in cases {
            assert_eq!(Context::parse(case), None, "{case}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_known() {
        assert!(Context::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-ever").is_some());
    }

    #[test]
    fn a_child_keeps_the_trace_and_changes_the_span() {
        let root = Context::root();
        let child = root.child();
        assert_eq!(root.trace_id, child.trace_id);
        assert_ne!(root.span_id, child.span_id);
        assert_eq!(Context::parse(&child.traceparent()), Some(child));
    }

    #[test]
    fn a_disabled_tracer_passes_the_parent_on() {
        let parent = Context::root();
        let tracer = Tracer::disabled();
        let mut span = tracer.start(Kind::Producer, "publish", Some(&parent), &[], None);
        span.attr(semconv::AGENTBUS_ATTEMPT, 1);
        span.fail("no");
        assert_eq!(span.context(), parent);
        assert!(!span.is_recording());
        let root = tracer.start(Kind::Producer, "publish", None, &[], None).context();
        assert!(Context::parse(&root.traceparent()).is_some());
    }
}
