//! What can be asked about events: one by its id, a chain by its correlation id.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use agentbus_nats::bus::Bus;
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_nats::pattern::Pattern;
use agentbus_nats::read::{From, Query, Record};
use agentbus_nats::subject::{self, EventSubject};
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Address, Code, Fault};
use tokio::sync::watch;

use super::asking::Desk;
use super::gather::{Gather, Taken};
use super::ids::{self, Look};
use super::scan::{self, Found, Wanted};
use super::status::{Chain, EventStatus, Shown};
use crate::control::Verb;
use crate::dead_letters::{DeadLetters, Target};
use crate::grants::Grants;
use crate::groups::PERSON;
use crate::status::InstanceStatus;

/// Events of a chain that are told.
pub const CHAIN_MAX: usize = 500;
/// Events behind one that are looked at for what it led to.
const EFFECTS_SCANNED: usize = 1000;
/// What it led to, as far as it is read.
const EFFECTS_MAX: usize = 32;

/// Answers questions about events. Reads only.
pub struct Events {
    gather: Gather,
    /// Wanted sizes of the streams.
    pub(super) sizes: Sizes,
}

impl Events {
    /// `bus` needs the control plane's rights.
    pub fn new(
        bus: Arc<dyn Bus>,
        names: Names,
        grants: Arc<Grants>,
        sizes: Sizes,
        dead_letters: Arc<DeadLetters>,
    ) -> Self {
        let (desk, instances) = (Arc::default(), OnceLock::new());
        Self { gather: Gather { bus, names, grants, dead_letters, desk, instances }, sizes }
    }

    /// The instances whose sidecars should answer. Without them all the time for answers is waited.
    pub fn follow(&self, instances: watch::Receiver<Vec<InstanceStatus>>) {
        let _ = self.gather.instances.set(instances);
    }

    /// The verb that takes the answers of sidecars.
    pub fn held(&self) -> Arc<dyn Verb> {
        let desk: Arc<Desk> = Arc::clone(&self.gather.desk);
        desk
    }

    pub(super) fn bus(&self) -> &dyn Bus {
        &*self.gather.bus
    }

    pub(super) fn names(&self) -> &Names {
        &self.gather.names
    }

    /// Where the event with this id is. `UNKNOWN_DELIVERY` when there is none in what was looked at.
    pub async fn show(&self, id: &str) -> Result<Shown, Fault> {
        self.shown(self.find(id, |_| true).await?).await
    }

    async fn shown(&self, first: Record) -> Result<Shown, Fault> {
        let others = self.effects(&first).await?;
        let mut events = vec![Taken::new(first)];
        let (mut statuses, _) = self.gather.statuses(&events, &others, true).await?;
        for seq in sent_again(&statuses) {
            events.extend(self.bus().get(&self.stream(), seq).await?.map(Taken::new));
        }
        if events.len() > 1 {
            statuses = self.gather.statuses(&events, &others, true).await?.0;
        }
        Ok(Shown { events: statuses })
    }

    /// The story of the chain with this correlation id, or of the one that the event with this id belongs to.
    pub async fn chain(&self, id: &str) -> Result<Chain, Fault> {
        let mut found = self.links(id).await?;
        let mut correlation_id = id.to_owned();
        if found.records.is_empty() {
            let event = self.find(id, |_| true).await.map_err(no_chain)?;
            correlation_id = ids::chain_of(&event).unwrap_or_else(|| id.to_owned());
            found = self.links(&correlation_id).await?;
        }
        let mut events = Vec::with_capacity(found.records.len());
        for record in &found.records {
            // All of them together may be more than fits into memory.
            events.extend(self.bus().get(&self.stream(), record.seq).await?.map(|one| Taken::new(one).without_data()));
        }
        let (statuses, all) = self.gather.statuses(&events, &events, false).await?;
        Ok(Chain {
            correlation_id,
            at: rfc3339(SystemTime::now()),
            complete: all && found.complete,
            scanned: found.scanned,
            events: statuses,
        })
    }

    /// The same for an agent, which sees what it sent and what is for its groups; the person sees all. Ids are their
    /// senders' choice: another's event with the same id is neither found instead nor told of.
    pub async fn show_to(&self, agent: &str, id: &str) -> Result<Shown, Fault> {
        if agent == PERSON {
            return self.show(id).await;
        }
        let own = self.gather.grants.groups().of(agent);
        let mut shown = self.shown(self.find(id, |record| concerns(record, agent, &own)).await?).await?;
        shown.events = self.visible(agent, shown.events);
        if shown.events.is_empty() { Err(unknown(id, "")) } else { Ok(shown) }
    }

