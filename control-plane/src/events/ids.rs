//! What ids tell: where in the events stream to begin to look, and whether a stored message is the one. Pure.
//!
//! An id made here is a UUIDv7 and tells its time. One of an emitted event names the delivery that emitted it. One that a
//! caller made tells nothing: then the stream is read from its end.

use std::time::{Duration, SystemTime};

use agentbus_nats::headers;
use agentbus_nats::read::{From, Record};
use agentbus_nats::schedule::Occurrence;
use agentbus_proto::id;

/// Clocks of machines differ by less than this.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// In which direction to look, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Towards the end.
    Forward(From),
    /// From the end back.
    Backward,
}

/// Where to look for an id. `events` is the name of the stream.
pub(super) fn look(id: &str, events: &str) -> Look {
    if let Some(made) = id::made_at(id) {
        return Look::Forward(From::Time(made.checked_sub(SKEW_MAX).unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    // `<stream>/<seq>/<group>/<index>`: emitted while that one was handled.
    let cause = id.strip_prefix(events).and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.split('/').next());
    match cause.and_then(|seq| seq.parse::<u64>().ok()) {
        Some(seq) => Look::Forward(From::Seq(seq.saturating_add(1))),
        None => Look::Backward,
    }
}

/// The id of a stored event, as far as its headers tell: `<sender>/<id>/<tag>`, or which occurrence of a schedule it is.
pub(super) fn of_record(record: &Record) -> Option<String> {
    if let Some(occurrence) = Occurrence::of(&record.headers, &record.subject, record.stored_at) {
        return Some(occurrence.id);
    }
    let sealed = headers::get(Some(&record.headers), headers::MSG_ID)?;
    let (_, rest) = sealed.split_once('/')?;
    rest.rsplit_once('/').map(|(id, _)| id.to_owned())
}

/// Whether this is the event with this id.
pub(super) fn is(record: &Record, id: &str) -> bool {
    of_record(record).is_some_and(|own| own == id)
}

/// The id of this event, if it is one that the schedule with this id fired.
pub(super) fn fired_by(record: &Record, schedule: &str) -> Option<String> {
    let own = Occurrence::of(&record.headers, &record.subject, record.stored_at)?.id;
    let number = own.strip_prefix(schedule)?.strip_prefix('.')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(own)
}

/// The chain a stored event belongs to, as its headers tell.
pub(super) fn chain_of(record: &Record) -> Option<String> {
    let named = headers::get(Some(&record.headers), headers::CORRELATION).map(str::to_owned);
    // An occurrence that was given no chain begins one of its own.
    named.or_else(|| Occurrence::of(&record.headers, &record.subject, record.stored_at).map(|own| own.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_where_to_look() {
        let events = "AB_default_EVENTS";
        let new = id::new();
        let Look::Forward(From::Time(from)) = look(&new, events) else { panic!("a time") };
        assert!(from < SystemTime::now());
        assert_eq!(look("AB_default_EVENTS/17/check/0", events), Look::Forward(From::Seq(18)));
        for foreign in ["order-7", "AB_other_EVENTS/17/check/0", "AB_default_EVENTS/x/check/0", ""] {
            assert_eq!(look(foreign, events), Look::Backward, "{foreign}");
        }
    }

    #[test]
    fn an_id_may_have_slashes_of_its_own() {
        let mut record = Record {
            seq: 1,
            subject: String::new(),
            headers: Default::default(),
            payload: Default::default(),
            stored_at: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(of_record(&record), None);
        record.headers.insert(headers::MSG_ID, "check/AB_default_EVENTS/17/check/0/0123456789abcdef");
        assert_eq!(of_record(&record).as_deref(), Some("AB_default_EVENTS/17/check/0"));
    }
}
