//! What comes with an event beside its bytes: wishes, the trace it belongs to, and the delivery it comes of.

use std::time::Duration;

use agentbus_nats::headers;
use agentbus_runtime::trace::Context;

/// The trace an event belongs to, as the agent told it.
#[derive(Debug, Clone, Default)]
pub struct Parent {
    /// Parsed `traceparent`.
    pub context: Option<Context>,
    /// `tracestate`, passed on.
    pub tracestate: Option<String>,
}

impl Parent {
    /// From header texts; an invalid one counts as absent, as W3C asks.
    pub fn from_headers(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let context = traceparent.and_then(Context::parse);
        let tracestate = tracestate.filter(|_| context.is_some()).map(|state| headers::clean(state, 512));
        Self { context, tracestate }
    }
}

/// What the agent wants done with an event, beside the event itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// Lifetime from now.
    pub ttl: Option<Duration>,
    /// Store it even if nobody has declared its address.
    pub park: bool,
}

impl From<Option<Duration>> for Wish {
    fn from(ttl: Option<Duration>) -> Self {
        Self { ttl, park: false }
    }
}

/// The delivery whose handling emits an event.
#[derive(Debug, Clone)]
pub struct Cause {
    /// Chain to stay in.
    pub correlation_id: String,
    /// Id of the event being handled.
    pub event_id: String,
    /// Its hops.
    pub hops: u32,
    /// The delivery, for whoever asks later: see `headers::HANDLED`.
    pub handled: String,
    /// Id for the emitted event, fixed by the delivery: a repeated settle emits the same ids.
    pub default_id: String,
}
