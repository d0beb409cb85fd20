//! Reads from the broker what the decision needs: the consumers of our groups, their first unsettled events, and where in
//! the stream each age ends. The stream itself was read before.
//!
//! Consumers count by what they say they are (metadata), not by their names, so that split and keyed groups count with all
//! they have. A consumer that somebody made with another tool says nothing of the kind and holds nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::{Bus, ConsumerInfo, StreamInfo};
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::names::Names;
use agentbus_nats::read::{From, Query};
use agentbus_nats::topology::METADATA_GROUP;
use agentbus_proto::{Code, Fault};
use async_nats::jetstream::consumer::DeliverPolicy;
use time::OffsetDateTime;

use super::decide::{Reader, Stream};
use crate::spec::Retention;

/// Most consumers of one stream that are understood. Beyond, nothing is removed: what is not seen might be needed.
const CONSUMERS_MAX: usize = 20_000;

/// First unsettled events that were looked up, by consumer.
#[derive(Default)]
pub(super) struct Look {
    firsts: HashMap<String, Known>,
}

/// One of them, and what it was looked up for: in another stream, with other filters or behind another floor it is another.
struct Known {
    created: OffsetDateTime,
    filters: Vec<String>,
    settled: u64,
    first: (u64, SystemTime),
}

impl Known {
    fn is_for(&self, stream: &StreamInfo, reader: &Reader) -> bool {
        (self.created, &self.filters, self.settled) == (stream.created, &reader.filters, reader.settled)
    }
}

/// Who reads.
pub(super) struct Ours {
    pub readers: Vec<Reader>,
    /// Groups that should, and lack a consumer.
    pub missing: Vec<String>,
}

impl Look {
    /// The readers of the events stream, which must have been read before.
    pub(super) async fn readers(
        &mut self,
        bus: &dyn Bus,
        names: &Names,
        stream: &StreamInfo,
        groups: &[GroupGrant],
    ) -> Result<Ours, Fault> {
        let consumers = bus.consumers(&names.events(), CONSUMERS_MAX).await?;
        if consumers.len() >= CONSUMERS_MAX {
            let why = format!("{} has {CONSUMERS_MAX} consumers or more: nothing is removed from it", names.events());
            return Err(Fault::new(Code::CapacityExceeded, why));
        }
        let mut readers = Vec::new();
        for consumer in &consumers {
            if let Some(group) = consumer.config.metadata.get(METADATA_GROUP) {
                readers.push(self.reader(bus, names, stream, group, consumer).await?);
            }
        }
        self.firsts.retain(|name, _| readers.iter().any(|reader| reader.consumer == *name && reader.unsettled > 0));
        let there: BTreeSet<&str> = readers.iter().map(|reader| reader.consumer.as_str()).collect();
        let lacks = |group: &&GroupGrant| group.consumers().iter().any(|name| !there.contains(name.as_str()));
        let missing = groups.iter().filter(lacks).map(|group| group.name.clone()).collect();
        Ok(Ours { readers, missing })
    }

    async fn reader(
        &mut self,
        bus: &dyn Bus,
        names: &Names,
        stream: &StreamInfo,
        group: &str,
        consumer: &ConsumerInfo,
    ) -> Result<Reader, Fault> {
        let mut reader = Reader {
            group: group.to_owned(),
            consumer: consumer.name.clone(),
            filters: filters(consumer),
            settled: consumer.floor.max(begins(consumer).saturating_sub(1)),
            unsettled: consumer.pending + consumer.ack_pending,
            first: None,
        };
        if reader.unsettled == 0 {
            return Ok(reader);
        }
        let known = self.firsts.get(&reader.consumer).filter(|known| known.is_for(stream, &reader));
        reader.first = match known {
            Some(known) => Some(known.first),
            None => first(bus, names, stream, &reader).await?,
        };
        if let Some(first) = reader.first {
            let (created, filters, settled) = (stream.created, reader.filters.clone(), reader.settled);
            self.firsts.insert(reader.consumer.clone(), Known { created, filters, settled, first });
        }
        Ok(reader)
    }
}

/// What a consumer reads; empty = everything.
pub(super) fn filters(consumer: &ConsumerInfo) -> Vec<String> {
    let one = Some(consumer.config.filter_subject.clone()).filter(|filter| !filter.is_empty());
    consumer.config.filter_subjects.iter().cloned().chain(one).collect()
}

/// The sequence a consumer began at, where it was told one.
fn begins(consumer: &ConsumerInfo) -> u64 {
    match consumer.config.deliver_policy {
        DeliverPolicy::ByStartSequence { start_sequence } => start_sequence,
        _ => 0,
    }
}

/// The first event behind what is settled that the reader reads.
async fn first(
    bus: &dyn Bus,
    names: &Names,
    stream: &StreamInfo,
    reader: &Reader,
) -> Result<Option<(u64, SystemTime)>, Fault> {
    let from = (reader.settled + 1).max(stream.first_seq);
    let all = [format!("ab.{}.>", names.namespace())];
    let filters = if reader.filters.is_empty() { all.as_slice() } else { reader.filters.as_slice() };
    let mut first: Option<(u64, SystemTime)> = None;
    for filter in filters {
        let found = bus.find(&names.events(), filter, from).await?;
        let found = found.map(|record| (record.seq, record.stored_at));
        first = first.into_iter().chain(found).min();
    }
    Ok(first)
}

/// The stream as the decision sees it.
pub(super) fn stream(info: &StreamInfo) -> Stream {
    let bytes_max = u64::try_from(info.config.max_bytes).unwrap_or(0);
    Stream { first_seq: info.first_seq, last_seq: info.last_seq, bytes: info.bytes, bytes_max }
}

/// Every age that a policy names, once.
pub(super) fn ages(retention: &Retention) -> BTreeSet<Duration> {
    let topics = retention.topics.iter().map(|(_, age)| *age);
    topics.chain(retention.channels.values().copied()).chain(retention.age).chain([retention.lag]).collect()
}

/// For each age the sequence of the first event that is younger, as far as there are older ones.
pub(super) async fn younger(
    bus: &dyn Bus,
    names: &Names,
    stream: &StreamInfo,
    retention: &Retention,
    now: SystemTime,
) -> Result<BTreeMap<Duration, u64>, Fault> {
    let mut younger = BTreeMap::new();
    let events = names.events();
    let oldest = bus.find(&events, &format!("ab.{}.>", names.namespace()), stream.first_seq).await?;
    let Some(oldest) = oldest else { return Ok(younger) };
    for age in ages(retention) {
        let Some(from) = now.checked_sub(age).filter(|from| oldest.stored_at < *from) else { continue };
        let query = Query { from: From::Time(from), headers_only: true, limit: 1, ..Query::all() };
        let page = bus.read(&events, &query).await?;
        younger.insert(age, page.records.first().map_or(stream.last_seq + 1, |record| record.seq));
    }
    Ok(younger)
}