    /// The same for an agent; what it does not see is left out, and an empty chain is none.
    pub async fn chain_to(&self, agent: &str, id: &str) -> Result<Chain, Fault> {
        let mut chain = self.chain(id).await?;
        chain.events = self.visible(agent, chain.events);
        if chain.events.is_empty() { Err(unknown(id, "")) } else { Ok(chain) }
    }

    fn visible(&self, agent: &str, events: Vec<EventStatus>) -> Vec<EventStatus> {
        if agent == PERSON {
            return events;
        }
        let own: Vec<String> = self.gather.grants.groups().of(agent).into_iter().map(|group| group.name).collect();
        events
            .into_iter()
            .filter_map(|mut event| {
                let sent = event.event["source"] == agent;
                // Who sent it may know everything of it; others what concerns them.
                event.groups.retain(|group| sent || own.contains(&group.group));
                (sent || !event.groups.is_empty()).then_some(event)
            })
            .collect()
    }

    fn stream(&self) -> String {
        self.gather.names.events()
    }

    async fn find(&self, id: &str, sees: impl Fn(&Record) -> bool) -> Result<Record, Fault> {
        let stream = self.stream();
        let look = ids::look(id, &stream);
        let fired = OnceLock::new();
        let fits = |record: &Record| {
            if !sees(record) {
                return false;
            }
            if let Some(fired_id) = ids::fired_by(record, id) {
                let _ = fired.set(fired_id);
            }
            ids::is(record, id)
        };
        let found = scan::walk(self.bus(), &stream, look, Wanted::One, fits).await?;
        let Some(record) = found.records.first() else {
            let hint = fired.get().map(|one| format!("; `{one}` is one of the schedule `{id}`")).unwrap_or_default();
            return Err(unknown(id, &(within(&found, look) + &hint)));
        };
        self.bus().get(&stream, record.seq).await?.ok_or_else(|| unknown(id, ""))
    }

    /// Events of a chain, headers only.
    async fn links(&self, correlation_id: &str) -> Result<Found, Fault> {
        let stream = self.stream();
        let look = ids::look(correlation_id, &stream);
        let fits = |record: &Record| ids::chain_of(record).as_deref() == Some(correlation_id);
        scan::walk(self.bus(), &stream, look, Wanted::UpTo(CHAIN_MAX), fits).await
    }

    /// The next events of the same chain: some of them may name this one as their cause.
    async fn effects(&self, event: &Record) -> Result<Vec<Taken>, Fault> {
        let Some(chain) = ids::chain_of(event) else { return Ok(Vec::new()) };
        let from = From::Seq(event.seq + 1);
        let query = Query { from, headers_only: true, limit: EFFECTS_SCANNED, ..Query::all() };
        let page = self.bus().read(&self.stream(), &query).await?;
        let mut effects = Vec::new();
        for record in
            page.records.iter().filter(|record| ids::chain_of(record).as_deref() == Some(&chain)).take(EFFECTS_MAX)
        {
            effects.extend(self.bus().get(&self.stream(), record.seq).await?.map(Taken::new));
        }
        Ok(effects)
    }
}

/// Whether an agent sent an event, or is in a group that reads its address.
fn concerns(record: &Record, agent: &str, own: &[GroupGrant]) -> bool {
    let reads = |to: &Address| {
        let patterns = own.iter().flat_map(|group| &group.patterns);
        patterns.filter_map(|text| Pattern::parse(text).ok()).any(|pattern| pattern.matches_address(to))
    };
    subject::sender(&record.subject) == Some(agent)
        || EventSubject::parse(&record.subject).is_some_and(|subject| reads(&subject.to))
}

/// Where a dead letter of one of these was sent to its address once more.
fn sent_again(statuses: &[EventStatus]) -> Vec<u64> {
    let redriven = statuses.iter().flat_map(|status| &status.groups).filter_map(|group| group.redriven.as_ref());
    let mut seqs: Vec<u64> =
        redriven.filter(|redriven| redriven.to == Target::Origin).map(|redriven| redriven.new_seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

/// How much was looked at, in words.
fn within(found: &Found, look: Look) -> String {
    let scanned = found.scanned;
    match (found.complete, look) {
        (true, Look::Backward) => format!(": none of the {scanned} events in the stream has it"),
        (true, Look::Forward(_)) => format!(": none of the {scanned} events stored since it was made has it"),
        (false, Look::Backward) => format!(": not among the last {scanned} events"),
        (false, Look::Forward(_)) => format!(": not among the first {scanned} events stored since it was made"),
    }
}

fn unknown(id: &str, within: &str) -> Fault {
    Fault::new(Code::UnknownDelivery, format!("there is no event `{}`{within}", id.escape_debug()))
}

fn no_chain(fault: Fault) -> Fault {
    if fault.code != Code::UnknownDelivery {
        return fault;
    }
    let message = format!("{}; nor is it the correlation id of a chain", fault.message);
    Fault { message, ..fault }
}
