//! One dead letter, read from the headers, the subject and the head of the event.
//!
//! Everything comes from headers first: a payload that is no event lists as well as any other.

use std::time::SystemTime;

use agentbus_nats::moves::{Class, Origin};
use agentbus_nats::{headers, schedule, subject::EventSubject};
use agentbus_proto::{Address, EventHead};
use async_nats::HeaderMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::facts::Redriven;

/// A dead letter as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number in the dead-letter stream; names it in all commands.
    pub seq: u64,
    /// The group that gave it up.
    pub group: String,
    /// The agent that held it last.
    pub agent: String,
    /// Why: `EXHAUSTED`, `REJECTED`, `EXPIRED`, `UNDECODABLE`, `CRASH`, `RETENTION` or `SCOPE`.
    pub class: String,
    /// What went wrong the last time, one line.
    pub cause: String,
    /// Attempts that were made.
    pub attempts: u32,
    /// Id of the event; empty when the payload is no event.
    pub event_id: String,
    /// Type of the event.
    pub event_type: String,
    /// Where it was sent, as people write it; empty when unknown.
    pub to: String,
    /// Who sent it, as the broker authenticated it.
    pub source: String,
    /// The chain it belongs to; empty when unknown.
    pub correlation_id: String,
    /// Where it was first stored.
    pub origin: Option<OriginRef>,
    /// Time of the first failure, RFC 3339; empty when unknown.
    pub first_failure: String,
    /// Time of the last failure, RFC 3339; empty when unknown.
    pub last_failure: String,
    /// How often the event had been redriven before it came here.
    pub redrives: u32,
    /// Set when this dead letter itself has been redriven.
    pub redriven: Option<Redriven>,
    /// Set, with its time, when a redrive of it was begun and it is not known whether it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<String>,
    /// Length of the payload, in bytes.
    pub payload_bytes: usize,
    /// The payload is no event.
    pub undecodable: bool,
}

/// Where an event was first stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginRef {
    /// Stream.
    pub stream: String,
    /// Sequence in it.
    pub seq: u64,
    /// Subject.
    pub subject: String,
}

/// A message of the dead-letter stream as read from the broker.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub seq: u64,
    /// When the broker stored it, RFC 3339 with milliseconds. With the number it tells a letter from one of the same
    /// number in a stream that was made again.
    pub at: String,
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

impl Stored {
    pub(super) fn header(&self, name: &'static str) -> &str {
        headers::get(Some(&self.headers), name).unwrap_or_default()
    }

    /// The encoded event as its group was given it: what a schedule fired has an id of its own.
    pub(super) fn event(&self) -> Bytes {
        schedule::event(&self.headers, &self.subject, SystemTime::UNIX_EPOCH, &self.payload)
    }

    /// What lists show; `redriven` and `unfinished` are not known here.
    pub(super) fn letter(&self) -> DeadLetter {
        let mut tokens = self.subject.split('.').skip(2);
        let mut token = || tokens.next().unwrap_or_default().to_owned();
        let (group, agent, class) = (token(), token(), token());
        let head = EventHead::decode(&self.event()).ok();
        let undecodable = head.is_none() || class == Class::Undecodable.as_str();
        let head = head.filter(|_| !undecodable).unwrap_or_default();
        let origin = Origin::parse(self.header(headers::ORIGIN));
        let address = origin.as_ref().and_then(|origin| EventSubject::parse(&origin.subject));
        let stated = || head.to.as_ref().and_then(|to| Address::try_from(to).ok());
        DeadLetter {
            seq: self.seq,
            group,
            agent,
            class,
            cause: self.header(headers::CAUSE).to_owned(),
            attempts: self.header(headers::ATTEMPT).parse().unwrap_or(0),
            event_type: either(self.header(headers::TYPE), head.effective_type()),
            to: address.as_ref().map(|at| at.to.clone()).or_else(stated).map(|to| to.to_string()).unwrap_or_default(),
            source: address.map_or_else(|| head.source.clone(), |at| at.sender),
            correlation_id: either(self.header(headers::CORRELATION), head.chain()),
            origin: origin.map(|Origin { stream, seq, subject }| OriginRef { stream, seq, subject }),
            first_failure: self.header(headers::FIRST_FAILURE).to_owned(),
            last_failure: self.header(headers::LAST_FAILURE).to_owned(),
            redrives: self.header(headers::REDRIVE).parse().unwrap_or(0),
            redriven: None,
            unfinished: None,
            payload_bytes: self.payload.len(),
            event_id: head.id,
            undecodable,
        }
    }
}

