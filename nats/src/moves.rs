//! The two ways out of a failed delivery: a copy in the retry stream or a copy in the dead-letter stream.
//!
//! Every move is publish → PubAck → ack. A stored message has per group at most one successor, whose id is
//! `<stream>/<seq>/<group>` of the message being settled, so a crash between PubAck and ack leads to a duplicate the
//! broker recognises. Redrive and replay store a *new* message, so their failures are never swallowed by that id.
//! The payload is copied byte for byte; everything about the failure is in headers.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::publisher::Message;
use crate::pull::Incoming;
use crate::{headers, msg_id, schedule, subject};

/// Why an event was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Every attempt failed.
    Exhausted,
    /// The agent refused it for good.
    Rejected,
    /// Its time was over and the sender wanted to know.
    Expired,
    /// The payload is no event.
    Undecodable,
    /// It took its agent or sidecar down too often.
    Crash,
    /// It was about to be trimmed unread.
    Retention,
    /// Its sender was not allowed to send it.
    Scope,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 7] =
        [Self::Exhausted, Self::Rejected, Self::Expired, Self::Undecodable, Self::Crash, Self::Retention, Self::Scope];

    /// The token on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "EXHAUSTED",
            Self::Rejected => "REJECTED",
            Self::Expired => "EXPIRED",
            Self::Undecodable => "UNDECODABLE",
            Self::Crash => "CRASH",
            Self::Retention => "RETENTION",
            Self::Scope => "SCOPE",
        }
    }

    /// Reads a class, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str().eq_ignore_ascii_case(text))
    }
}

const MILLIS: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Where an event was first stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Stream.
    pub stream: String,
    /// Sequence in it.
    pub seq: u64,
    /// Subject.
    pub subject: String,
}

impl Origin {
    /// `<stream>/<seq>/<subject>`
    pub fn render(&self) -> String {
        format!("{}/{}/{}", self.stream, self.seq, self.subject)
    }

    /// Reads the header's form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (stream, seq, subject) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { stream: stream.to_owned(), seq: seq.parse().ok()?, subject: subject.to_owned() })
    }

    /// Of a delivery: what its header says, else the message itself.
    pub fn of(incoming: &Incoming) -> Self {
        headers::get(Some(&incoming.headers), headers::ORIGIN).and_then(Self::parse).unwrap_or_else(|| Self {
            stream: incoming.receipt.stream.clone(),
            seq: incoming.receipt.seq,
            subject: incoming.subject.to_string(),
        })
    }
}

/// Who moves: the group whose delivery failed and the agent that held it.
#[derive(Debug, Clone, Copy)]
pub struct Mover<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Group of the delivery.
    pub group: &'a str,
    /// The sidecar's agent, authenticated in the subject.
    pub agent: &'a str,
    /// The group's secret, which seals the successor's id.
    pub secret: &'a str,
}

/// A copy for the retry stream, due at `not_before`, to be delivered as attempt `attempt`. `cause` is none for a
/// give-back, which is no failure.
pub fn retry(
    mover: Mover<'_>,
    incoming: &Incoming,
    attempt: u32,
    not_before: SystemTime,
    cause: Option<&str>,
    traceparent: Option<&str>,
) -> Message {
    let mut headers = successor(mover, incoming, cause, traceparent);
    headers.insert(headers::NOT_BEFORE, rfc3339(not_before));
    headers.insert(headers::ATTEMPT, attempt.to_string());
    Message {
        subject: subject::retry(mover.namespace, mover.group, mover.agent),
        headers,
        payload: incoming.payload.clone(),
    }
}

/// A copy for the dead-letter stream. `attempts` is how many were made.
pub fn dead_letter(
    mover: Mover<'_>,
    incoming: &Incoming,
    attempts: u32,
    class: Class,
    cause: &str,
    traceparent: Option<&str>,
) -> Message {
    let mut headers = successor(mover, incoming, Some(cause), traceparent);
    headers.insert(headers::CLASS, class.as_str());
    headers.insert(headers::ATTEMPT, attempts.to_string());
    Message {
        subject: subject::dead_letter(mover.namespace, mover.group, mover.agent, class.as_str()),
        headers,
        payload: incoming.payload.clone(),
    }
}

