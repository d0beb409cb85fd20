//! Makes and updates the durable consumers of a group, and tells their state. Needs rights only the control plane has.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::consumer;
use serde::Serialize;
use time::OffsetDateTime;

use crate::bus::{Bus, ConsumerInfo};
use crate::grant::{GroupGrant, GroupKind};
use crate::layout::Slice;
use crate::names::Names;
use crate::topology;

/// State of one group, from its two consumers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupState {
    /// Group name.
    pub group: String,
    /// Events it has not been given yet.
    pub lag: u64,
    /// Deliveries not settled.
    pub in_flight: u64,
    /// Deliveries that were made before and are out again.
    pub redelivered: u64,
    /// Events that wait for their next attempt or hold one.
    pub retrying: u64,
    /// Pull requests waiting at the broker: somebody listens.
    pub waiting: u64,
}

/// The events stream as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsStream {
    /// When the broker made it: tells a stream from one of the same name that was lost.
    pub created: OffsetDateTime,
    /// Number of its newest event.
    pub last_seq: u64,
}

/// How far a group had come when its consumer was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The stream it read, see [`EventsStream::created`].
    pub created: OffsetDateTime,
    /// All events up to this one were settled.
    pub settled: u64,
}

/// Where a group's consumer on the events stream begins when it has to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on: the group is new.
    New,
    /// With everything the stream has.
    All,
    /// With the event of this number.
    At(u64),
}

/// Decides where a consumer begins. A group that was known goes on behind what it had settled, so that nothing sent while
/// its consumer was missing is left out; what it was doing meanwhile may come twice. In a stream that is another one by
/// now, or that was `made_now`, everything is younger than the group.
pub fn start(kind: GroupKind, known: Option<Position>, stream: EventsStream, made_now: bool) -> Start {
    match known {
        _ if made_now => Start::All,
        // An address of its own: whatever was parked there is for whoever it names now.
        None if kind != GroupKind::Patterns => Start::All,
        None => Start::New,
        Some(known) if known.created != stream.created || known.settled > stream.last_seq => Start::All,
        Some(known) => Start::At(known.settled + 1),
    }
}

/// Makes a group's consumers, or updates them to the grant; new ones begin with what comes from now on. Idempotent; never
/// deletes one. `BROKER_DOWN` and `CAPACITY_EXCEEDED` may pass; `INVALID_ADDRESS` (its patterns) and `BAD_CONFIG`
/// (everything else of it) are for good.
pub async fn ensure(bus: &dyn Bus, names: &Names, group: &GroupGrant) -> Result<(), Fault> {
    ensure_from(bus, names, group, |_| Start::New).await
}

/// As [`ensure`]; a consumer on the events stream that is missing begins where `start` says. `BAD_CONFIG` when the broker
/// knows the group with other consumers: made anew they would leave out what the old ones have not read.
pub async fn ensure_from(
    bus: &dyn Bus,
    names: &Names,
    group: &GroupGrant,
    start: impl Fn(&str) -> Start + Send + Sync,
) -> Result<(), Fault> {
    let wanted = topology::events_consumers(names, group)?;
    for (at, mut events) in wanted.into_iter().enumerate() {
        let name = events.name.clone().unwrap_or_default();
        match bus.consumer(&names.events(), &name).await? {
            // Where a consumer starts is fixed for its life; everything else may change.
            Some(existing) => events.deliver_policy = existing.config.deliver_policy,
            None => {
                if at == 0 {
                    refuse_another_layout(bus, names, group).await?;
                }
                events.deliver_policy = match start(&name) {
                    Start::New => consumer::DeliverPolicy::New,
                    Start::All => consumer::DeliverPolicy::All,
                    Start::At(start_sequence) => consumer::DeliverPolicy::ByStartSequence { start_sequence },
                };
            }
        }
        put(bus, &names.events(), events, &group.name).await?;
    }
    let mut retry = topology::retry_consumer(names, group);
    if let Some(existing) = bus.consumer(&names.retry(), &Names::retry_consumer(&group.name)).await? {
        retry.deliver_policy = existing.config.deliver_policy;
    }
    put(bus, &names.retry(), retry, &group.name).await
}

/// The first consumer of each layout tells which one a group has.
async fn refuse_another_layout(bus: &dyn Bus, names: &Names, group: &GroupGrant) -> Result<(), Fault> {
    let wanted = group.slices();
    for layout in Slice::layouts().into_iter().filter(|layout| *layout != wanted) {
        let Some(first) = layout.first().map(|slice| Names::slice_consumer(&group.name, *slice)) else { continue };
        if bus.consumer(&names.events(), &first).await?.is_some() {
            let (name, was, is) = (&group.name, described(&layout), described(&wanted));
            let why = format!(
                "group `{name}` reads {was} on this broker and cannot be changed to read {is}: what it has not read yet \
                 would be left out. Give it another name, or declare it as it was"
            );
            return Err(Fault::new(Code::BadConfig, why));
        }
    }
    Ok(())
}

