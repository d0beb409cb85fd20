//! The way out: an encoded event from the agent becomes a message on the broker.
//!
//! Check → stamp → scope → subject and headers → publish → PubAck. The payload is passed through as bytes; only its
//! head is decoded (see `agentbus_proto::head`).

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::grant::Grant;
use agentbus_nats::publisher::{Message, Publisher, Stored};
use agentbus_nats::subject::{self, Lane, part};
use agentbus_nats::{headers, msg_id};
use agentbus_proto::event::v1::Priority;
use agentbus_proto::{Address, Code, EventHead, Fault, Limits, Stamp, stamp, validate};
use agentbus_runtime::trace::{Context, Kind, Span, Tracer, semconv};
use async_nats::HeaderMap;
use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use crate::full::Full;
use crate::metrics::Metrics;
use crate::scope::Scope;
use crate::spool::{self, Spool, Ticket};
use crate::toll::Toll;

mod sent;

pub use sent::{Kept, Sent};

/// How long an ack with outputs waits for the spool to be empty.
const SPOOL_WAIT: Duration = Duration::from_secs(2);

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

/// Publishes for one agent. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    inner: Arc<Inner>,
}

struct Inner {
    publisher: Publisher,
    namespace: String,
    agent: String,
    /// What seals our message ids, so that nobody can claim them first.
    secret: String,
    limits: Limits,
    scope: RwLock<Arc<Scope>>,
    tracer: Tracer,
    metrics: Metrics,
    spool: Option<Spool>,
    toll: Toll,
    /// Set once: says why a full stream is full.
    full: OnceLock<Full>,
}

/// An event that may be sent.
pub struct Checked {
    id: String,
    to: Address,
    message: Message,
    span: Span,
    since: Instant,
}

impl Checked {
    /// What would be stored.
    pub fn message(&self) -> &Message {
        &self.message
    }
}

