//! Keeps the consumers of all groups on the broker, and knows how far each group had come.
//!
//! A consumer that is made again (it was deleted, or the broker lost its store) goes on where its group was: starting at the
//! end of the stream would leave out what publishers sent, or sent again, before anybody noticed. The positions are kept in
//! memory: a control plane that was away itself makes missing consumers in an old stream as new ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use agentbus_nats::bus::Bus;
use agentbus_nats::consumers::{self, EventsStream, Position};
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::names::Names;
use agentbus_proto::Fault;

/// The keeper. Groups are bounded by what agents may declare and join.
pub struct Keeper {
    bus: Arc<dyn Bus>,
    names: Names,
    known: Mutex<HashMap<String, Position>>,
}

impl Keeper {
    /// `bus` needs the control plane's rights.
    pub fn new(bus: Arc<dyn Bus>, names: Names) -> Self {
        Self { bus, names, known: Mutex::default() }
    }

    /// Makes or updates the consumers of a group that is declared or joined.
    pub async fn ensure(&self, group: &GroupGrant) -> Result<(), Fault> {
        let stream = consumers::events_stream(&*self.bus, &self.names).await?;
        self.make(group, stream, false).await
    }

    /// One pass over all groups: makes what is missing, notes where the others are. `stream_made`: the events stream was
    /// made just now. Returns the groups whose consumers were made. Looks first: making a consumer that is there costs the
    /// broker more than a look.
    pub async fn pass(&self, groups: &[GroupGrant], stream_made: bool) -> Result<Vec<String>, Fault> {
        let mut made = Vec::new();
        let stream = consumers::events_stream(&*self.bus, &self.names).await?;
        let mut failed = None;
        for group in groups {
            let (known, complete) = consumers::positions(&*self.bus, &self.names, group, stream).await?;
            self.note(known);
            if complete {
                continue;
            }
            // One that cannot be made must not hold up the others.
            match self.make(group, stream, stream_made).await {
                Ok(()) => made.push(group.name.clone()),
                Err(fault) => failed = failed.or(Some(fault)),
            }
        }
        failed.map_or(Ok(made), Err)
    }

    async fn make(&self, group: &GroupGrant, stream: EventsStream, stream_made: bool) -> Result<(), Fault> {
        let start = |name: &str| consumers::start(group.kind, self.position(name), stream, stream_made);
        consumers::ensure_from(&*self.bus, &self.names, group, start).await?;
        // So that it is known from now on, not only from the next pass on.
        let (known, _) = consumers::positions(&*self.bus, &self.names, group, stream).await?;
        self.note(known);
        Ok(())
    }

    fn position(&self, consumer: &str) -> Option<Position> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(consumer).copied()
    }

    fn note(&self, known: Vec<(String, Position)>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
    }
}
