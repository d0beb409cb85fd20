//! Makes and updates the durable consumers of a group, and tells their state. Needs rights only the control plane has.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::{self, ErrorCode, consumer, stream::ConsumerErrorKind};
use serde::Serialize;

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

/// Makes a group's consumers, or updates them to the grant. Idempotent; never deletes one. `BROKER_DOWN` and `CAPACITY_EXCEEDED` may
/// pass; `INVALID_ADDRESS` (its patterns) and `BAD_CONFIG` (everything else of it) are for good.
pub async fn ensure(context: &jetstream::Context, names: &Names, group: &GroupGrant) -> Result<(), Fault> {
    let events = topology::events_consumer(names, group)?;
    upsert(context, &names.events(), events, &group.name).await?;
    upsert(context, &names.retry(), topology::retry_consumer(names, group), &group.name).await
}

async fn upsert(
    context: &jetstream::Context,
    stream: &str,
    mut wanted: consumer::pull::Config,
    group: &str,
) -> Result<(), Fault> {
    let name = wanted.name.clone().unwrap_or_default();
    let existing: Result<consumer::PullConsumer, _> = context.get_consumer_from_stream(&name, stream).await;
    if let Ok(existing) = existing {
        // Where a consumer starts is fixed for its life; everything else may change.
        wanted.deliver_policy = existing.cached_info().config.deliver_policy;
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
    let consumer: consumer::PullConsumer = context
        .get_consumer_from_stream(name, stream)
        .await
        .map_err(|error| Fault::new(Code::BrokerDown, format!("cannot read consumer `{name}` on {stream}: {error}")))?;
    Ok(consumer.cached_info().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

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
