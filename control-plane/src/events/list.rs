//! The events stream for people who watch: a page of it, from a number, a moment, or the last so many; waits for more.

use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_nats::read::{From, PAGE_MAX, Query, Record};
use agentbus_nats::{pattern, schedule, subject};
use agentbus_proto::event::v1::Event;
use agentbus_proto::json::{content, event_to_json};
use agentbus_proto::{Code, Fault};
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::scan::{SCANNED_MAX, gone};
use super::service::Events;

/// Events of one answer unless told otherwise.
const LIMIT_DEFAULT: usize = 100;
/// Longest wait for more.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Without a word from the bus the stream is looked at all the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    /// Begin at this number; goes before all others.
    pub from_seq: Option<u64>,
    /// Begin with what was stored at this moment, RFC 3339.
    pub since: Option<String>,
    /// Begin with the last so many that match. Without any beginning: with what comes from now on.
    pub last: Option<usize>,
    /// Address patterns, commas between; empty = everything.
    pub pattern: String,
    /// Most events of the answer; at most 1000.
    pub limit: Option<usize>,
    /// Wait so long for the first one, in milliseconds.
    pub wait_ms: u64,
}

/// One stored event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listed {
    /// Its stream.
    pub stream: String,
    /// Its number there.
    pub seq: u64,
    /// When the broker stored it, RFC 3339.
    pub stored_at: String,
    /// The event in its JSON form; null when the payload is none.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub event: Value,
    /// Why the payload is no event.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub undecodable: String,
    /// The payload that is no event, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub payload_base64: String,
}

/// A part of the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listing {
    /// In the order in which they were stored.
    pub events: Vec<Listed>,
    /// Go on with this as `from_seq`.
    pub next: u64,
    /// There was more when this was read.
    pub more: bool,
}

impl Events {
    /// See [`list`].
    pub async fn list(&self, query: &ListQuery) -> Result<Listing, Fault> {
        list(self.bus(), self.names(), query).await
    }
}

/// Lists what is stored, and waits for more if nothing is. Needs the rights of the control plane or the person.
pub async fn list(bus: &dyn Bus, names: &Names, query: &ListQuery) -> Result<Listing, Fault> {
    let stream = names.events();
    let patterns: Vec<String> = query.pattern.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let filters = match patterns.as_slice() {
        [] => Vec::new(),
        patterns => pattern::filters(names.namespace(), patterns)?,
    };
    let end = Instant::now() + Duration::from_millis(query.wait_ms).min(WAIT_MAX);
    // Before the first look, so that nothing is stored unheard in between.
    let mut heard = match query.wait_ms {
        0 => None,
        _ => Some(bus.subscribe(&subject::events(names.namespace()), None).await?),
    };
    let mut wanted = Query {
        from: begin(bus, &stream, query, &filters).await?,
        limit: query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, PAGE_MAX),
        filters,
        ..Query::all()
    };
    loop {
        let last_seq = bus.stream(&stream).await?.ok_or_else(|| gone(&stream))?.last_seq;
        let page = bus.read(&stream, &wanted).await?;
        let late = Instant::now() >= end;
        let Some(heard) = heard.as_mut().filter(|_| page.records.is_empty() && !late) else {
            let after = page.records.last().map_or(0, |record| record.seq + 1);
            let next = page.next.unwrap_or(after.max(last_seq + 1));
            let more = page.next.is_some();
            let events = page.records.into_iter().map(|record| listed(&stream, record)).collect();
            return Ok(Listing { events, next, more });
        };
        // What is before this was looked at.
        wanted.from = later(wanted.from, last_seq + 1);
        let wake = end.min(Instant::now() + LOOK_EVERY);
        let _ = tokio::time::timeout_at(wake, heard.next()).await;
    }
}

async fn begin(bus: &dyn Bus, stream: &str, query: &ListQuery, filters: &[String]) -> Result<From, Fault> {
    if let Some(seq) = query.from_seq {
        return Ok(From::Seq(seq.max(1)));
    }
    if let Some(since) = &query.since {
        let at = OffsetDateTime::parse(since, &Rfc3339).map_err(|error| {
            Fault::new(Code::InvalidEvent, format!("`since` is no moment such as 2026-11-20T10:00:00Z: {error}"))
        })?;
        return Ok(From::Time(SystemTime::from(at)));
    }
    let info = bus.stream(stream).await?.ok_or_else(|| gone(stream))?;
    match query.last {
        Some(last) if last > 0 => last_of(bus, stream, filters, last, info.first_seq.max(1), info.last_seq).await,
        _ => Ok(From::Seq(info.last_seq + 1)),
    }
}

/// Where the last `wanted` matching events begin.
async fn last_of(
    bus: &dyn Bus,
    stream: &str,
    filters: &[String],
    wanted: usize,
    first: u64,
    end: u64,
) -> Result<From, Fault> {
    // All from here on was looked at.
    let (mut begin, mut found) = (end + 1, 0);
    while begin > first && end + 1 - begin < SCANNED_MAX {
        let from = begin.saturating_sub(PAGE_MAX as u64).max(first);
        let query = Query {
            filters: filters.to_vec(),
            from: From::Seq(from),
            to_seq: Some(begin - 1),
            headers_only: true,
            limit: PAGE_MAX,
        };
        let page = bus.read(stream, &query).await?;
        if let Some(at) = page.records.iter().rev().nth(wanted - found - 1) {
            return Ok(From::Seq(at.seq));
        }
        found += page.records.len();
        begin = from;
    }
    Ok(From::Seq(begin))
}

fn later(from: From, seq: u64) -> From {
    match from {
        From::Seq(at) => From::Seq(at.max(seq)),
        // A moment in the future stays one.
        From::Time(at) if at > SystemTime::now() => From::Time(at),
        From::Time(_) => From::Seq(seq),
    }
}

fn listed(stream: &str, record: Record) -> Listed {
    let base = Listed {
        stream: stream.to_owned(),
        seq: record.seq,
        stored_at: rfc3339(record.stored_at),
        ..Listed::default()
    };
    let payload = schedule::event(&record.headers, &record.subject, record.stored_at, &record.payload);
    match Event::decode(payload) {
        Ok(event) => Listed { event: event_to_json(&event), ..base },
        Err(error) => {
            Listed { undecodable: error.to_string(), payload_base64: content::to_base64(&record.payload), ..base }
        }
    }
}
