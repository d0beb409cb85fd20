//! An event on its way, until it is known where it is: on the broker, or on disk.

use std::time::Instant;

use agentbus_nats::publisher::{Pending, Stored};
use agentbus_proto::{Address, Code, Fault};
use agentbus_runtime::trace::Span;

use super::Outbound;
use crate::spool::{self, Ticket};

/// Where an accepted event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The broker has it.
    Broker(Stored),
    /// It waits on disk for the broker.
    Spool,
}

/// An event on its way to the broker, or into the spool.
pub struct Sent {
    /// The event's id, given or made.
    pub id: String,
    /// None = it was not sent: it is in the spool.
    pub(super) pending: Option<Pending>,
    /// Its place, for an agent with a spool.
    pub(super) ticket: Option<Ticket>,
    pub(super) to: Address,
    pub(super) bytes: usize,
    pub(super) span: Span,
    pub(super) since: Instant,
    pub(super) outbound: Outbound,
}

impl Sent {
    /// Waits for the PubAck of an event that does not go to the spool.
    pub async fn stored(mut self) -> Result<(String, Stored), Fault> {
        match self.outcome().await? {
            (id, Kept::Broker(stored)) => Ok((id, stored)),
            (_, Kept::Spool) => Err(Fault::new(Code::BrokerDown, "the broker is away; the event waits in the spool")),
        }
    }

    /// Waits until the event is stored, or lasts in the spool. Cancel-safe: may be called again until it has given the
    /// outcome, once.
    pub async fn outcome(&mut self) -> Result<(String, Kept), Fault> {
        let outcome = match (&mut self.pending, &mut self.ticket) {
            (Some(pending), None) => pending.outcome().await.map(Kept::Broker),
            _ => self.kept().await,
        };
        match outcome {
            Ok(Kept::Broker(stored)) => {
                self.outbound.inner.toll.stored(&self.to);
                let stored = self.outbound.noted(&mut self.span, self.since, stored);
                Ok((std::mem::take(&mut self.id), Kept::Broker(stored)))
            }
            Ok(Kept::Spool) => {
                self.outbound.inner.metrics.publish("spooled");
                self.span.attr("agentbus.stored", "spool");
                Ok((std::mem::take(&mut self.id), Kept::Spool))
            }
            Err(fault) => {
                let fault = self.outbound.explained(fault);
                let inner = &self.outbound.inner;
                inner.toll.failed(&self.to, self.bytes, &fault);
                inner.metrics.publish_seconds.observe(self.since.elapsed().as_secs_f64());
                Err(self.outbound.refused(&mut self.span, fault))
            }
        }
    }

    /// The outcome for an agent with a spool: whichever has the event in the end.
    async fn kept(&mut self) -> Result<Kept, Fault> {
        let Some(ticket) = &mut self.ticket else {
            return Err(Fault::new(Code::OutcomeUnknown, "the event is on no way; publish it again with the same id"));
        };
        if let Some(pending) = &mut self.pending {
            let answered = tokio::select! {
                biased;
                kept = ticket.kept() => return kept.map(|()| Kept::Spool).map_err(unanswered),
                answered = pending.outcome() => answered,
            };
            self.pending = None;
            match answered {
                // It may have moved in this very moment; then the spool's word counts, and the broker drops the copy.
                Ok(stored) if ticket.answered() => return Ok(Kept::Broker(stored)),
                Ok(_) => {}
                Err(fault) if spool::is_away(&fault) => {
                    if let Some(spool) = &self.outbound.inner.spool {
                        spool.broker_away();
                    }
                }
                Err(fault) if ticket.answered() => return Err(fault),
                // It has moved: refused is only what the spool does not keep either.
                Err(fault) => return ticket.kept().await.map(|()| Kept::Spool).map_err(|_| fault),
            }
            return ticket.kept().await.map(|()| Kept::Spool).map_err(unanswered);
        }
        ticket.kept().await.map(|()| Kept::Spool)
    }
}

/// The spool has no room for an event that was sent before: the broker may have it.
fn unanswered(fault: Fault) -> Fault {
    let why = format!("no answer from the broker, so the event may be stored; {}", fault.message);
    Fault::new(Code::OutcomeUnknown, why)
}

#[cfg(test)]
mod tests {
    use agentbus_nats::bus::{Memory, memory};
    use agentbus_nats::grant::{Fsync, Grant, SpoolOptions};
    use agentbus_proto::event::v1::Event;
    use agentbus_runtime::trace::Tracer;
    use prost::Message;

    use super::*;
    use crate::metrics::Metrics;
    use crate::outbound::{Parent, Wish};
    use crate::spool::Spool;
    use crate::toll::Toll;

    #[tokio::test]
    async fn what_moved_into_the_spool_before_the_broker_refused_it_is_not_told_as_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bus = Memory::start(memory::Options { message_bytes_max: 1 }).connect("writer");
        let grant = Grant {
            agent: "writer".into(),
            namespace: "default".into(),
            publish: vec![">".into()],
            event_bytes_max: 1024,
            ..Grant::default()
        };
        let (metrics, options) = (Metrics::new(), SpoolOptions { bytes_max: 1 << 20, fsync: Fsync::Always });
        let spool = Spool::open(dir.path(), &options, metrics.clone()).unwrap();
        let toll = Toll::open(&grant, None, metrics.clone());
        let publisher = bus.publisher().clone();
        let outbound = Outbound::new(publisher, &grant, Tracer::disabled(), metrics, Some(spool.clone()), toll);
        let to: Address = "note.made".parse().unwrap();
        let event = Event { to: Some(to.into()), ..Event::default() }.encode_to_vec();
        let parent = Parent::default();
        let send = || outbound.send(event.clone().into(), Wish::default(), &parent, None);
        let refused = send().await.unwrap().outcome().await.unwrap_err();
        assert_eq!((refused.code, spool.counts().events), (Code::TooLarge, 0));
        let mut sent = send().await.unwrap();
        spool.broker_away();
        assert_eq!(sent.outcome().await.unwrap().1, Kept::Spool);
        assert_eq!(spool.counts().events, 1);
    }
}
