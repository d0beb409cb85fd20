//! Spans with explicit context: what the bus records about an event, and how a trace goes on in the next process.
//!
//! A [`Context`] is the W3C `traceparent`: plain bytes, copied by value, carried in headers. No thread-locals: work on one event
//! hops between tasks, and a forgotten guard would hang spans under the wrong parent. `tracestate` is opaque to us and
//! travels beside the context as an optional string.
//! With tracing switched off a [`Span`] costs a few copies, and its context is the parent's own: as the OpenTelemetry API asks
//! of a tracer without an SDK, so that a trace that passes through us stays whole. This file knows nothing of exporters.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

mod context;
pub mod semconv;

pub use context::Context;

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
        Span { inner: Some(Box::new(inner)), context }
    }
}

/// One running span. Ends when dropped.
#[derive(Debug)]
#[must_use = "a span that is dropped at once measures nothing"]
pub struct Span {
    // Boxed: it is large, mostly absent, and spans are moved about with the events they are about.
    inner: Option<Box<SdkSpan>>,
    context: Context,
}

impl Span {
    /// What to put into headers and to give to children. Always valid: with tracing off it is the parent's, or a new root.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Whether attributes are kept: false when tracing is off or the sampler said no.
    pub fn is_recording(&self) -> bool {
        self.inner.as_ref().is_some_and(|span| span.is_recording())
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

#[cfg(test)]
mod tests {
    use super::*;

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
