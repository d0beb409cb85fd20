//! Makes and updates the durable consumers of a group, and tells their state. Needs rights only the control plane has.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::{self, ErrorCode, consumer, stream::ConsumerErrorKind};
use serde::Serialize;
use time::OffsetDateTime;

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
pub async fn ensure(context: &jetstream::Context, names: &Names, group: &GroupGrant) -> Result<(), Fault> {
    ensure_from(context, names, group, Start::New).await
}

/// As [`ensure`]; a consumer on the events stream that is missing begins at `start`.
pub async fn ensure_from(
    context: &jetstream::Context,
    names: &Names,
    group: &GroupGrant,
    start: Start,
) -> Result<(), Fault> {
    let mut events = topology::events_consumer(names, group)?;
    events.deliver_policy = match start {
        Start::New => consumer::DeliverPolicy::New,
        Start::All => consumer::DeliverPolicy::All,
        Start::At(start_sequence) => consumer::DeliverPolicy::ByStartSequence { start_sequence },
    };
    upsert(context, &names.events(), events, &group.name).await?;
    upsert(context, &names.retry(), topology::retry_consumer(names, group), &group.name).await
}

/// The events stream now. `BROKER_DOWN` when it cannot be read.
pub async fn events_stream(context: &jetstream::Context, names: &Names) -> Result<EventsStream, Fault> {
    let name = names.events();
    let unreadable =
        |error: &dyn std::fmt::Display| Fault::new(Code::BrokerDown, format!("cannot read {name}: {error}"));
    let stream = context.get_stream(&name).await.map_err(|error| unreadable(&error))?;
    let info = stream.cached_info();
    Ok(EventsStream { created: info.created, last_seq: info.state.last_sequence })
}

/// How far a group has come in `stream`; none when one of its consumers is missing.
pub async fn position(
    context: &jetstream::Context,
    names: &Names,
    group: &str,
    stream: EventsStream,
) -> Result<Option<Position>, Fault> {
    let Some(events) = find(context, &names.events(), &Names::consumer(group)).await? else { return Ok(None) };
    let retry = find(context, &names.retry(), &Names::retry_consumer(group)).await?;
    Ok(retry.map(|_| Position { created: stream.created, settled: events.ack_floor.stream_sequence }))
}

async fn upsert(
    context: &jetstream::Context,
    stream: &str,
    mut wanted: consumer::pull::Config,
    group: &str,
) -> Result<(), Fault> {
    let name = wanted.name.clone().unwrap_or_default();
    if let Some(existing) = find(context, stream, &name).await? {
        // Where a consumer starts is fixed for its life; everything else may change.
        wanted.deliver_policy = existing.config.deliver_policy;
    }
    context.create_consumer_on_stream(wanted, stream).await.map(drop).map_err(|error| {
        let mut fault = Fault::new(
            code_of(&error.kind()),
            format!("cannot make the consumer of group `{group}` on {stream}: {error}"),
        );
        if let Some(source) = std::error::Error::source(&error) {
            fault.message = format!("{}: {source}", fault.message);
        }
        fault
    })
}

/// What a refusal amounts to. Only what the broker says itself can be for good.
fn code_of(kind: &ConsumerErrorKind) -> Code {
    match kind {
        ConsumerErrorKind::JetStream(error) => match error.error_code() {
            ErrorCode::CONSUMER_FILTER_NOT_SUBSET
            | ErrorCode::CONSUMER_DUPLICATE_FILTER_SUBJECTS
            | ErrorCode::CONSUMER_OVERLAPPING_SUBJECT_FILTERS
            | ErrorCode::CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED
            | ErrorCode::CONSUMER_EMPTY_FILTER => Code::InvalidAddress,
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::MAXIMUM_CONSUMERS_LIMIT
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED => Code::CapacityExceeded,
            // An update that the broker does not allow comes as this, with status 500.
            ErrorCode::CONSUMER_CREATE => Code::BadConfig,
            _ if error.code() == 400 => Code::BadConfig,
            // No such stream yet, no leader, no disk.
            _ => Code::BrokerDown,
        },
        ConsumerErrorKind::InvalidName | ConsumerErrorKind::InvalidConsumerType => Code::BadConfig,
        _ => Code::BrokerDown,
    }
}

/// The states of these groups, for `status` and the metrics.
pub async fn states(context: &jetstream::Context, names: &Names, groups: &[String]) -> Result<Vec<GroupState>, Fault> {
    let mut states = Vec::with_capacity(groups.len());
    for group in groups {
        let events = info(context, &names.events(), &Names::consumer(group)).await?;
        let retry = info(context, &names.retry(), &Names::retry_consumer(group)).await?;
        states.push(GroupState {
            group: group.clone(),
            lag: events.num_pending,
            in_flight: events.num_ack_pending as u64,
            redelivered: events.num_redelivered as u64,
            retrying: retry.num_pending + retry.num_ack_pending as u64,
            waiting: events.num_waiting as u64,
        });
    }
    Ok(states)
}

async fn info(context: &jetstream::Context, stream: &str, name: &str) -> Result<consumer::Info, Fault> {
    let missing = || Fault::new(Code::BrokerDown, format!("there is no consumer `{name}` on {stream}"));
    find(context, stream, name).await?.ok_or_else(missing)
}

/// A consumer's state; none only when the broker says that it, or its stream, does not exist.
async fn find(context: &jetstream::Context, stream: &str, name: &str) -> Result<Option<consumer::Info>, Fault> {
    let found: Result<consumer::PullConsumer, _> = context.get_consumer_from_stream(name, stream).await;
    match found {
        Ok(consumer) => Ok(Some(consumer.cached_info().clone())),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(refusal)
                if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND].contains(&refusal.error_code()) =>
            {
                Ok(None)
            }
            _ => Err(Fault::new(Code::BrokerDown, format!("cannot read consumer `{name}` on {stream}: {error}"))),
        },
    }
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

    #[test]
    fn a_refusal_for_good_is_told_from_one_that_passes() {
        let check = |status: u16, number: u64, wanted: Code| {
            let answer = serde_json::json!({"code": status, "err_code": number, "description": "d"});
            let error: jetstream::Error = serde_json::from_value(answer).unwrap();
            assert_eq!(code_of(&ConsumerErrorKind::JetStream(error)), wanted, "{number}");
        };
        check(400, 10138, Code::InvalidAddress);
        check(400, 10093, Code::InvalidAddress);
        check(400, 10026, Code::CapacityExceeded);
        check(500, 10012, Code::BadConfig);
        check(400, 10094, Code::BadConfig);
        check(404, 10059, Code::BrokerDown);
        check(503, 10008, Code::BrokerDown);
        check(500, 10104, Code::BrokerDown);
        assert_eq!(code_of(&ConsumerErrorKind::TimedOut), Code::BrokerDown);
        assert_eq!(code_of(&ConsumerErrorKind::InvalidName), Code::BadConfig);
    }
}
