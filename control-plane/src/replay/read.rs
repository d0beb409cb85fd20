//! Pages of history for sidecars: what a note can carry, and the rest of events that are larger than that.

use std::time::{Duration, SystemTime};

use agentbus_nats::read::{From, Query, Record};
use agentbus_nats::replay::{Ask, Page, Part, Stored};
use agentbus_nats::schedule;
use agentbus_proto::{Code, Fault};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::{Replays, scope};
use crate::control::Verb;

/// Events of one page.
const PAGE_MAX: usize = 256;
/// Payload bytes of one page, and of one part: as base64 within a JSON object that is well below what a broker takes.
const PAGE_BYTES_MAX: usize = 384 * 1024;

#[async_trait]
impl Verb for Replays {
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<Value, Fault> {
        let ask: Ask = serde_json::from_slice(request)
            .map_err(|error| Fault::new(Code::InvalidEvent, format!("unreadable replay request: {error}")))?;
        let answer = match ask.part {
            Some(part) => serde_json::to_value(self.part(agent, part).await?),
            None => serde_json::to_value(self.page(agent, ask).await?),
        };
        answer.map_err(|error| Fault::new(Code::InvalidEvent, error.to_string()))
    }
}

impl Replays {
    async fn page(&self, agent: &str, ask: Ask) -> Result<Page, Fault> {
        let names = &self.inner.names;
        let directory = self.inner.grants.groups().directory().clone();
        let filters = scope::filters(names.namespace(), &directory, agent, &ask.patterns)?;
        let to_seq = match ask.to_seq {
            Some(seq) => seq,
            None => self.last_seq().await?,
        };
        let from = match (ask.from_seq, ask.since_ns) {
            (Some(seq), _) => From::Seq(seq),
            (None, Some(nanos)) => From::Time(moment(nanos)),
            (None, None) => From::Seq(1),
        };
        let query = Query { filters, from, to_seq: Some(to_seq), limit: PAGE_MAX, ..Query::all() };
        let page = self.inner.bus.read(&names.events(), &query).await?;
        Ok(fit(page.records, page.next, to_seq, ask.until_ns.map(moment)))
    }

    async fn part(&self, agent: &str, part: Part) -> Result<Stored, Fault> {
        let gone = || Fault::new(Code::UnknownDelivery, format!("event {} is no longer stored", part.seq));
        let record = self.inner.bus.get(&self.inner.names.events(), part.seq).await?.ok_or_else(gone)?;
        let directory = self.inner.grants.groups().directory().clone();
        if !scope::sees(&directory, agent, &record.subject) {
            return Err(gone());
        }
        Ok(stored(&record, part.offset))
    }

    pub(super) async fn last_seq(&self) -> Result<u64, Fault> {
        let events = self.inner.names.events();
        let missing = || Fault::new(Code::BrokerDown, format!("there is no stream {events}"));
        Ok(self.inner.bus.stream(&events).await?.ok_or_else(missing)?.last_seq)
    }
}

/// As many as fit, at least one, none stored after `until`.
fn fit(records: Vec<Record>, next: Option<u64>, to_seq: u64, until: Option<SystemTime>) -> Page {
    let mut page = Page { events: Vec::new(), next, to_seq };
    let mut bytes = 0;
    for record in records {
        if until.is_some_and(|until| record.stored_at > until) {
            page.next = None;
            break;
        }
        bytes += record.payload.len();
        if bytes > PAGE_BYTES_MAX && !page.events.is_empty() {
            page.next = Some(record.seq);
            break;
        }
        page.events.push(stored(&record, 0));
    }
    page
}

fn stored(record: &Record, offset: usize) -> Stored {
    let event = as_read(record);
    // It comes from a sidecar: any number.
    let end = offset.saturating_add(PAGE_BYTES_MAX).min(event.len());
    let payload = STANDARD.encode(&event[offset.min(event.len())..end]);
    let since = record.stored_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let stored_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    Stored { seq: record.seq, stored_ns, bytes: event.len(), payload }
}

/// The event as its readers see it: an occurrence of a schedule with its own id.
pub(super) fn as_read(record: &Record) -> Bytes {
    schedule::event(&record.headers, &record.subject, record.stored_at, &record.payload)
}

fn moment(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn record(seq: u64, bytes: usize) -> Record {
        let stored_at = SystemTime::UNIX_EPOCH + Duration::from_secs(seq);
        Record { seq, subject: "s".into(), headers: HeaderMap::new(), payload: vec![0; bytes].into(), stored_at }
    }

    #[test]
    fn a_page_ends_where_it_is_full_or_over() {
        let seqs = |page: &Page| page.events.iter().map(|event| event.seq).collect::<Vec<_>>();
        let page = fit(vec![record(1, 300_000), record(2, 300_000), record(3, 1)], None, 9, None);
        assert_eq!((seqs(&page), page.next), (vec![1], Some(2)));
        let page = fit(vec![record(1, 1), record(5, 1), record(6, 1)], Some(7), 9, Some(moment(5_000_000_000)));
        assert_eq!((seqs(&page), page.next), (vec![1, 5], None));
        let page = fit(vec![record(1, 1)], Some(2), 9, None);
        assert_eq!((seqs(&page), page.next, page.to_seq), (vec![1], Some(2), 9));
    }

    #[test]
    fn a_large_event_comes_in_parts_that_are_the_whole() {
        let large = record(1, 1_000_000);
        let (mut got, mut offset) = (0, 0);
        while offset < large.payload.len() {
            let part = stored(&large, offset);
            assert!(part.payload.len() < 600_000 && part.bytes == 1_000_000);
            offset += STANDARD.decode(part.payload).unwrap().len();
            got += 1;
        }
        assert_eq!((got, offset), (3, 1_000_000));
        for beyond in [2_000_000, usize::MAX] {
            assert_eq!(stored(&large, beyond).payload, "");
        }
    }
}
