//! Schedules of a stream: which record fires when, and what is fired. Pure: the time comes in.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use agentbus_proto::{Code, Fault};
use async_nats::HeaderMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::log::Kept;
use crate::headers;
use crate::publisher::Message;
use crate::schedule::Cron;

/// Headers of the broker's own that are not the event's.
const NOT_CARRIED: [&str; 4] =
    [headers::MSG_ID, headers::SCHEDULE, headers::SCHEDULE_TARGET, headers::SCHEDULE_TIME_ZONE];
/// Shortest time between two firings of one schedule.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// When a schedule fires.
enum When {
    At(SystemTime),
    Every(Duration),
    Cron(Box<Cron>),
}

/// Schedules by the moment at which they are due: stream and sequence.
#[derive(Default)]
pub(super) struct Due {
    at: BTreeMap<(SystemTime, String, u64), ()>,
}

impl Due {
    pub fn add(&mut self, at: SystemTime, stream: &str, seq: u64) {
        self.at.insert((at, stream.to_owned(), seq), ());
    }

    /// Takes one out that is due.
    pub fn take(&mut self, now: SystemTime) -> Option<(SystemTime, String, u64)> {
        let first = self.at.first_entry()?;
        (first.key().0 <= now).then(|| first.remove_entry().0)
    }

    pub fn next(&self) -> Option<SystemTime> {
        self.at.first_key_value().map(|((at, ..), ())| *at)
    }
}

/// When a schedule fires for the first time behind `after`; none when it is no schedule, or never fires again.
pub(super) fn next(schedule: &HeaderMap, after: SystemTime) -> Result<Option<SystemTime>, Fault> {
    Ok(match when(schedule)? {
        None => None,
        // What is due already fires at once.
        Some(When::At(at)) => Some(at),
        Some(When::Every(every)) => after.checked_add(every),
        Some(When::Cron(cron)) => cron.next(after),
    })
}

/// What a schedule fires, and when it fires again.
pub(super) fn fire(kept: &Kept, fired: SystemTime) -> (Option<Message>, Option<SystemTime>) {
    let again = match when(&kept.headers) {
        Ok(Some(When::Every(every))) => fired.checked_add(every),
        Ok(Some(When::Cron(cron))) => cron.next(fired),
        _ => None,
    };
    let target = headers::get(Some(&kept.headers), headers::SCHEDULE_TARGET).map(str::to_owned);
    let message = target.map(|subject| {
        let mut carried = HeaderMap::new();
        for (name, values) in kept.headers.iter() {
            if !NOT_CARRIED.contains(&AsRef::<str>::as_ref(name)) {
                values.iter().for_each(|value| carried.append(name.clone(), value.clone()));
            }
        }
        carried.insert(headers::name(headers::SCHEDULER), kept.subject.as_str());
        Message { subject, headers: carried, payload: kept.payload.clone() }
    });
    (message, again)
}

fn when(schedule: &HeaderMap) -> Result<Option<When>, Fault> {
    let Some(text) = headers::get(Some(schedule), headers::SCHEDULE) else { return Ok(None) };
    let bad = |why: &str| Fault::new(Code::InvalidEvent, format!("the schedule `{text}` cannot be read: {why}"));
    if let Some(at) = text.strip_prefix("@at ") {
        let at = OffsetDateTime::parse(at, &Rfc3339).map_err(|_| bad("not a time"))?;
        return Ok(Some(When::At(at.into())));
    }
    if let Some(every) = text.strip_prefix("@every ") {
        let every = agentbus_proto::duration::parse(every).map_err(|_| bad("not a duration"))?;
        return Ok(Some(When::Every(every.max(EVERY_MIN))));
    }
    let zone = headers::get(Some(schedule), headers::SCHEDULE_TIME_ZONE).unwrap_or_default();
    Ok(Some(When::Cron(Box::new(Cron::parse(text, zone)?))))
}
