//! Single records of a stream on JetStream: looked at, found, removed.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DeleteMessageErrorKind, DirectGetErrorKind, RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};

use crate::read::Record;

/// By the stream's leader, so that what was just stored is there.
pub(super) async fn get(context: &Context, stream: &str, seq: u64) -> Result<Option<Record>, Fault> {
    // The broker takes 0 for a request that names none, and refuses it.
    if seq == 0 {
        return Ok(None);
    }
    match open(context, stream).await?.get_raw_message(seq).await {
        Ok(message) => Ok(Some(message.into())),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(unreadable(stream, &error)),
    }
}

pub(super) async fn find(context: &Context, stream: &str, filter: &str, seq: u64) -> Result<Option<Record>, Fault> {
    match open(context, stream).await?.direct_get_next_for_subject(filter, Some(seq.max(1))).await {
        Ok(message) => Ok(Some(message.into())),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(stream, &error)),
    }
}

pub(super) async fn purge(context: &Context, stream: &str, below: u64, filter: Option<&str>) -> Result<u64, Fault> {
    // "Up to number 0 or 1" is nothing, but to the broker it means everything.
    if below <= 1 {
        return Ok(0);
    }
    let stream_name = stream;
    let purge = open(context, stream).await?;
    let purged = match filter {
        Some(filter) => purge.purge().filter(filter).sequence(below).await,
        None => purge.purge().sequence(below).await,
    };
    let failed = |error| Fault::new(Code::BrokerDown, format!("cannot purge `{stream_name}`: {error}"));
    purged.map(|answer| answer.purged).map_err(failed)
}

pub(super) async fn delete(context: &Context, stream: &str, seq: u64) -> Result<bool, Fault> {
    match open(context, stream).await?.delete_message(seq).await {
        Ok(done) => Ok(done),
        Err(error) => match error.kind() {
            DeleteMessageErrorKind::JetStream(why)
                if [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::STREAM_MESSAGE_DELETE_FAILED]
                    .contains(&why.error_code()) =>
            {
                Ok(false)
            }
            _ => Err(Fault::new(Code::BrokerDown, format!("cannot delete {seq} from `{stream}`: {error}"))),
        },
    }
}

async fn open(context: &Context, stream: &str) -> Result<Stream<()>, Fault> {
    context.get_stream_no_info(stream).await.map_err(|error| unreadable(stream, &error))
}

impl From<StreamMessage> for Record {
    fn from(message: StreamMessage) -> Self {
        let StreamMessage { subject, sequence, headers, payload, time } = message;
        Self { seq: sequence, subject: subject.to_string(), headers, payload, stored_at: time.into() }
    }
}

/// Says which stream could not be read; the broker is there for everything else, so it may be tried again.
fn unreadable(stream: &str, error: &dyn std::error::Error) -> Fault {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Fault::new(Code::BrokerDown, format!("cannot read `{stream}`: {error}{cause}"))
        .with_retry_after(std::time::Duration::from_secs(1))
}
