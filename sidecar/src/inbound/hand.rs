//! Handing a delivery to the agent: the frame it gets, and the spans of its way there and of its work.

use std::time::{Duration, SystemTime};

use agentbus_nats::moves::Origin;
use agentbus_nats::{headers, schedule};
use agentbus_proto::Address;
use agentbus_proto::sidecar::wire;
use agentbus_runtime::trace::{Context, Kind, Span, semconv};

use super::hub::Hub;
use super::table::Held;

impl Hub {
    /// Makes the frame for the agent and opens the spans of its work.
    pub(super) fn hand(&self, id: &str, held: &mut Held, ack_deadline: Duration) -> wire::Delivery {
        let now = SystemTime::now();
        let stored_at = held.incoming.receipt.stored_at;
        let waited = now.duration_since(stored_at).unwrap_or_default();
        self.metrics().queue_wait_seconds.observe(waited.as_secs_f64());
        let from = |name| headers::get(Some(&held.incoming.headers), name);
        let sent = from(headers::TRACEPARENT).and_then(Context::parse);
        // A retry is a copy in another stream; the agent knows the event by where it was first stored.
        let receipt = &held.incoming.receipt;
        let origin = from(headers::ORIGIN).and_then(Origin::parse);
        let (stream, seq) = origin.map_or_else(|| (receipt.stream.clone(), receipt.seq), |o| (o.stream, o.seq));
        let context = self.open_spans(held, sent, stored_at, waited);
        wire::Delivery {
            delivery_id: id.to_owned(),
            event: schedule::event(&held.incoming.headers, &held.incoming.subject, stored_at, &held.incoming.payload),
            attempt: held.fresh.attempt,
            max_attempts: held.fresh.attempts_max,
            group: held.key.group.to_string(),
            deadline: Some((now + ack_deadline).into()),
            traceparent: context.traceparent(),
            tracestate: headers::get(Some(&held.incoming.headers), headers::TRACESTATE).unwrap_or_default().to_owned(),
            stream,
            seq,
            last_failure: headers::get(Some(&held.incoming.headers), headers::CAUSE).unwrap_or_default().to_owned(),
        }
    }

    /// `receive` covers the wait in the queue, `process` the agent's work; both hang under the hop that stored the event.
    fn open_spans(&self, held: &mut Held, sent: Option<Context>, stored_at: SystemTime, waited: Duration) -> Context {
        let tracer = self.tracer();
        let links: &[Context] = if tracer.enabled() { sent.as_slice() } else { &[] };
        let mut receive = tracer.start(Kind::Client, "receive", sent.as_ref(), links, Some(stored_at));
        let mut process = tracer.start(Kind::Consumer, "process", Some(&receive.context()), links, None);
        for (span, operation) in [(&mut receive, "receive"), (&mut process, "process")] {
            self.describe(span, operation, operation, held);
            span.attr(semconv::AGENTBUS_ATTEMPT, i64::from(held.fresh.attempt));
            span.attr(semconv::AGENTBUS_QUEUE_WAIT_MS, i64::try_from(waited.as_millis()).unwrap_or(i64::MAX));
        }
        let context = process.context();
        held.span = Some(process);
        held.context = Some(context);
        context
    }

    /// The attributes that every span about a delivery carries.
    pub(super) fn describe(&self, span: &mut Span, name: &'static str, operation: &'static str, held: &Held) {
        if !span.is_recording() {
            return;
        }
        let head = &held.fresh.head;
        let to = head.to.as_ref().and_then(|to| Address::try_from(to).ok());
        span.attr(semconv::MESSAGING_SYSTEM, semconv::SYSTEM);
        span.attr(semconv::MESSAGING_OPERATION_NAME, name);
        span.attr(semconv::MESSAGING_OPERATION_TYPE, operation);
        span.attr(semconv::MESSAGING_DESTINATION_NAME, to.map(|to| to.to_string()).unwrap_or_default());
        span.attr(semconv::MESSAGING_CONSUMER_GROUP_NAME, held.key.group.to_string());
        span.attr(semconv::MESSAGING_MESSAGE_ID, head.id.clone());
        span.attr(semconv::MESSAGING_MESSAGE_CONVERSATION_ID, head.chain().to_owned());
        span.attr(semconv::AGENTBUS_AGENT, self.agent().to_owned());
    }
}