fn either(first: &str, second: &str) -> String {
    if first.is_empty() { second.to_owned() } else { first.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use agentbus_proto::event::v1::Event;
    use prost::Message;

    use super::*;

    /// A dead letter as a sidecar writes it.
    pub(crate) fn stored(seq: u64, class: Class, payload: Vec<u8>) -> Stored {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (headers::MSG_ID, "AB_default_RETRY/3/readers"),
            (headers::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            (headers::TYPE, "notes.created.v1"),
            (headers::CORRELATION, "chain-1"),
            (headers::GROUP, "readers"),
            (headers::ORIGIN, "AB_default_EVENTS/17/ab.default.n.list.topic.-.notes.created"),
            (headers::CAUSE, "exit 1: no such file"),
            (headers::ATTEMPT, "4"),
            (headers::FIRST_FAILURE, "2026-11-20T10:00:00Z"),
            (headers::LAST_FAILURE, "2026-11-20T10:00:09Z"),
        ] {
            headers.insert(name, value);
        }
        let subject = agentbus_nats::subject::dead_letter("default", "readers", "check", class.as_str());
        Stored { seq, at: "2026-11-20T10:00:09.001Z".into(), subject, headers, payload: payload.into() }
    }

    pub(crate) fn event() -> Vec<u8> {
        let to = Some(Address::Topic("notes.created".into()).into());
        Event { id: "e-1".into(), source: "list".into(), to, data: "x".into(), ..Event::default() }.encode_to_vec()
    }

    #[test]
    fn a_letter_tells_who_what_where_and_why() {
        let letter = stored(5, Class::Exhausted, event()).letter();
        assert_eq!((letter.seq, letter.group.as_str(), letter.agent.as_str()), (5, "readers", "check"));
        assert_eq!(
            (letter.class.as_str(), letter.cause.as_str(), letter.attempts),
            ("EXHAUSTED", "exit 1: no such file", 4)
        );
        assert_eq!((letter.event_id.as_str(), letter.event_type.as_str()), ("e-1", "notes.created.v1"));
        assert_eq!((letter.to.as_str(), letter.source.as_str()), ("notes.created", "list"));
        assert_eq!(letter.origin.as_ref().map(|origin| origin.seq), Some(17));
        assert!(!letter.undecodable);
        let json = serde_json::to_string(&letter).unwrap();
        assert_eq!(serde_json::from_str::<DeadLetter>(&json).unwrap(), letter);
    }

    #[test]
    fn a_payload_that_is_no_event_lists_fine() {
        let letter = stored(5, Class::Undecodable, b"\xff\xff no event".to_vec()).letter();
        assert!(letter.undecodable);
        assert_eq!((letter.event_id.as_str(), letter.to.as_str(), letter.payload_bytes), ("", "notes.created", 11));
    }

    #[test]
    fn without_any_header_it_still_reads() {
        let bare = Stored {
            seq: 1,
            at: String::new(),
            subject: "abd.default.g.a.CRASH".into(),
            headers: HeaderMap::new(),
            payload: event().into(),
        };
        let letter = bare.letter();
        assert_eq!((letter.group.as_str(), letter.to.as_str(), letter.source.as_str()), ("g", "notes.created", "list"));
        assert_eq!((letter.event_type.as_str(), letter.origin, letter.redrives), ("notes.created", None, 0));
    }
}
