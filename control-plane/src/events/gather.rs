//! Everything that is known of some events, from the consumers, the streams and the sidecars, and what it amounts to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::{Bus, ConsumerInfo};
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::held::{Wanted, is_instance, nanos};
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_nats::read::Record;
use agentbus_nats::{headers, schedule, topology};
use agentbus_proto::event::v1::Event;
use agentbus_proto::{EventHead, Fault, json, timestamp};
use async_nats::jetstream::consumer::DeliverPolicy;
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::asking::{Desk, Heard};
use super::decide::{Effect, Known, Place, Subject, decide};
use super::marks::{Marks, Reader};
use super::status::EventStatus;
use crate::dead_letters::DeadLetters;
use crate::grants::Grants;
use crate::status::InstanceStatus;

/// Consumers of the events stream looked at.
const CONSUMERS_MAX: usize = 4096;
/// Marks on an event are never older than it is; clocks of the broker's streams are one clock.
const MARGIN: Duration = Duration::from_secs(1);

/// A stored event with its payload.
pub(super) struct Taken {
    pub record: Record,
    /// Empty where the payload is no event.
    pub head: EventHead,
}

impl Taken {
    /// Reads the head of a stored event.
    pub fn new(mut record: Record) -> Self {
        record.payload = schedule::event(&record.headers, &record.subject, record.stored_at, &record.payload);
        let head = EventHead::decode(&record.payload).unwrap_or_default();
        Self { record, head }
    }

    /// The same with an empty content, for answers that leave it out.
    pub fn without_data(mut self) -> Self {
        if let Ok(event) = Event::decode(self.record.payload.clone()) {
            self.record.payload = Event { data: Default::default(), ..event }.encode_to_vec().into();
        }
        self
    }

    fn subject(&self) -> Subject {
        let expires = self.head.expires.as_ref().and_then(timestamp::to_system);
        Subject { seq: self.record.seq, stored_at: self.record.stored_at, expires }
    }

    fn json(&self, with_data: bool) -> Value {
        match Event::decode(self.record.payload.clone()) {
            Ok(event) if with_data => json::event_to_json(&event),
            Ok(event) => without_data(json::event_to_json(&Event { data: Default::default(), ..event })),
            Err(error) => json!({"undecodable": error.to_string()}),
        }
    }
}

/// Left out is not empty: no key says that data was not looked at.
fn without_data(mut event: Value) -> Value {
    if let Some(fields) = event.as_object_mut() {
        fields.remove("data");
        fields.remove("data_base64");
    }
    event
}

/// One group that an event is for, with the consumer that reads it.
struct Reading<'a> {
    group: &'a GroupGrant,
    place: Place,
}

/// Where it is all found.
pub(super) struct Gather {
    pub bus: Arc<dyn Bus>,
    pub names: Names,
    pub grants: Arc<Grants>,
    pub dead_letters: Arc<DeadLetters>,
    pub desk: Arc<Desk>,
    pub instances: OnceLock<watch::Receiver<Vec<InstanceStatus>>>,
}

impl Gather {
    /// The status of these events. `others` may tell of their effects: events of the same chain.
    pub async fn statuses(
        &self,
        events: &[Taken],
        others: &[Taken],
        with_data: bool,
    ) -> Result<(Vec<EventStatus>, bool), Fault> {
        let Some(oldest) = events.iter().map(|event| event.record.stored_at).min() else {
            return Ok((Vec::new(), true));
        };
        let groups = self.grants.all_groups();
        let consumers = self.bus.consumers(&self.names.events(), CONSUMERS_MAX).await?;
        let consumers = by_group(&consumers);
        let readings: Vec<Vec<Reading<'_>>> = events.iter().map(|event| readings(event, &groups, &consumers)).collect();
        let members = self.members(readings.iter().flatten().map(|reading| reading.group.name.as_str()));
        let seqs: BTreeSet<u64> = events.iter().map(|event| event.record.seq).collect();
        let reader = Reader { bus: &*self.bus, names: &self.names, dead_letters: &self.dead_letters };
        let since = oldest.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut marks = reader.read(&seqs, since).await?;
        let heard = self.ask(events, &readings, &members).await;
        let now = SystemTime::now();
        let mut statuses = Vec::with_capacity(events.len());
        for (event, readings) in events.iter().zip(&readings) {
            let groups = readings.iter().map(|reading| {
                let known = known(event, reading, readings, &mut marks, &heard, others, &members);
                decide(&reading.group.name, &event.subject(), &known, now)
            });
            statuses.push(EventStatus {
                event: event.json(with_data),
                stream: self.names.events(),
                seq: event.record.seq,
                stored_at: rfc3339(event.record.stored_at),
                groups: groups.collect(),
            });
        }
        Ok((statuses, !marks.cut))
    }

