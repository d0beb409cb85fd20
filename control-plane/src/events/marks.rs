//! What retries, dead letters and receipts say about events, read from their streams and sorted by event and group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::moves::Origin;
use agentbus_nats::names::Names;
use agentbus_nats::read::{From, Query, Record};
use agentbus_nats::{headers, subject};
use agentbus_proto::Fault;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::decide::{Letter, Receipt, Waiting};
use crate::dead_letters::DeadLetters;

/// Waiting copies looked at, in all groups together.
const COPIES_MAX: usize = 5_000;
/// Pages of dead letters looked at.
const LETTER_PAGES_MAX: usize = 20;
/// Receipts of so many events are asked for at once: each is a filter.
const FILTERS_MAX: usize = 64;

/// What was said, by number of the event and group.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Copies in the retry stream.
    pub waiting: BTreeMap<(u64, String), Vec<Waiting>>,
    /// Dead letters.
    pub letters: BTreeMap<(u64, String), Vec<Letter>>,
    /// Receipts.
    pub receipts: BTreeMap<(u64, String), Vec<Receipt>>,
    /// Not everything was looked at.
    pub cut: bool,
}

/// Where the marks are read.
pub(super) struct Reader<'a> {
    pub bus: &'a dyn Bus,
    pub names: &'a Names,
    pub dead_letters: &'a DeadLetters,
}

impl Reader<'_> {
    /// All marks on these events; none of them is older than `since`.
    pub async fn read(&self, seqs: &BTreeSet<u64>, since: SystemTime) -> Result<Marks, Fault> {
        let mut marks = Marks::default();
        self.receipts(seqs, &mut marks).await?;
        self.letters(seqs, since, &mut marks).await?;
        // Last: what moves on meanwhile is seen twice rather than not at all.
        self.copies(seqs, &mut marks).await?;
        Ok(marks)
    }

    async fn receipts(&self, seqs: &BTreeSet<u64>, marks: &mut Marks) -> Result<(), Fault> {
        let stream = self.names.receipts();
        if self.bus.stream(&stream).await?.is_none() {
            return Ok(());
        }
        let ns = self.names.namespace();
        let filters: Vec<String> = seqs.iter().map(|seq| subject::receipts(ns, Some(*seq))).collect();
        for filters in filters.chunks(FILTERS_MAX) {
            let mut query = Query { filters: filters.to_vec(), headers_only: true, ..Query::all() };
            loop {
                let page = self.bus.read(&stream, &query).await?;
                for record in &page.records {
                    let Some((seq, group, receipt)) = receipt(record) else { continue };
                    marks.receipts.entry((seq, group)).or_default().push(receipt);
                }
                match page.next {
                    Some(next) => query.from = From::Seq(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn letters(&self, seqs: &BTreeSet<u64>, since: SystemTime, marks: &mut Marks) -> Result<(), Fault> {
        let stream = self.names.dead_letters();
        let mut query = Query { from: From::Time(since), headers_only: true, ..Query::all() };
        for round in 0.. {
            let page = self.bus.read(&stream, &query).await?;
            for record in &page.records {
                let Some(seq) = self.origin(record).filter(|seq| seqs.contains(seq)) else { continue };
                let Some((group, mut letter)) = letter(record) else { continue };
                letter.redriven = self.dead_letters.redriven(record.seq, record.stored_at).await?;
                marks.letters.entry((seq, group)).or_default().push(letter);
            }
            match page.next {
                Some(_) if round + 1 >= LETTER_PAGES_MAX => {
                    marks.cut = true;
                    break;
                }
                Some(next) => query.from = From::Seq(next),
                None => break,
            }
        }
        Ok(())
    }

    /// A work queue takes no readers beside its groups: its messages are fetched one after the other.
    async fn copies(&self, seqs: &BTreeSet<u64>, marks: &mut Marks) -> Result<(), Fault> {
        let (stream, filter) = (self.names.retry(), subject::retries(self.names.namespace()));
        let mut at = 1;
        for _ in 0..COPIES_MAX {
            let Some(record) = self.bus.find(&stream, &filter, at).await? else { return Ok(()) };
            at = record.seq + 1;
            let Some(seq) = self.origin(&record).filter(|seq| seqs.contains(seq)) else { continue };
            let Some((group, copy)) = waiting(&record) else { continue };
            marks.waiting.entry((seq, group)).or_default().push(copy);
        }
        marks.cut = true;
        Ok(())
    }

    /// Number of the event in the events stream that a copy was made of.
    fn origin(&self, record: &Record) -> Option<u64> {
        let origin = Origin::parse(headers::get(Some(&record.headers), headers::ORIGIN)?)?;
        (origin.stream == self.names.events()).then_some(origin.seq)
    }
}

fn text(record: &Record, name: &'static str) -> String {
    headers::get(Some(&record.headers), name).unwrap_or_default().to_owned()
}

fn token(record: &Record, at: usize) -> Option<String> {
    record.subject.split('.').nth(at).map(str::to_owned)
}

fn waiting(record: &Record) -> Option<(String, Waiting)> {
    let due = OffsetDateTime::parse(&text(record, headers::NOT_BEFORE), &Rfc3339).ok();
    let cause = text(record, headers::CAUSE);
    let attempt = text(record, headers::ATTEMPT).parse().unwrap_or(0);
    let first = attempt == 1 && cause.is_empty() && headers::get(Some(&record.headers), headers::RETURNED).is_none();
    let copy = Waiting {
        attempt,
        due: due.map(SystemTime::from),
        since: record.stored_at,
        redriven: first && headers::get(Some(&record.headers), headers::REDRIVE).is_some(),
        agent: token(record, 3).unwrap_or_default(),
        cause,
    };
    Some((token(record, 2)?, copy))
}

fn letter(record: &Record) -> Option<(String, Letter)> {
    let letter = Letter {
        seq: record.seq,
        at: Some(record.stored_at),
        class: token(record, 4)?,
        cause: text(record, headers::CAUSE),
        attempts: text(record, headers::ATTEMPT).parse().unwrap_or(0),
        agent: token(record, 3)?,
        first_failure: text(record, headers::FIRST_FAILURE),
        last_failure: text(record, headers::LAST_FAILURE),
        redriven: None,
    };
    Some((token(record, 2)?, letter))
}

fn receipt(record: &Record) -> Option<(u64, String, Receipt)> {
    let handed = text(record, headers::HANDED).parse().ok().map(Duration::from_millis);
    let receipt = Receipt {
        agent: token(record, 3)?,
        attempt: text(record, headers::ATTEMPT).parse().unwrap_or(0),
        outcome: text(record, headers::OUTCOME),
        handed: handed.map(|since| SystemTime::UNIX_EPOCH + since),
        at: Some(record.stored_at),
        cause: text(record, headers::CAUSE),
    };
    Some((token(record, 4)?.parse().ok()?, token(record, 2)?, receipt))
}