impl Outbound {
    /// Publishes under the grant's name, past `toll`; into `spool` while the broker is away.
    pub fn new(
        publisher: Publisher,
        grant: &Grant,
        tracer: Tracer,
        metrics: Metrics,
        spool: Option<Spool>,
        toll: Toll,
    ) -> Self {
        let event_bytes_max = grant.limits.event_bytes_max.unwrap_or(usize::MAX).min(grant.event_bytes_max);
        let limits = Limits { event_bytes_max, ..Limits::default() };
        let inner = Inner {
            publisher,
            namespace: grant.namespace.clone(),
            agent: grant.agent.clone(),
            secret: grant.secret.clone(),
            limits,
            scope: RwLock::new(Arc::new(Scope::new(grant))),
            tracer,
            metrics,
            spool,
            toll,
            full: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on agents that hear of a full stream hear why it is.
    pub fn explain_full(&self, full: Full) {
        let _ = self.inner.full.set(full);
    }

    fn explained(&self, fault: Fault) -> Fault {
        match self.inner.full.get() {
            Some(full) => full.explain(fault),
            None => fault,
        }
    }

    /// The limits that events are checked against.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Takes a renewed grant's scope into use.
    pub fn renew(&self, grant: &Grant) {
        *self.inner.scope.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Scope::new(grant));
    }

    /// Checks an event and hands it to the broker's connection, in call order, or to the spool. Await [`Sent::outcome`].
    pub async fn send(
        &self,
        event: Bytes,
        wish: impl Into<Wish>,
        parent: &Parent,
        cause: Option<&Cause>,
    ) -> Result<Sent, Fault> {
        let checked = self.check(event, wish, parent, cause)?;
        match &self.inner.spool {
            None => self.send_checked(checked).await,
            Some(spool) => self.send_or_keep(spool, checked).await,
        }
    }

    async fn send_or_keep(&self, spool: &Spool, checked: Checked) -> Result<Sent, Fault> {
        let Checked { id, to, message, mut span, since } = checked;
        let bytes = message.payload.len();
        self.enter(&to, bytes, &mut span)?;
        let refused = |span: &mut Span, to: &Address, fault: Fault| {
            self.inner.toll.failed(to, bytes, &fault);
            self.refused(span, fault)
        };
        let mut ticket = spool.enter(&id, &message).map_err(|fault| refused(&mut span, &to, fault))?;
        let mut sent = Sent { id, pending: None, ticket: None, to, bytes, span, since, outbound: self.clone() };
        if !ticket.is_behind() {
            tokio::select! {
                biased;
                // Moved while it waited for the connection: the answer is here already.
                kept = ticket.kept() => {
                    kept.map_err(|fault| refused(&mut sent.span, &sent.to, fault))?;
                    ticket = Ticket::ready();
                }
                handed = self.inner.publisher.send(message) => match handed {
                    Ok(pending) => {
                        ticket.sent();
                        sent.pending = Some(pending);
                    }
                    Err(fault) if spool::is_away(&fault) => spool.broker_away(),
                    Err(fault) => return Err(refused(&mut sent.span, &sent.to, fault)),
                },
            }
        }
        sent.ticket = Some(ticket);
        Ok(sent)
    }

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

    /// Hands a checked event to the broker's connection, in call order; never to the spool. Await [`Sent::stored`].
    pub async fn send_checked(&self, checked: Checked) -> Result<Sent, Fault> {
        let Checked { id, to, message, mut span, since } = checked;
        let bytes = message.payload.len();
        self.enter(&to, bytes, &mut span)?;
        match self.inner.publisher.send(message).await {
            Ok(pending) => {
                let (pending, outbound) = (Some(pending), self.clone());
                Ok(Sent { id, pending, ticket: None, to, bytes, span, since, outbound })
            }
            Err(fault) => {
                self.inner.toll.failed(&to, bytes, &fault);
                Err(self.refused(&mut span, fault))
            }
        }
    }

    /// Past the agent's limits and what is left alone.
    fn enter(&self, to: &Address, bytes: usize, span: &mut Span) -> Result<(), Fault> {
        self.inner.toll.enter(std::iter::once((to, bytes))).map_err(|fault| self.refused(span, fault))
    }

    /// Counts a publish that failed.
    fn refused(&self, span: &mut Span, fault: Fault) -> Fault {
        self.inner.metrics.publish(fault.code.as_str());
        fail(span, &fault);
        fault
    }

    /// Stores checked events all together or not at all; behind what waits in the spool.
    pub async fn store_all(&self, checked: Vec<Checked>) -> Result<Vec<(String, Stored)>, Fault> {
        if let Some(spool) = &self.inner.spool
            && !spool.empty(SPOOL_WAIT).await
        {
            let why = "the broker is away, or what waits in the spool is stored first: settle again in a moment";
            return Err(Fault::new(Code::BrokerDown, why).with_retry_after(Duration::from_secs(1)));
        }
        let toll = &self.inner.toll;
        toll.enter(checked.iter().map(|one| (&one.to, one.message.payload.len())))?;
        let (mut rest, mut messages) = (Vec::with_capacity(checked.len()), Vec::with_capacity(checked.len()));
        for Checked { id, to, message, span, since } in checked {
            rest.push((id, to, message.payload.len(), span, since));
            messages.push(message);
        }
        match self.inner.publisher.store_all(messages).await {
            Ok(stored) => {
                let each = rest.into_iter().zip(stored);
                let noted = each.map(|((id, to, _, mut span, since), stored)| {
                    toll.stored(&to);
                    (id, self.noted(&mut span, since, stored))
                });
                Ok(noted.collect())
            }
            Err(fault) => {
                let fault = self.explained(fault);
                for (_, to, bytes, mut span, _) in rest {
                    toll.failed(&to, bytes, &fault);
                    self.refused(&mut span, fault.clone());
                }
                Err(fault)
            }
        }
    }

    /// Counts what is stored and notes where.
    fn noted(&self, span: &mut Span, since: Instant, stored: Stored) -> Stored {
        let metrics = &self.inner.metrics;
        metrics.publish_seconds.observe(since.elapsed().as_secs_f64());
        if stored.duplicate {
            metrics.publish("duplicate");
        } else {
            metrics.published_stored.inc();
        }
        if span.is_recording() {
            span.attr(semconv::AGENTBUS_STREAM, stored.stream.clone());
            span.attr(semconv::AGENTBUS_SEQ, stored.seq as i64);
        }
        stored
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

/// Marks a span with a fault.
pub fn fail(span: &mut Span, fault: &Fault) {
    span.attr(semconv::ERROR_TYPE, fault.code.as_str());
    span.fail(fault.message.clone());
}
