//! Makes the copy of a stored event. Pure: the record, the run and the time come in, a message or a reason comes out.

use std::time::SystemTime;

use agentbus_nats::moves::{self, Origin};
use agentbus_nats::names::{CONTROL_PLANE, Names};
use agentbus_nats::publisher::Message;
use agentbus_nats::read::Record;
use agentbus_nats::subject::{self, EventSubject};
use agentbus_nats::{headers, msg_id};
use agentbus_proto::{EventHead, Stamp, stamp};
use async_nats::HeaderMap;

use super::read::as_read;
use super::request::{Skipped, Target};
use super::scope;

/// What all copies of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub names: &'a Names,
    /// Its name.
    pub id: &'a str,
    pub target: Target<'a>,
    /// What the group reads; nothing matters where there is no group.
    pub patterns: &'a [String],
    /// Seals the message ids.
    pub secret: &'a str,
    pub now: SystemTime,
}

/// The copy, or why there is none.
pub(super) fn copy(record: &Record, run: Run<'_>) -> Result<Message, Skipped> {
    let event = as_read(record);
    let head = EventHead::decode(&event).map_err(|_| Skipped::NoEvent)?;
    let from = EventSubject::parse(&record.subject).ok_or(Skipped::NoEvent)?;
    if head.reply.is_some() {
        return Err(Skipped::NoEvent);
    }
    if head.expired(run.now).is_some() {
        return Err(Skipped::Expired);
    }
    if matches!(run.target, Target::Group(_)) && !scope::matches(run.patterns, &from.to) {
        return Err(Skipped::NotRead);
    }
    let id = format!("{}.{}", run.id, record.seq);
    let added =
        Stamp { id: Some(id), source: head.source.clone(), replay_of: Some(head.id.clone()), ..Stamp::default() };
    Ok(Message { subject: subject(run, from), headers: head_lines(record, &head, run), payload: stamp(&event, &added) })
}

fn subject(run: Run<'_>, from: EventSubject) -> String {
    match run.target {
        Target::Group(group) => subject::retry(run.names.namespace(), group, CONTROL_PLANE),
        Target::Namespace(into) => EventSubject { namespace: into.to_owned(), ..from }.render(),
    }
}

fn head_lines(record: &Record, head: &EventHead, run: Run<'_>) -> HeaderMap {
    let mut lines = HeaderMap::new();
    let kept = [headers::TRACEPARENT, headers::TRACESTATE, headers::CONTENT_TYPE, headers::TYPE, headers::CORRELATION];
    for name in kept {
        if let Some(value) = record.headers.get(name) {
            lines.insert(name, value.clone());
        }
    }
    lines.insert(headers::REPLAY_OF, headers::clean(&head.id, headers::CAUSE_BYTES_MAX));
    let (events, seq) = (run.names.events(), record.seq);
    let target = match run.target {
        Target::Group(group) => {
            let origin = Origin { stream: events.clone(), seq, subject: record.subject.clone() };
            lines.insert(headers::GROUP, group);
            lines.insert(headers::ORIGIN, origin.render());
            lines.insert(headers::NOT_BEFORE, moves::rfc3339(run.now));
            lines.insert(headers::ATTEMPT, "1");
            format!("group/{group}")
        }
        Target::Namespace(into) => format!("into/{into}"),
    };
    let stored = moves::rfc3339(record.stored_at);
    let id = format!("{events}/{seq}@{stored}/replay/{}/{target}", run.id);
    lines.insert(headers::MSG_ID, msg_id::sealed(&id, run.secret));
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agentbus_proto::event::v1::Event;
    use prost::Message as _;

    use super::*;

    const SUBJECT: &str = "ab.default.h.list.topic.7.notes.created";

    fn record(event: &Event) -> Record {
        let mut headers = HeaderMap::new();
        headers.insert(headers::MSG_ID, "list/n1/0123");
        headers.insert(headers::TYPE, "notes.v1");
        headers.insert(headers::TRACEPARENT, "00-1-2-01");
        let (payload, stored_at) = (event.encode_to_vec().into(), SystemTime::UNIX_EPOCH);
        Record { seq: 17, subject: SUBJECT.into(), headers, payload, stored_at }
    }

    fn event() -> Event {
        Event { id: "n1".into(), source: "list".into(), data: "x".into(), ..Event::default() }
    }

    fn made(event: &Event, target: Target<'_>, patterns: &[&str]) -> Result<Message, Skipped> {
        let (names, now) = (Names::new("default"), SystemTime::UNIX_EPOCH + Duration::from_secs(100));
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        copy(&record(event), Run { names: &names, id: "R", target, patterns: &patterns, secret: "s", now })
    }

    fn header(message: &Message, name: &'static str) -> String {
        headers::get(Some(&message.headers), name).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_groups_copy_is_a_first_attempt_due_now_and_says_what_it_is() {
        let copy = made(&event(), Target::Group("readers"), &["notes.>"]).unwrap();
        assert_eq!(copy.subject, "abr.default.readers.CONTROL-PLANE");
        let inside = Event::decode(copy.payload.clone()).unwrap();
        assert_eq!((inside.id.as_str(), inside.replay_of.as_str()), ("R.17", "n1"));
        assert_eq!((inside.source.as_str(), inside.data.as_ref()), ("list", &b"x"[..]));
        for (name, wanted) in [
            (headers::ORIGIN, format!("AB_default_EVENTS/17/{SUBJECT}")),
            (headers::ATTEMPT, "1".into()),
            (headers::NOT_BEFORE, "1970-01-01T00:01:40.000Z".into()),
            (headers::GROUP, "readers".into()),
            (headers::REPLAY_OF, "n1".into()),
            (headers::TYPE, "notes.v1".into()),
            (headers::TRACEPARENT, "00-1-2-01".into()),
        ] {
            assert_eq!(header(&copy, name), wanted, "{name}");
        }
        let id = "AB_default_EVENTS/17@1970-01-01T00:00:00.000Z/replay/R/group/readers";
        assert_eq!(header(&copy, headers::MSG_ID), msg_id::sealed(id, "s"));
        assert!(!header(&copy, headers::MSG_ID).contains("list/n1"));
    }

    #[test]
    fn a_sandbox_gets_the_same_address_in_its_own_namespace() {
        let copy = made(&event(), Target::Namespace("sandbox"), &[]).unwrap();
        assert_eq!(copy.subject, "ab.sandbox.h.list.topic.7.notes.created");
        assert_eq!(Event::decode(copy.payload.clone()).unwrap().replay_of, "n1");
        for gone in [headers::GROUP, headers::ORIGIN, headers::NOT_BEFORE, headers::ATTEMPT] {
            assert_eq!(header(&copy, gone), "", "{gone}");
        }
    }

    #[test]
    fn what_nobody_would_get_is_left_out() {
        let why = |event: &Event, patterns: &[&str]| made(event, Target::Group("readers"), patterns).err();
        let past = Some(prost_types::Timestamp { seconds: 99, nanos: 0 });
        assert_eq!(why(&Event { expires: past, ..event() }, &["notes.>"]), Some(Skipped::Expired));
        assert_eq!(why(&event(), &["files.>"]), Some(Skipped::NotRead));
        let reply = Some(agentbus_proto::event::v1::ReplyInfo::default());
        assert_eq!(why(&Event { reply, ..event() }, &["notes.>"]), Some(Skipped::NoEvent));
    }
}
