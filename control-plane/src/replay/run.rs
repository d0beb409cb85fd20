//! Stores the copies of a replay at the wished pace: one request does a part of a run and says where to go on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::names::Names;
use agentbus_nats::plan;
use agentbus_nats::read::{self, Query, Record};
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault};
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior};

use super::copy::{self, copy};
use super::request::{BATCH_MAX, Clock, RATE_DEFAULT, Report, Request, SPACE_DEFAULT, Target};
use super::{Replays, scope};
use crate::groups::PERSON;

/// Time after which a request answers with where to go on, so that a slow pace is no time-out.
const RUN_MAX: Duration = Duration::from_secs(20);
/// Events read at once.
const PAGE_MAX: usize = 200;

impl Replays {
    /// Copies up to 1000 events. `by` goes into the fact. Dropping the future ends it between two copies.
    pub async fn run(&self, request: &Request, by: &str) -> Result<Report, Fault> {
        let names = &self.inner.names;
        let target = request.target(names.namespace())?;
        let directory = self.inner.grants.groups().directory().clone();
        let filters = scope::filters(names.namespace(), &directory, PERSON, &request.patterns)?;
        let (from, until) = (request.from()?, request.until()?);
        let patterns = self.readers(target).await?;
        let to_seq = match request.to_seq {
            Some(seq) => seq,
            None => self.last_seq().await?,
        };
        let (to, created) = self.prepare(target, request).await?;
        let id = request.run.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let query = Query { filters, from, to_seq: Some(to_seq), limit: PAGE_MAX, ..Query::all() };
        let report =
            Report { run: id, dry_run: request.dry_run, created, to_seq, clock: request.clock, ..Report::default() };
        let mut part = Part {
            replays: self,
            request,
            target,
            to,
            patterns,
            until,
            report,
            began: Instant::now(),
            ticks: ticks(request),
        };
        part.all(query).await?;
        let report = part.report;
        if !report.dry_run && (report.copied > 0 || report.created) {
            self.note(request, &report, by);
        }
        Ok(report)
    }

    /// What the group reads. Refuses a group that nobody is in: copies would wait for nobody.
    async fn readers(&self, target: Target<'_>) -> Result<Vec<String>, Fault> {
        let Target::Group(name) = target else { return Ok(Vec::new()) };
        let known = self.inner.grants.all_groups().into_iter().find(|group| group.name == name);
        let group = known.ok_or_else(|| {
            let why = format!("there is no group `{name}`; see `agentbus status` for those there are");
            Fault::new(Code::InvalidAddress, why)
        })?;
        let retry = self.inner.names.retry();
        if self.inner.bus.consumer(&retry, &Names::retry_consumer(name)).await?.is_none() {
            let why = format!("group `{name}` has no consumer for retries, through which a replay reaches it");
            return Err(Fault::new(Code::InvalidAddress, why));
        }
        Ok(group.patterns)
    }

    /// Where the copies go. Makes a sandbox's accounts and streams when asked to, and tells whether it did.
    async fn prepare(&self, target: Target<'_>, request: &Request) -> Result<(Option<Arc<dyn Bus>>, bool), Fault> {
        if request.dry_run {
            return Ok((None, false));
        }
        let Target::Namespace(into) = target else { return Ok((Some(Arc::clone(&self.inner.bus)), false)) };
        let names = Names::new(into);
        let to = self.inner.elsewhere.reach(into, request.create).await?;
        let space = request.space_bytes.unwrap_or(SPACE_DEFAULT);
        let there = match &to {
            Some(to) => to.stream(&names.events()).await?.is_some(),
            None => false,
        };
        match to {
            Some(to) if there => Ok((Some(to), false)),
            Some(to) if request.create => {
                plan::apply(&*to, &names, &Sizes::within(i64::try_from(space).unwrap_or(i64::MAX))).await?;
                Ok((Some(to), true))
            }
            _ => {
                let why = format!(
                    "namespace `{into}` has no streams here: ask for them (--yes, `create`); they take {} MiB",
                    space >> 20
                );
                Err(Fault::new(Code::InvalidAddress, why))
            }
        }
    }

