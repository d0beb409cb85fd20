//! Events for later: what is stored for them, and which event each occurrence is.
//!
//! The control plane writes a schedule to its own stream; the broker fires it, once or again and again, and the events
//! stream takes what was fired by itself. So firing needs neither the control plane nor the sender.
//!
//! What is fired has the same payload every time, and no message id. Each occurrence is an event of its own all the same:
//! **whoever reads a stored event must ask [`Occurrence::of`]** (or take [`event`], which does). It gives the id
//! `<schedule id>.<number>`, the time of firing, the expiry counted from it, and, unless the sender named a chain, a
//! chain of its own. Whoever copies a stored event elsewhere (retries, dead letters, redrives, replays) keeps the payload
//! and calls [`carry`], so that the copy is the same occurrence.
//!
//! Nobody gains anything by forging: the broker refuses a client's `Nats-Scheduler`, and an occurrence is believed only
//! if the schedule is the very sender's and the event's; its own id a sender may choose anyway.

mod cron;
mod words;

use std::time::{Duration, SystemTime};

use agentbus_proto::{EventHead, Stamp, stamp};
use async_nats::HeaderMap;
use bytes::Bytes;

pub use cron::Cron;
pub use words::{Accepted, Cancel, Cancelled, CronWords, List, Listed, Request, Scheduled};

use crate::names::Names;
use crate::{headers, subject};

/// Largest encoded event of a schedule, in bytes: it travels as JSON to the control plane. Larger content belongs
/// elsewhere, and the event names it.
pub const EVENT_BYTES_MAX: usize = 32 * 1024;

/// One firing of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// Id of the event: `<schedule id>.<number>`.
    pub id: String,
    /// When it fired.
    pub at: SystemTime,
    /// Lifetime from then on.
    pub ttl: Option<Duration>,
}

impl Occurrence {
    /// Which firing a stored event is; none for one that was published directly. `subject` and `stored_at` are the
    /// message's, in whatever stream it is.
    pub fn of(from: &HeaderMap, subject: &str, stored_at: SystemTime) -> Option<Self> {
        let (id, at) = match headers::get(Some(from), headers::STREAM_SOURCE) {
            Some(source) => (fired(from, source, subject)?, whole_millis(stored_at)),
            None => carried(headers::get(Some(from), headers::OCCURRENCE)?)?,
        };
        let ttl = headers::get(Some(from), headers::TTL).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        Some(Self { id, at, ttl })
    }

    /// Gives the head of the event this occurrence's own fields. An event of another id stays as it is.
    pub fn apply(&self, head: &mut EventHead) {
        let Some(stamp) = self.stamp(head) else { return };
        let Stamp { id, time, expires, correlation_id, .. } = stamp;
        head.id = id.unwrap_or_default();
        head.time = time;
        head.expires = expires.or(head.expires);
        head.correlation_id = correlation_id.unwrap_or_else(|| std::mem::take(&mut head.correlation_id));
    }

    /// The same for the encoded event.
    pub fn encode(&self, event: &Bytes) -> Bytes {
        let stamped = EventHead::decode(event).ok().and_then(|head| self.stamp(&head));
        stamped.map_or_else(|| event.clone(), |own| stamp(event, &own))
    }

    fn stamp(&self, head: &EventHead) -> Option<Stamp> {
        let number = self.id.strip_prefix(head.id.as_str())?.strip_prefix('.')?;
        if head.id.is_empty() || number.contains('.') {
            return None;
        }
        // A chain that begins with this event is named like it.
        let own_chain = head.correlation_id.is_empty() || head.correlation_id == head.id;
        Some(Stamp {
            id: Some(self.id.clone()),
            source: head.source.clone(),
            time: Some(self.at.into()),
            expires: self.ttl.and_then(|ttl| self.at.checked_add(ttl)).map(Into::into),
            correlation_id: own_chain.then(|| self.id.clone()),
            ..Stamp::default()
        })
    }
}

/// The encoded event as its readers are to see it: an occurrence with its own fields, any other as it is stored.
pub fn event(from: &HeaderMap, subject: &str, stored_at: SystemTime, payload: &Bytes) -> Bytes {
    Occurrence::of(from, subject, stored_at).map_or_else(|| payload.clone(), |occurrence| occurrence.encode(payload))
}

/// Takes what makes a stored event this occurrence along to a copy's headers.
pub fn carry(from: &HeaderMap, subject: &str, stored_at: SystemTime, to: &mut HeaderMap) {
    let Some(Occurrence { id, at, ttl }) = Occurrence::of(from, subject, stored_at) else { return };
    let millis = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    to.insert(headers::name(headers::OCCURRENCE), format!("{id} {millis}"));
    if let Some(ttl) = ttl {
        to.insert(headers::name(headers::TTL), ttl.as_millis().to_string());
    }
}

