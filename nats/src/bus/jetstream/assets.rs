//! Streams and consumers on JetStream, and what the broker's refusals amount to.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{ConsumerErrorKind, Info};
use async_nats::jetstream::{Context, ErrorCode, consumer};
use futures_util::{StreamExt, TryStreamExt};

use super::super::{ConsumerInfo, StreamInfo};

pub(super) async fn stream_names(context: &Context) -> Result<Vec<String>, Fault> {
    context.stream_names().try_collect().await.map_err(|error| refused("streams", "list", &error))
}

pub(super) async fn stream(context: &Context, name: &str) -> Result<Option<StreamInfo>, Fault> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone().into())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(refused(name, "read", &error)),
        },
    }
}

pub(super) async fn subjects(context: &Context, stream: &str, filter: &str) -> Result<Vec<(String, u64)>, Fault> {
    let why = |error: &dyn std::fmt::Display| Fault::new(Code::BrokerDown, format!("cannot count `{stream}`: {error}"));
    let handle = context.get_stream_no_info(stream).await.map_err(|error| why(&error))?;
    let counted = handle.info_with_subjects(filter).await.map_err(|error| why(&error))?;
    let counted: Vec<(String, usize)> = counted.try_collect().await.map_err(|error| why(&error))?;
    Ok(counted.into_iter().map(|(subject, count)| (subject, count as u64)).collect())
}

/// None only when the broker says that it, or its stream, does not exist.
pub(super) async fn consumer(context: &Context, stream: &str, name: &str) -> Result<Option<ConsumerInfo>, Fault> {
    let found: Result<consumer::PullConsumer, _> = context.get_consumer_from_stream(name, stream).await;
    match found {
        Ok(consumer) => Ok(Some(consumer.cached_info().clone().into())),
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

pub(super) async fn consumers(context: &Context, stream: &str, max: usize) -> Result<Vec<ConsumerInfo>, Fault> {
    let why = |error: &dyn std::fmt::Display| {
        Fault::new(Code::BrokerDown, format!("cannot list the groups on `{stream}`: {error}"))
    };
    let handle = context.get_stream_no_info(stream).await.map_err(|error| why(&error))?;
    let listed: Vec<consumer::Info> = handle.consumers().take(max).try_collect().await.map_err(|error| why(&error))?;
    Ok(listed.into_iter().map(Into::into).collect())
}

pub(super) async fn put_consumer(context: &Context, stream: &str, config: consumer::pull::Config) -> Result<(), Fault> {
    context.create_consumer_on_stream(config, stream).await.map(drop).map_err(|error| {
        let mut fault = Fault::new(code_of(&error.kind()), error.to_string());
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

pub(super) fn refused(name: &str, verb: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !why.contains(&cause_text) {
            why = format!("{why}: {cause_text}");
        }
        source = cause.source();
    }
    if why.contains("10047") || why.contains("insufficient storage") {
        why.push_str(" (the broker's storage quota is smaller than the streams: raise it or free disk space)");
        return Fault::new(Code::CapacityExceeded, format!("cannot {verb} `{name}`: {why}"));
    }
    Fault::new(Code::BrokerDown, format!("cannot {verb} `{name}`: {why}"))
}

impl From<Info> for StreamInfo {
    fn from(info: Info) -> Self {
        let Info { config, created, state, .. } = info;
        Self {
            config,
            created,
            messages: state.messages,
            bytes: state.bytes,
            first_seq: state.first_sequence,
            last_seq: state.last_sequence,
            consumers: state.consumer_count,
        }
    }
}

impl From<consumer::Info> for ConsumerInfo {
    fn from(info: consumer::Info) -> Self {
        Self {
            delivered: info.delivered.stream_sequence,
            floor: info.ack_floor.stream_sequence,
            pending: info.num_pending,
            ack_pending: info.num_ack_pending as u64,
            redelivered: info.num_redelivered as u64,
            waiting: info.num_waiting as u64,
            name: info.name,
            stream: info.stream_name,
            config: info.config,
            created: info.created,
        }
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream;

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