/// Headers that both copies share: the event's own, the origin, the times and cause of failure.
fn successor(mover: Mover<'_>, incoming: &Incoming, cause: Option<&str>, traceparent: Option<&str>) -> HeaderMap {
    let from = &incoming.headers;
    let mut to = HeaderMap::new();
    for name in [headers::TRACESTATE, headers::CONTENT_TYPE, headers::TYPE, headers::CORRELATION, headers::REDRIVE] {
        copy(from, &mut to, name);
    }
    match traceparent {
        Some(traceparent) => to.insert(headers::TRACEPARENT, traceparent),
        None => copy(from, &mut to, headers::TRACEPARENT),
    }
    schedule::carry(from, &incoming.subject, incoming.receipt.stored_at, &mut to);
    let Mover { group, .. } = mover;
    let id = format!("{}/{}/{group}", incoming.receipt.stream, incoming.receipt.seq);
    // Sealed with the time it was stored, too: after a broker lost its store, a sequence means another message.
    let stored_at = incoming.receipt.stored_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    to.insert(headers::MSG_ID, msg_id::sealed(&id, &format!("{}:{stored_at}", mover.secret)));
    to.insert(headers::GROUP, group);
    to.insert(headers::ORIGIN, Origin::of(incoming).render());
    match cause {
        Some(cause) => {
            let now = rfc3339(SystemTime::now());
            let first = headers::get(Some(from), headers::FIRST_FAILURE).unwrap_or(&now).to_owned();
            to.insert(headers::FIRST_FAILURE, first);
            to.insert(headers::LAST_FAILURE, now);
            to.insert(headers::CAUSE, headers::clean(cause, headers::CAUSE_BYTES_MAX));
        }
        None => {
            for name in [headers::FIRST_FAILURE, headers::LAST_FAILURE, headers::CAUSE] {
                copy(from, &mut to, name);
            }
        }
    }
    to
}

fn copy(from: &HeaderMap, to: &mut HeaderMap, name: &'static str) {
    if let Some(value) = from.get(name) {
        to.insert(name, value.clone());
    }
}

/// How long a retry must still wait; none when it is due. An unreadable time counts as due: waiting for ever would
/// lose it.
pub fn wait(incoming: &Incoming, now: SystemTime) -> Option<Duration> {
    let text = headers::get(Some(&incoming.headers), headers::NOT_BEFORE)?;
    let due: SystemTime = OffsetDateTime::parse(text, &Rfc3339).ok()?.into();
    due.duration_since(now).ok().filter(|left| !left.is_zero())
}

