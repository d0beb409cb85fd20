//! Reading what a stream holds, page by page, without taking anything.
//!
//! [`Query`], [`Record`] and [`Page`] say nothing of NATS. A page is read through a short-lived consumer that acks nothing;
//! the broker skips what the filters leave out, and sends headers only where that is enough. Needs rights only the control
//! plane and the person have.

use std::time::{Duration, SystemTime};

use agentbus_proto::{Code, Fault};
use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use futures_util::StreamExt;
use time::OffsetDateTime;

use crate::headers;

/// Most records of one page.
pub const PAGE_MAX: usize = 1000;
/// Most payload bytes of one page; one record is read all the same.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long the broker may take for a page.
const PAGE_WAIT: Duration = Duration::from_secs(5);
/// A reader that vanished leaves its consumer behind for so long.
const READER_LIFE: Duration = Duration::from_secs(10);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At this sequence, or the first one after it.
    Seq(u64),
    /// At the first message stored at or after this moment.
    Time(SystemTime),
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Subject filters that do not overlap; empty = everything.
    pub filters: Vec<String>,
    /// Where to begin.
    pub from: From,
    /// Last sequence wanted.
    pub to_seq: Option<u64>,
    /// Leave payloads out.
    pub headers_only: bool,
    /// Most records wanted; never more than [`PAGE_MAX`].
    pub limit: usize,
}

impl Query {
    /// Everything from the beginning.
    pub fn all() -> Self {
        Self { filters: Vec::new(), from: From::Seq(1), to_seq: None, headers_only: false, limit: PAGE_MAX }
    }
}

/// One stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Subject it was stored on.
    pub subject: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Payload; empty when only headers were asked for.
    pub payload: Bytes,
    /// When the broker stored it.
    pub stored_at: SystemTime,
}

impl Record {
    /// What it takes in its stream, in bytes; about, and whether its payload was read or not.
    pub fn stored_bytes(&self) -> u64 {
        let left_out = headers::get(Some(&self.headers), headers::PAYLOAD_BYTES).and_then(|text| text.parse().ok());
        let values = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
            let name: &str = name.as_ref();
            values.iter().map(|value| (name.len() + value.as_str().len() + 4) as u64).sum::<u64>()
        };
        let headers: u64 = self.headers.iter().map(values).sum();
        left_out.unwrap_or(self.payload.len() as u64) + headers + self.subject.len() as u64
    }
}

/// Part of what a query finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order in which they were stored.
    pub records: Vec<Record>,
    /// Where the next page begins; none when there is nothing more now.
    pub next: Option<u64>,
}

/// Reads one page. `BROKER_DOWN` when the broker does not answer, `INVALID_ADDRESS` for filters it does not take.
pub async fn page(context: &jetstream::Context, stream: &str, query: &Query) -> Result<Page, Fault> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Fault::new(Code::BrokerDown, format!("cannot read {stream}: {what}: {error}"))
    };
    let limit = query.limit.clamp(1, PAGE_MAX);
    let deliver_policy = match query.from {
        From::Seq(seq) => consumer::DeliverPolicy::ByStartSequence { start_sequence: seq.max(1) },
        From::Time(time) => consumer::DeliverPolicy::ByStartTime { start_time: moment(time) },
    };
    let config = consumer::pull::Config {
        deliver_policy,
        ack_policy: consumer::AckPolicy::None,
        filter_subjects: query.filters.clone(),
        headers_only: query.headers_only,
        inactive_threshold: READER_LIFE,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    let reader = context.create_consumer_on_stream(config, stream).await.map_err(|error| failed("reader", &error))?;
    let name = reader.cached_info().name.clone();
    let mut page = Page::default();
    let mut bytes = 0;
    let batch = reader.fetch().max_messages(limit).max_bytes(2 * PAGE_BYTES_MAX).messages();
    let mut messages = batch.await.map_err(|error| failed("page", &error))?;
    loop {
        let Ok(message) = tokio::time::timeout(PAGE_WAIT, messages.next()).await else {
            return Err(failed("page", &"no answer in time"));
        };
        let Some(message) = message else { break };
        let message = message.map_err(|error| failed("page", &error))?;
        let Some(receipt) = message.reply.clone().and_then(crate::ack::Receipt::parse) else { continue };
        if query.to_seq.is_some_and(|last| receipt.seq > last) {
            page.next = None;
            break;
        }
        bytes += message.payload.len();
        page.records.push(Record {
            seq: receipt.seq,
            subject: message.subject.to_string(),
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
            stored_at: receipt.stored_at,
        });
        let full = page.records.len() >= limit || bytes >= PAGE_BYTES_MAX;
        page.next = full.then_some(receipt.seq + 1);
        if full {
            break;
        }
    }
    let _ = context.delete_consumer_from_stream(name, stream).await;
    Ok(page)
}

/// A moment as the client library writes it. Ids and requests of agents may name any: what is beyond its calendar is its last
/// second.
fn moment(time: SystemTime) -> OffsetDateTime {
    /// The last second of the year 9999, since the Unix epoch.
    const LAST: u64 = 253_402_300_799;
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST);
    time.clamp(SystemTime::UNIX_EPOCH, last).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_moment_can_be_asked_for() {
        let made = agentbus_proto::id::made_at("ffffffff-ffff-7fff-bfff-ffffffffffff").unwrap();
        let ages = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::MAX);
        for time in [made, ages] {
            assert_eq!(moment(time).year(), 9999);
        }
        assert_eq!(moment(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(moment(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)).day(), 2);
    }
}