    /// The agents of these groups.
    fn members<'a>(&self, groups: impl Iterator<Item = &'a str>) -> BTreeMap<String, BTreeSet<String>> {
        let mut members: BTreeMap<String, BTreeSet<String>> =
            groups.map(|group| (group.to_owned(), BTreeSet::new())).collect();
        let known = self.grants.groups();
        for agent in known.directory().agents.keys() {
            for group in known.of(agent) {
                if let Some(agents) = members.get_mut(&group.name) {
                    agents.insert(agent.clone());
                }
            }
        }
        members
    }

    async fn ask(
        &self,
        events: &[Taken],
        readings: &[Vec<Reading<'_>>],
        members: &BTreeMap<String, BTreeSet<String>>,
    ) -> Heard {
        let agents: BTreeSet<String> = members.values().flatten().cloned().collect();
        let wanted = events.iter().zip(readings).flat_map(|(event, readings)| {
            readings.iter().filter(|reading| event.record.seq <= reading.place.delivered).map(|reading| Wanted {
                group: reading.group.name.clone(),
                seq: event.record.seq,
                stored_at: nanos(event.record.stored_at),
            })
        });
        let instances = self.instances.get().map(|all| all.borrow().clone()).unwrap_or_default();
        let serves = |one: &InstanceStatus| one.url.is_some() && agents.contains(&one.agent);
        let instances: Vec<(String, String)> =
            instances.into_iter().filter(serves).map(|one| (one.agent, one.instance)).collect();
        let wanted = wanted.collect();
        self.desk.ask(&*self.bus, self.names.namespace(), &agents, &instances, wanted).await
    }
}

/// Consumers by the group they are for.
type ByGroup<'a> = BTreeMap<&'a str, Vec<&'a ConsumerInfo>>;

/// Once for all events: a chain has hundreds of them, and a namespace a thousand consumers.
fn by_group(consumers: &[ConsumerInfo]) -> ByGroup<'_> {
    let mut groups = ByGroup::new();
    for consumer in consumers {
        if let Some(group) = consumer.config.metadata.get(topology::METADATA_GROUP) {
            groups.entry(group).or_default().push(consumer);
        }
    }
    groups
}

/// The groups an event is for, each with how far its consumer is. A group that began after the event is not one of them.
fn readings<'a>(event: &Taken, groups: &'a [GroupGrant], consumers: &ByGroup<'_>) -> Vec<Reading<'a>> {
    let mut readings = Vec::new();
    for group in groups {
        if !group.wants(&event.head) {
            continue;
        }
        let mut own = consumers.get(group.name.as_str()).into_iter().flatten().copied();
        let Some(consumer) = own.find(|one| reads(one, &event.record.subject)) else { continue };
        if consumer.config.deliver_policy == DeliverPolicy::New
            && SystemTime::from(consumer.created) > event.record.stored_at
        {
            continue;
        }
        let idle = consumer.pending == 0 && consumer.ack_pending == 0;
        readings.push(Reading { group, place: Place { delivered: consumer.delivered, floor: consumer.floor, idle } });
    }
    readings
}

