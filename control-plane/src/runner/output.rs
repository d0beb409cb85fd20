//! What a command wrote to stdout, read as events: one per line, in the JSON form of `POST /v1/publish`.
//!
//! All lines are read and checked before the first event is published. An event without an id gets one that depends on
//! nothing but the delivered event and the line's place, so that a second run of the same event publishes the same ids.

use std::time::SystemTime;

use agentbus_proto::json::PublishJson;
use agentbus_proto::sidecar::v1::{Delivery, PublishRequest};
use agentbus_proto::validate::ID_BYTES_MAX;
use agentbus_proto::{EventHead, Fault, Limits, duration, validate};
use prost::Message;
use sha2::{Digest, Sha256};

/// The delivered event, as far as its outputs depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// `<stream>/<seq>/<group>`: the same for every delivery of one event to one group.
    position: String,
    id: String,
    correlation_id: String,
    hops: u32,
}

impl Origin {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let event = delivery.event.clone().unwrap_or_default();
        let chain = if event.correlation_id.is_empty() { &event.id } else { &event.correlation_id };
        Self {
            position: format!("{}/{}/{}", delivery.stream, delivery.seq, delivery.group),
            correlation_id: chain.clone(),
            hops: event.hops,
            id: event.id,
        }
    }

    fn output_id(&self, index: usize) -> String {
        let id = format!("{}/{index}", self.position);
        if id.len() <= ID_BYTES_MAX {
            return id;
        }
        // Very long names: as much of it as fits would not be unique, its digest is.
        let digest = Sha256::digest(&id);
        digest.iter().fold("exec-".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// The events on `stdout`, ready to be published. The error names the line.
pub(super) fn read(stdout: &[u8], origin: &Origin, now: SystemTime) -> Result<Vec<PublishRequest>, String> {
    let lines = stdout.split(|byte| *byte == b'\n').zip(1..);
    let lines = lines.map(|(line, number)| (line.trim_ascii(), number)).filter(|(line, _)| !line.is_empty());
    let requests = lines.enumerate().map(|(index, (line, number))| {
        one(line, index, origin, now).map_err(|fault: Fault| format!("stdout line {number}: {fault}"))
    });
    requests.collect()
}

fn one(line: &[u8], index: usize, origin: &Origin, now: SystemTime) -> Result<PublishRequest, Fault> {
    let json = PublishJson::from_slice(line)?;
    let park = json.park;
    let (mut event, ttl) = json.into_event()?;
    fill(&mut event.id, || origin.output_id(index));
    fill(&mut event.correlation_id, || origin.correlation_id.clone());
    fill(&mut event.causation_id, || origin.id.clone());
    if event.hops == 0 {
        event.hops = origin.hops.saturating_add(1);
    }
    let encoded = event.encode_to_vec();
    // How large an event may be, the sidecar knows.
    let limits = Limits { event_bytes_max: usize::MAX, ..Limits::default() };
    validate(&EventHead::decode(&encoded)?, encoded.len(), &limits, now)?;
    let number = u64::try_from(index).unwrap_or(u64::MAX);
    Ok(PublishRequest { event: Some(event), ttl: ttl.map(duration::to_proto), r#ref: number, park })
}

fn fill(field: &mut String, value: impl FnOnce() -> String) {
    if field.is_empty() {
        *field = value();
    }
}

#[cfg(test)]
mod tests {
    use agentbus_proto::event::v1::Event;

    use super::*;

    fn origin() -> Origin {
        let event = Event { id: "e-1".into(), correlation_id: "chain".into(), hops: 4, ..Event::default() };
        let (stream, group) = ("AB_default_EVENTS".into(), "check".into());
        Origin::of(&Delivery { event: Some(event), stream, seq: 17, group, ..Delivery::default() })
    }

    fn events(stdout: &str) -> Result<Vec<Event>, String> {
        let requests = read(stdout.as_bytes(), &origin(), SystemTime::now())?;
        Ok(requests.into_iter().filter_map(|request| request.event).collect())
    }

    #[test]
    fn outputs_belong_to_their_event() {
        let events = events("{\"to\":\"a.b\",\"data\":1}\n\n  \n{\"to\":\"a.c\"}\r\n").unwrap();
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["AB_default_EVENTS/17/check/0", "AB_default_EVENTS/17/check/1"]);
        for event in &events {
            assert_eq!((event.correlation_id.as_str(), event.causation_id.as_str(), event.hops), ("chain", "e-1", 5));
        }
    }

    #[test]
    fn what_a_command_sets_stays() {
        let line = r#"{"to":"a.b","id":"mine","correlation_id":"c","causation_id":"d","hops":9,"ttl":"1h"}"#;
        let request = read(line.as_bytes(), &origin(), SystemTime::now()).unwrap().remove(0);
        assert_eq!(request.ttl.unwrap().seconds, 3600);
        let event = request.event.unwrap();
        assert_eq!(
            (event.id, event.correlation_id, event.causation_id, event.hops),
            ("mine".into(), "c".into(), "d".into(), 9)
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        let check = |stdout: &str, wanted: &[&str]| {
            let why = events(stdout).unwrap_err();
            assert!(wanted.iter().all(|part| why.contains(part)), "{why}");
        };
        check("{\"to\":\"a.b\"}\nhello\n", &["stdout line 2", "INVALID_EVENT"]);
        check("\n\n{\"to\":\"a..b\"}", &["stdout line 3", "INVALID_ADDRESS"]);
        check(r#"{"to":"a.b","what":1}"#, &["stdout line 1", "what"]);
        check(r#"{"to":"a.b","attributes":{"ab-x":"y"}}"#, &["stdout line 1", "reserved"]);
        assert_eq!(events(""), Ok(vec![]));
    }

    #[test]
    fn long_names_still_give_a_valid_and_stable_id() {
        let long = Origin { position: "x".repeat(200), ..origin() };
        assert!(long.output_id(0).len() <= ID_BYTES_MAX);
        assert_eq!(long.output_id(0), long.output_id(0));
        assert_ne!(long.output_id(0), long.output_id(1));
    }
}
