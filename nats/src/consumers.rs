//! Makes and updates the durable consumers of a group, and tells their state. Needs rights only the control plane has.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::consumer;
use serde::Serialize;
use time::OffsetDateTime;

use crate::bus::{Bus, ConsumerInfo};
use crate::grant::GroupGrant;
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
pub fn start(known: Option<Position>, stream: EventsStream, made_now: bool) -> Start {
    match known {
        _ if made_now => Start::All,
        None => Start::New,
        Some(known) if known.created != stream.created || known.settled > stream.last_seq => Start::All,
        Some(known) => Start::At(known.settled + 1),
    }
}

/// Makes a group's consumers, or updates them to the grant; new ones begin with what comes from now on. Idempotent; never
/// deletes one. `BROKER_DOWN` and `CAPACITY_EXCEEDED` may pass; `INVALID_ADDRESS` (its patterns) and `BAD_CONFIG`
/// (everything else of it) are for good.
pub async fn ensure(bus: &dyn Bus, names: &Names, group: &GroupGrant) -> Result<(), Fault> {
    ensure_from(bus, names, group, Start::New).await
}

/// As [`ensure`]; a consumer on the events stream that is missing begins at `start`.
pub async fn ensure_from(bus: &dyn Bus, names: &Names, group: &GroupGrant, start: Start) -> Result<(), Fault> {
    let mut events = topology::events_consumer(names, group)?;
    events.deliver_policy = match start {
        Start::New => consumer::DeliverPolicy::New,
        Start::All => consumer::DeliverPolicy::All,
        Start::At(start_sequence) => consumer::DeliverPolicy::ByStartSequence { start_sequence },
    };
    upsert(bus, &names.events(), events, &group.name).await?;
    upsert(bus, &names.retry(), topology::retry_consumer(names, group), &group.name).await
}

/// The events stream now. `BROKER_DOWN` when it cannot be read.
pub async fn events_stream(bus: &dyn Bus, names: &Names) -> Result<EventsStream, Fault> {
    let name = names.events();
    let missing = || Fault::new(Code::BrokerDown, format!("cannot read {name}: there is no such stream"));
    let info = bus.stream(&name).await?.ok_or_else(missing)?;
    Ok(EventsStream { created: info.created, last_seq: info.last_seq })
}

/// How far a group has come in `stream`; none when one of its consumers is missing.
pub async fn position(
    bus: &dyn Bus,
    names: &Names,
    group: &str,
    stream: EventsStream,
) -> Result<Option<Position>, Fault> {
    let Some(events) = bus.consumer(&names.events(), &Names::consumer(group)).await? else { return Ok(None) };
    let retry = bus.consumer(&names.retry(), &Names::retry_consumer(group)).await?;
    Ok(retry.map(|_| Position { created: stream.created, settled: events.floor }))
}

async fn upsert(bus: &dyn Bus, stream: &str, mut wanted: consumer::pull::Config, group: &str) -> Result<(), Fault> {
    let name = wanted.name.clone().unwrap_or_default();
    if let Some(existing) = bus.consumer(stream, &name).await? {
        // Where a consumer starts is fixed for its life; everything else may change.
        wanted.deliver_policy = existing.config.deliver_policy;
    }
    bus.put_consumer(stream, wanted).await.map_err(|mut fault| {
        fault.message = format!("cannot make the consumer of group `{group}` on {stream}: {}", fault.message);
        fault
    })
}

/// The states of these groups, for `status` and the metrics.
pub async fn states(bus: &dyn Bus, names: &Names, groups: &[String]) -> Result<Vec<GroupState>, Fault> {
    let mut states = Vec::with_capacity(groups.len());
    for group in groups {
        let events = info(bus, &names.events(), &Names::consumer(group)).await?;
        let retry = info(bus, &names.retry(), &Names::retry_consumer(group)).await?;
        states.push(GroupState {
            group: group.clone(),
            lag: events.pending,
            in_flight: events.ack_pending,
            redelivered: events.redelivered,
            retrying: retry.pending + retry.ack_pending,
            waiting: events.waiting,
        });
    }
    Ok(states)
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
            assert_eq!(start(known, stream, made_now), wanted, "{known:?} {made_now}");
        }
    }
}