fn described(layout: &[Slice]) -> &'static str {
    match layout.first() {
        Some(Slice::Lane(_)) => "by lanes (lanes: split)",
        Some(Slice::Part(_)) => "by parts (order: key)",
        _ => "in one piece",
    }
}

/// The events stream now. `BROKER_DOWN` when it cannot be read.
pub async fn events_stream(bus: &dyn Bus, names: &Names) -> Result<EventsStream, Fault> {
    let name = names.events();
    let missing = || Fault::new(Code::BrokerDown, format!("cannot read {name}: there is no such stream"));
    let info = bus.stream(&name).await?.ok_or_else(missing)?;
    Ok(EventsStream { created: info.created, last_seq: info.last_seq })
}

/// How far a group's consumers have come in `stream`, each by its name; none when one of them, or of those for retries, is
/// missing. What is known of the others is told all the same.
pub async fn positions(
    bus: &dyn Bus,
    names: &Names,
    group: &GroupGrant,
    stream: EventsStream,
) -> Result<(Vec<(String, Position)>, bool), Fault> {
    let mut known = Vec::new();
    let wanted = group.consumers();
    for name in &wanted {
        if let Some(events) = bus.consumer(&names.events(), name).await? {
            known.push((name.clone(), Position { created: stream.created, settled: events.floor }));
        }
    }
    let retry = bus.consumer(&names.retry(), &Names::retry_consumer(&group.name)).await?;
    let complete = known.len() == wanted.len() && retry.is_some();
    Ok((known, complete))
}

async fn put(bus: &dyn Bus, stream: &str, wanted: consumer::pull::Config, group: &str) -> Result<(), Fault> {
    bus.put_consumer(stream, wanted).await.map_err(|mut fault| {
        fault.message = format!("cannot make the consumer of group `{group}` on {stream}: {}", fault.message);
        fault
    })
}

/// The states of these groups, for `status` and the metrics: all consumers of a group together.
pub async fn states(bus: &dyn Bus, names: &Names, groups: &[String]) -> Result<Vec<GroupState>, Fault> {
    let mut states = Vec::with_capacity(groups.len());
    for group in groups {
        let retry = info(bus, &names.retry(), &Names::retry_consumer(group)).await?;
        let mut state = GroupState {
            group: group.clone(),
            lag: 0,
            in_flight: 0,
            redelivered: 0,
            retrying: retry.pending + retry.ack_pending,
            waiting: 0,
        };
        for events in of_group(bus, names, group).await? {
            state.lag += events.pending;
            state.in_flight += events.ack_pending;
            state.redelivered += events.redelivered;
            state.waiting += events.waiting;
        }
        states.push(state);
    }
    Ok(states)
}

/// All consumers of a group on the events stream, however it reads.
pub async fn of_group(bus: &dyn Bus, names: &Names, group: &str) -> Result<Vec<ConsumerInfo>, Fault> {
    for layout in Slice::layouts() {
        let mut found = Vec::with_capacity(layout.len());
        for slice in layout {
            match bus.consumer(&names.events(), &Names::slice_consumer(group, slice)).await? {
                Some(info) => found.push(info),
                None => break,
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    info(bus, &names.events(), &Names::consumer(group)).await.map(|info| vec![info])
}

async fn info(bus: &dyn Bus, stream: &str, name: &str) -> Result<ConsumerInfo, Fault> {
    let missing = || Fault::new(Code::BrokerDown, format!("there is no consumer `{name}` on {stream}"));
    bus.consumer(stream, name).await?.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_made_again_goes_on_where_its_group_was() {
        let (first, second) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + time::Duration::SECOND);
        let stream = EventsStream { created: first, last_seq: 9 };
        let known = |created, settled| Some(Position { created, settled });
        for (known, made_now, wanted) in [
            (None, false, Start::New),
            // Nothing in it is older than the group, whether it was known or not.
            (None, true, Start::All),
            (known(first, 3), true, Start::All),
            (known(second, 3), false, Start::All),
            (known(first, 3), false, Start::At(4)),
            (known(first, 9), false, Start::At(10)),
            // The stream lost its end: numbers come again.
            (known(first, 10), false, Start::All),
        ] {
            assert_eq!(start(GroupKind::Patterns, known, stream, made_now), wanted, "{known:?} {made_now}");
        }
        assert_eq!(start(GroupKind::Inbox, None, stream, false), Start::All, "with what was parked");
        assert_eq!(start(GroupKind::Pool, known(first, 3), stream, false), Start::At(4));
    }
}
