//! What a stream tells: pages of records, its state, that of its consumers. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;

use async_nats::jetstream::stream::Config;

use super::bucket::Bucket;
use super::cursor::{self, Cursor};
use super::filter;
use super::log::{Kept, Log};
use crate::bus::{ConsumerInfo, StreamInfo};
use crate::headers;
use crate::read::{From, PAGE_BYTES_MAX, PAGE_MAX, Page, Query, Record};

/// One page.
pub(super) fn page(log: &Log, query: &Query) -> Page {
    let start = match query.from {
        From::Seq(seq) => seq,
        From::Time(time) => cursor::at_time(log, time),
    };
    let (limit, mut bytes) = (query.limit.clamp(1, PAGE_MAX), 0);
    let mut page = Page::default();
    for (seq, kept) in log.records.range((Bound::Included(start), Bound::Unbounded)) {
        if query.to_seq.is_some_and(|last| *seq > last) {
            break;
        }
        if !filter::any(&query.filters, &kept.subject) {
            continue;
        }
        let mut record = record(*seq, kept);
        if query.headers_only {
            record.headers.insert(headers::PAYLOAD_BYTES, record.payload.len().to_string());
            record.payload.clear();
        }
        bytes += record.payload.len();
        page.records.push(record);
        if page.records.len() >= limit || bytes >= PAGE_BYTES_MAX {
            page.next = Some(seq + 1);
            break;
        }
    }
    page
}

pub(super) fn record(seq: u64, kept: &Kept) -> Record {
    let (headers, payload) = (kept.headers.clone(), kept.payload.clone());
    Record { seq, subject: kept.subject.to_string(), headers, payload, stored_at: kept.at }
}

/// The first record at or behind `seq` that matches.
pub(super) fn find(log: &Log, wanted: &str, seq: u64) -> Option<Record> {
    let mut ahead = log.records.range((Bound::Included(seq), Bound::Unbounded));
    ahead.find(|(_, kept)| filter::matches(wanted, &kept.subject)).map(|(seq, kept)| record(*seq, kept))
}

/// How many records each matching subject has.
pub(super) fn subjects(log: &Log, wanted: &str) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for kept in log.records.values().filter(|kept| filter::matches(wanted, &kept.subject)) {
        *counts.entry(kept.subject.as_str()).or_default() += 1;
    }
    counts.into_iter().map(|(subject, count)| (subject.to_owned(), count)).collect()
}

pub(super) fn stream_info(log: &Log) -> StreamInfo {
    StreamInfo {
        config: log.config.clone(),
        created: log.created.into(),
        messages: log.records.len() as u64,
        bytes: log.bytes,
        first_seq: log.first_seq(),
        last_seq: log.last_seq,
        consumers: log.cursors.len(),
    }
}

/// A bucket as the stream that it is on a broker.
pub(super) fn bucket_info(name: &str, bucket: &Bucket) -> StreamInfo {
    StreamInfo {
        config: Config { name: name.to_owned(), max_bytes: bucket.config.max_bytes, ..Config::default() },
        created: time::OffsetDateTime::UNIX_EPOCH,
        messages: bucket.keys().len() as u64,
        bytes: bucket.bytes(),
        first_seq: 1,
        last_seq: bucket.revision,
        consumers: 0,
    }
}

pub(super) fn consumer_info(stream: &str, name: &str, log: &Log, cursor: &Cursor, waiting: u64) -> ConsumerInfo {
    ConsumerInfo {
        name: name.to_owned(),
        stream: stream.to_owned(),
        config: cursor.config.clone(),
        created: cursor.created.into(),
        delivered: cursor.delivered,
        floor: cursor.floor,
        pending: cursor.pending(log),
        ack_pending: cursor.ack_pending(),
        redelivered: cursor.redelivered(),
        waiting,
    }
}
