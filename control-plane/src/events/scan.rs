//! Bounded walks over the events stream that look at headers only, and say how far they came.

use std::time::{Duration, Instant};

use agentbus_nats::bus::Bus;
use agentbus_nats::read::{From, PAGE_MAX, Query, Record};
use agentbus_proto::{Code, Fault};

use super::ids::Look;

/// Events looked at for one answer, in all.
pub(super) const SCANNED_MAX: u64 = 200_000;
/// Time for one walk: a sidecar waits 5 s for its answer.
const WALK_MAX: Duration = Duration::from_millis(2500);

/// What a walk is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The first that fits.
    One,
    /// All that fit, this many at most.
    UpTo(usize),
}

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Found {
    /// In the order in which they were stored; payloads are left out.
    pub records: Vec<Record>,
    /// How many were looked at.
    pub scanned: u64,
    /// Nothing that could fit was left out.
    pub complete: bool,
}

/// Walks `stream` as `look` says, and keeps what fits.
pub(super) async fn walk(
    bus: &dyn Bus,
    stream: &str,
    look: Look,
    wanted: Wanted,
    fits: impl Fn(&Record) -> bool,
) -> Result<Found, Fault> {
    match look {
        Look::Forward(from) => forward(bus, stream, from, wanted, fits).await,
        Look::Backward => backward(bus, stream, wanted, fits).await,
    }
}

async fn forward(
    bus: &dyn Bus,
    stream: &str,
    from: From,
    wanted: Wanted,
    fits: impl Fn(&Record) -> bool,
) -> Result<Found, Fault> {
    let (mut found, began) = (Found::default(), Instant::now());
    let mut query = Query { from, headers_only: true, ..Query::all() };
    loop {
        let page = bus.read(stream, &query).await?;
        found.scanned += page.records.len() as u64;
        for record in page.records.into_iter().filter(|record| fits(record)) {
            found.records.push(record);
            if wanted == Wanted::One || found.is_full(wanted) {
                found.complete = wanted == Wanted::One;
                return Ok(found);
            }
        }
        let Some(next) = page.next else {
            found.complete = true;
            return Ok(found);
        };
        if found.scanned >= SCANNED_MAX || began.elapsed() >= WALK_MAX {
            return Ok(found);
        }
        query.from = From::Seq(next);
    }
}

async fn backward(bus: &dyn Bus, stream: &str, wanted: Wanted, fits: impl Fn(&Record) -> bool) -> Result<Found, Fault> {
    let (mut found, began) = (Found::default(), Instant::now());
    let info = bus.stream(stream).await?.ok_or_else(|| gone(stream))?;
    let (first, mut last) = (info.first_seq.max(1), info.last_seq);
    while last >= first {
        let from = (last + 1).saturating_sub(PAGE_MAX as u64).max(first);
        let query = Query { from: From::Seq(from), to_seq: Some(last), headers_only: true, ..Query::all() };
        let page = bus.read(stream, &query).await?;
        found.scanned += page.records.len() as u64;
        for record in page.records.into_iter().rev().filter(|record| fits(record)) {
            found.records.push(record);
            if wanted == Wanted::One || found.is_full(wanted) {
                found.complete = wanted == Wanted::One;
                found.records.reverse();
                return Ok(found);
            }
        }
        if from == first {
            break;
        }
        last = from - 1;
        if found.scanned >= SCANNED_MAX || began.elapsed() >= WALK_MAX {
            found.records.reverse();
            return Ok(found);
        }
    }
    found.complete = true;
    found.records.reverse();
    Ok(found)
}

impl Found {
    fn is_full(&self, wanted: Wanted) -> bool {
        matches!(wanted, Wanted::UpTo(most) if self.records.len() >= most)
    }
}

/// The fault for a stream that is not there.
pub(super) fn gone(stream: &str) -> Fault {
    Fault::new(Code::BrokerDown, format!("the broker has no stream `{stream}`; `agentbus streams plan` shows why"))
}