fn reads(consumer: &ConsumerInfo, subject: &str) -> bool {
    let filters = consumer.config.filter_subjects.iter().map(String::as_str);
    let single = Some(consumer.config.filter_subject.as_str()).filter(|filter| !filter.is_empty());
    filters.chain(single).any(|filter| matches(filter, subject))
}

/// Whether a filter of the broker takes a subject.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut want, mut have) = (filter.split('.'), subject.split('.'));
    loop {
        match (want.next(), have.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(want), Some(have)) if want == have => {}
            _ => return false,
        }
    }
}

fn known(
    event: &Taken,
    reading: &Reading<'_>,
    all: &[Reading<'_>],
    marks: &mut Marks,
    heard: &Heard,
    others: &[Taken],
    members: &BTreeMap<String, BTreeSet<String>>,
) -> Known {
    let (seq, group) = (event.record.seq, &reading.group.name);
    let key = (seq, group.clone());
    let mine = members.get(group);
    let held = heard.held.get(&(group.clone(), seq)).into_iter().flatten();
    let silent = heard
        .silent
        .iter()
        .filter(|instance| mine.is_some_and(|agents| agents.iter().any(|agent| is_instance(instance, agent))));
    Known {
        place: Some(reading.place.clone()),
        waiting: marks.waiting.remove(&key).unwrap_or_default(),
        letters: marks.letters.remove(&key).unwrap_or_default(),
        // Only a member can have an event of the group.
        held: held.filter(|held| mine.is_some_and(|agents| agents.contains(&held.agent))).cloned().collect(),
        silent: silent.cloned().collect(),
        receipts: marks.receipts.remove(&key).unwrap_or_default(),
        effects: others.iter().filter_map(|other| effect(event, other, group, all, members)).collect(),
    }
}

/// What `other` tells of the handling of `event` by `group`: it names it as its cause.
fn effect(
    event: &Taken,
    other: &Taken,
    group: &str,
    all: &[Reading<'_>],
    members: &BTreeMap<String, BTreeSet<String>>,
) -> Option<Effect> {
    if other.head.causation_id.is_empty() || other.head.causation_id != event.head.id {
        return None;
    }
    let agent = other.head.source.clone();
    let is_in = |group: &str| members.get(group).is_some_and(|agents| agents.contains(&agent));
    let mine = is_in(group);
    let handled = headers::get(Some(&other.record.headers), headers::HANDLED).and_then(handled);
    let (attempt, handed) = match handled {
        Some((of, attempt, handed)) if of == group && mine => (attempt, Some(handed)),
        Some(_) => return None,
        // Published on its own: only where the agent reads the event in no other group.
        None => {
            let groups = all.iter().filter(|reading| is_in(&reading.group.name)).count();
            if !mine || groups != 1 {
                return None;
            }
            (0, None)
        }
    };
    Some(Effect { agent, attempt, handed, at: Some(other.record.stored_at) })
}

/// `<group>/<attempt>/<milliseconds>`
fn handled(text: &str) -> Option<(&str, u32, SystemTime)> {
    let mut parts = text.splitn(3, '/');
    let (group, attempt, ms) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((group, attempt, SystemTime::UNIX_EPOCH + Duration::from_millis(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_broker_does() {
        let subject = "ab.default.n.list.topic.-.notes.created";
        for (filter, wanted) in [
            ("ab.default.*.*.topic.*.notes.>", true),
            ("ab.default.*.*.topic.*.notes.created", true),
            ("ab.default.h.*.topic.*.notes.>", false),
            ("ab.default.*.*.topic.*.notes.created.>", false),
            ("ab.default.>", true),
        ] {
            assert_eq!(matches(filter, subject), wanted, "{filter}");
        }
    }

    #[test]
    fn an_emitted_event_tells_the_delivery() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_763_000_000_123);
        assert_eq!(handled("check/2/1763000000123"), Some(("check", 2, at)));
        assert_eq!((handled("check/2"), handled("check/x/1"), handled("")), (None, None, None));
    }
}