    fn note(&self, request: &Request, report: &Report, by: &str) {
        let body = json!({
            "by": by,
            "run": report.run,
            "patterns": request.patterns,
            "to_group": request.to_group,
            "into": request.into,
            "created": report.created,
            "copied": report.copied,
            "skipped": report.skipped,
            "first_seq": report.first_seq,
            "last_seq": report.last_seq,
        });
        self.inner.audit.record("replay.copied.v1", body);
    }
}

/// One request on its way.
struct Part<'a> {
    replays: &'a Replays,
    request: &'a Request,
    target: Target<'a>,
    /// Where copies are stored; none where nothing is, in a dry run.
    to: Option<Arc<dyn Bus>>,
    patterns: Vec<String>,
    until: Option<SystemTime>,
    report: Report,
    began: Instant,
    ticks: Interval,
}

fn ticks(request: &Request) -> Interval {
    let pause = Duration::from_secs(1) / request.rate.unwrap_or(RATE_DEFAULT);
    let mut ticks = tokio::time::interval(pause.max(Duration::from_micros(1)));
    // After a slow store the missed copies are not made up for in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Part<'_> {
    async fn all(&mut self, mut query: Query) -> Result<(), Fault> {
        let inner = Arc::clone(&self.replays.inner);
        let mut seen = 0;
        loop {
            let page = inner.bus.read(&inner.names.events(), &query).await?;
            for record in page.records {
                if self.until.is_some_and(|until| record.stored_at > until) {
                    return Ok(());
                }
                if seen >= BATCH_MAX || !self.in_time(&record).await {
                    self.report.next = Some(record.seq);
                    return Ok(());
                }
                seen += 1;
                if let Err(fault) = self.one(&record).await {
                    self.report.next = Some(record.seq);
                    self.report.stopped = Some(fault.to_string());
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => query.from = read::From::Seq(next),
                None => return Ok(()),
            }
        }
    }

    /// Waits until it is the event's time; false when that is for the next request.
    async fn in_time(&mut self, record: &Record) -> bool {
        let left = RUN_MAX.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return false;
        }
        if self.request.dry_run || self.request.speed <= 0.0 {
            return true;
        }
        let (now, stored) = (millis(SystemTime::now()), millis(record.stored_at));
        let clock = *self.report.clock.get_or_insert(Clock { began_ms: now, stored_ms: stored });
        let wait = due(clock, stored, self.request.speed).saturating_sub(now);
        let wait = Duration::from_millis(wait);
        tokio::time::sleep(wait.min(left)).await;
        wait <= left
    }

    async fn one(&mut self, record: &Record) -> Result<(), Fault> {
        let inner = Arc::clone(&self.replays.inner);
        let run = copy::Run {
            names: &inner.names,
            id: &self.report.run,
            target: self.target,
            patterns: &self.patterns,
            secret: &inner.secret,
            now: SystemTime::now(),
        };
        match copy(record, run) {
            Ok(message) => {
                if let Some(to) = &self.to {
                    self.ticks.tick().await;
                    to.store(message).await?;
                }
                self.report.copied += 1;
            }
            Err(why) => *self.report.skipped.entry(why).or_default() += 1,
        }
        if self.report.first_seq == 0 {
            self.report.first_seq = record.seq;
        }
        self.report.last_seq = record.seq;
        Ok(())
    }
}

/// When an event is due, in milliseconds since the Unix epoch.
fn due(clock: Clock, stored_ms: u64, speed: f64) -> u64 {
    let after = stored_ms.saturating_sub(clock.stored_ms);
    // Whole milliseconds of at most millennia: the loss is far below one of them.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let scaled = (after as f64 / speed) as u64;
    clock.began_ms.saturating_add(scaled)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_the_original_one_divided_by_the_speed() {
        let clock = Clock { began_ms: 1_000_000, stored_ms: 5000 };
        for (stored, speed, wanted) in
            [(5000, 1.0, 0), (6000, 1.0, 1000), (6000, 10.0, 100), (6000, 0.5, 2000), (1, 1.0, 0)]
        {
            assert_eq!(due(clock, stored, speed), 1_000_000 + wanted, "{stored} {speed}");
        }
    }
}