/// Which attempt a delivery is, from 1.
pub fn attempt(incoming: &Incoming) -> u32 {
    headers::get(Some(&incoming.headers), headers::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// How often it was given back by an agent that had it.
pub fn returned(incoming: &Incoming) -> u32 {
    headers::get(Some(&incoming.headers), headers::RETURNED).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How often its agent died with nothing but this in hand, and when it died last with this in hand, in milliseconds since
/// the Unix epoch. None when no agent did.
pub fn crashes(incoming: &Incoming) -> Option<(u32, u64)> {
    let (times, at) = headers::get(Some(&incoming.headers), headers::CRASHES)?.split_once('/')?;
    Some((times.parse().ok()?, at.parse().ok()?))
}

/// RFC 3339 in UTC with three digits of milliseconds, so that columns of them line up. Times that it cannot write, which
/// anybody may put into an event, become the nearest one it can: 1970 or 9999.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = i128::try_from(since.as_millis()).unwrap_or(i128::MAX).saturating_mul(1_000_000);
    let written = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|time| time.format(MILLIS).ok());
    written.unwrap_or_else(|| "9999-12-31T23:59:59.000Z".to_owned())
}

/// A hand-made delivery for unit tests of what is decided about deliveries.
pub fn example(stream: &str, seq: u64, subject: &str, payload: &'static [u8]) -> Incoming {
    let ack = format!("$JS.ACK.{stream}.readers.1.{seq}.1.1763633763250000000.0");
    Incoming {
        receipt: crate::ack::Receipt::parse(ack.clone()).unwrap_or_else(|| crate::ack::Receipt {
            subject: ack.clone().into(),
            stream: stream.to_owned(),
            consumer: "readers".to_owned(),
            delivered: 1,
            seq,
            stored_at: SystemTime::UNIX_EPOCH,
            pending: 0,
        }),
        subject: subject.to_owned().into(),
        headers: HeaderMap::new(),
        payload: Bytes::from_static(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret and the time of `example`.
    const SEALED: &str = "s:1763633763250000000";
    const MOVER: Mover<'static> = Mover { namespace: "default", group: "readers", agent: "a", secret: "s" };

    fn incoming() -> Incoming {
        let mut incoming = example("AB_default_EVENTS", 17, "ab.default.n.list.topic.-.notes", b"bytes");
        incoming.headers.insert(headers::MSG_ID, "list/1");
        incoming.headers.insert(headers::TYPE, "notes.v1");
        incoming
    }

    #[test]
    fn a_retry_keeps_payload_and_origin_and_counts_up() {
        let now = SystemTime::now();
        let first = retry(MOVER, &incoming(), 2, now + Duration::from_secs(2), Some("boom"), None);
        assert_eq!(first.payload, "bytes");
        assert_eq!(first.subject, "abr.default.readers.a");
        let header = |message: &Message, name| headers::get(Some(&message.headers), name).unwrap().to_owned();
        assert_eq!(header(&first, headers::MSG_ID), msg_id::sealed("AB_default_EVENTS/17/readers", SEALED));
        assert_eq!(header(&first, headers::ORIGIN), "AB_default_EVENTS/17/ab.default.n.list.topic.-.notes");
        assert_eq!(header(&first, headers::TYPE), "notes.v1");

        let mut second = example("AB_default_RETRY", 3, &first.subject, b"bytes");
        second.headers = first.headers.clone();
        assert_eq!(attempt(&second), 2);
        assert!(wait(&second, now).unwrap() <= Duration::from_secs(2));
        assert_eq!(wait(&second, now + Duration::from_secs(3)), None);
        let third = dead_letter(MOVER, &second, 2, Class::Exhausted, "boom again", None);
        assert_eq!(header(&third, headers::MSG_ID), msg_id::sealed("AB_default_RETRY/3/readers", SEALED));
        assert_eq!(header(&third, headers::ORIGIN), header(&first, headers::ORIGIN));
        assert_eq!(header(&third, headers::FIRST_FAILURE), header(&first, headers::FIRST_FAILURE));
        assert_eq!(third.subject, "abd.default.readers.a.EXHAUSTED");
    }

    #[test]
    fn two_groups_make_two_successors() {
        let other = Mover { group: "auditors", ..MOVER };
        let id = |mover| {
            let message = dead_letter(mover, &incoming(), 1, Class::Rejected, "no", None);
            headers::get(Some(&message.headers), headers::MSG_ID).unwrap().to_owned()
        };
        assert_ne!(id(MOVER), id(other));
    }

    #[test]
    fn no_time_is_too_odd_to_be_written() {
        let odd = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap();
        assert_eq!(rfc3339(odd(1_000_000_000_000)), "9999-12-31T23:59:59.000Z");
        let early = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(1_000_000_000_000)).unwrap();
        assert_eq!(rfc3339(early), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn an_unreadable_due_time_means_now() {
        let mut message = incoming();
        message.headers.insert(headers::NOT_BEFORE, "soon");
        assert_eq!(wait(&message, SystemTime::now()), None);
    }
}
