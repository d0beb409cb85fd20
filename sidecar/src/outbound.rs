//! The way out: an encoded event from the agent becomes a message on the broker.
//!
//! Check → stamp → scope → subject and headers (`stamp`, with what comes beside the event: `origin`) → publish, here → PubAck
//! (`sent`). The payload is passed through as bytes; only its head is decoded (see `agentbus_proto::head`).

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use agentbus_nats::grant::Grant;
use agentbus_nats::publisher::{Publisher, Stored};
use agentbus_proto::{Address, Code, Fault, Limits};
use agentbus_runtime::trace::{Span, Tracer, semconv};
use bytes::Bytes;

use crate::full::Full;
use crate::metrics::Metrics;
use crate::scope::Scope;
use crate::spool::{self, Spool, Ticket};
use crate::toll::Toll;

mod origin;
mod sent;
mod stamp;

pub use origin::{Cause, Parent, Wish};
pub use sent::{Kept, Sent};
pub use stamp::Checked;

/// How long an ack with outputs waits for the spool to be empty.
const SPOOL_WAIT: Duration = Duration::from_secs(2);

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

    /// The agent that publishes here.
    pub fn agent(&self) -> &str {
        &self.inner.agent
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
                    Err(fault) if ticket.answered() => return Err(refused(&mut sent.span, &sent.to, fault)),
                    // It has moved meanwhile: the spool's word counts.
                    Err(_) => {}
                },
            }
        }
        sent.ticket = Some(ticket);
        Ok(sent)
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
}

/// Marks a span with a fault.
pub fn fail(span: &mut Span, fault: &Fault) {
    span.attr(semconv::ERROR_TYPE, fault.code.as_str());
    span.fail(fault.message.clone());
}