/// The id of what the events stream took from the stream of schedules; none if the message came another way.
fn fired(from: &HeaderMap, source: &str, at: &str) -> Option<String> {
    let mut source = source.split(' ');
    let (stream, number) = (source.next()?, source.next()?.parse::<u64>().ok()?);
    let (namespace, sender) = (at.strip_prefix("ab.")?.split('.').next()?, subject::sender(at)?);
    let (agent, id) = subject::parse_schedule(namespace, headers::get(Some(from), headers::SCHEDULER)?)?;
    (stream == Names::new(namespace).schedules() && agent == sender).then(|| format!("{id}.{number}"))
}

/// As precise as a copy can say it, so that it says the same.
fn whole_millis(time: SystemTime) -> SystemTime {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let millis = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(millis).unwrap_or(time)
}

fn carried(text: &str) -> Option<(String, SystemTime)> {
    let (id, millis) = text.split_once(' ')?;
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis.parse().ok()?))?;
    Some((id.to_owned(), at))
}

#[cfg(test)]
mod tests {
    use agentbus_proto::event::v1::Event;
    use prost::Message;

    use super::*;

    const SUBJECT: &str = "ab.default.n.alice.topic.-.notes";

    fn headers_of(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.insert(*name, *value);
        }
        map
    }

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    const SOURCE: (&str, &str) =
        (headers::STREAM_SOURCE, "AB_default_SCHEDULES 7 abs.default.due.*.> ab.default.> abs.default.due.x.n A1");
    const SCHEDULER: (&str, &str) = (headers::SCHEDULER, "abs.default.s.alice.tick");

    #[test]
    fn every_firing_is_an_event_of_its_own() {
        let headers = headers_of(&[SOURCE, SCHEDULER, (headers::TTL, "5000")]);
        let found = Occurrence::of(&headers, SUBJECT, at(10)).unwrap();
        assert_eq!((found.id.as_str(), found.at, found.ttl), ("tick.7", at(10), Some(Duration::from_secs(5))));
        let stored =
            Event { id: "tick".into(), source: "alice".into(), correlation_id: "tick".into(), ..Event::default() };
        let own = Event::decode(found.encode(&stored.encode_to_vec().into())).unwrap();
        assert_eq!((own.id.as_str(), own.correlation_id.as_str(), own.source.as_str()), ("tick.7", "tick.7", "alice"));
        assert_eq!((own.time, own.expires), (Some(at(10).into()), Some(at(5010).into())));
        let mut head = EventHead::decode(&stored.encode_to_vec()).unwrap();
        found.apply(&mut head);
        assert_eq!(head, EventHead::decode(&own.encode_to_vec()).unwrap());
    }

    #[test]
    fn a_named_chain_stays() {
        let found = Occurrence { id: "tick.7".into(), at: at(0), ttl: None };
        let mut head = EventHead { id: "tick".into(), correlation_id: "audit".into(), ..EventHead::default() };
        found.apply(&mut head);
        assert_eq!((head.id.as_str(), head.correlation_id.as_str(), head.expires), ("tick.7", "audit", None));
    }

    #[test]
    fn a_copy_is_the_same_occurrence() {
        let original = headers_of(&[SOURCE, SCHEDULER, (headers::TTL, "5000")]);
        let fired = at(10) + Duration::from_nanos(509_623);
        let mut copied = HeaderMap::new();
        carry(&original, SUBJECT, fired, &mut copied);
        let mut again = HeaderMap::new();
        carry(&copied, "abr.default.readers.bob", at(99), &mut again);
        for (copy, subject) in
            [(&copied, "abr.default.readers.bob"), (&again, "abd.default.readers.bob.EXPIRED"), (&again, SUBJECT)]
        {
            let expected = Occurrence::of(&original, SUBJECT, fired);
            assert_eq!(Occurrence::of(copy, subject, at(99)), expected, "{subject}");
        }
    }

    #[test]
    fn what_comes_from_elsewhere_is_no_occurrence() {
        for headers in [
            vec![],
            vec![SOURCE],
            vec![SCHEDULER],
            vec![SCHEDULER, (headers::STREAM_SOURCE, "AB_other_SCHEDULES 7 a b c")],
            vec![SCHEDULER, (headers::STREAM_SOURCE, "AB_default_RETRY 7 a b c")],
            vec![SCHEDULER, (headers::STREAM_SOURCE, "AB_default_SCHEDULES seven")],
            vec![SOURCE, (headers::SCHEDULER, "abs.default.s.bob.tick")],
            vec![SOURCE, (headers::SCHEDULER, "abs.other.s.alice.tick")],
        ] {
            assert_eq!(Occurrence::of(&headers_of(&headers), SUBJECT, at(1)), None, "{headers:?}");
        }
        // A header that names another event changes nothing.
        let found = Occurrence { id: "other.1".into(), at: at(0), ttl: None };
        let mut head = EventHead { id: "tick".into(), ..EventHead::default() };
        found.apply(&mut head);
        assert_eq!(head.id, "tick");
        let stored: Bytes = Event { id: "tick".into(), ..Event::default() }.encode_to_vec().into();
        assert_eq!(found.encode(&stored), stored);
    }
}
