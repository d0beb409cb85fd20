//! A delivery and the answer to a publish as JSON.

use serde::{Deserialize, Serialize};

use super::event::EventJson;
use crate::code::Code;
use crate::event::v1::Event;
use crate::failure::Fault;
use crate::sidecar::{v1 as pb, wire};
use crate::timestamp;

/// One event in the hands of one agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryJson {
    /// Names this delivery when it is settled.
    pub delivery_id: String,
    /// 1 for the first delivery to this group.
    pub attempt: u32,
    /// The attempt after which a nack makes it a dead letter.
    pub max_attempts: u32,
    /// The group on whose behalf it was received.
    pub group: String,
    /// Settle or extend before this moment, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// W3C tracestate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tracestate: String,
    /// Stream that holds the event.
    pub stream: String,
    /// Its number in that stream.
    pub seq: u64,
    /// Reason given for the last failed attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_failure: String,
    /// The event.
    pub event: EventJson,
}

/// What became of a publish: the body of the answer with status 200 (broker) or 202 (spool).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishAnswerJson {
    /// Id of the event.
    pub id: String,
    /// `"broker"` or `"spool"`.
    pub stored: String,
    /// Stream that holds it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// Its number in that stream, when the broker told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// It was stored before and nothing was added, when the broker told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<bool>,
}

impl DeliveryJson {
    /// From the sidecar's view. Fails with `INVALID_EVENT` when the bytes are no event.
    pub fn from_wire(delivery: wire::Delivery) -> Result<Self, Fault> {
        let event: Event = prost::Message::decode(delivery.event)
            .map_err(|error| Fault::new(Code::InvalidEvent, format!("not an agentbus.event.v1.Event: {error}")))?;
        Ok(Self {
            delivery_id: delivery.delivery_id,
            attempt: delivery.attempt,
            max_attempts: delivery.max_attempts,
            group: delivery.group,
            deadline: delivery.deadline.as_ref().and_then(timestamp::format),
            traceparent: delivery.traceparent,
            tracestate: delivery.tracestate,
            stream: delivery.stream,
            seq: delivery.seq,
            last_failure: delivery.last_failure,
            event: EventJson::from(&event),
        })
    }
}

impl From<pb::Delivery> for DeliveryJson {
    fn from(delivery: pb::Delivery) -> Self {
        Self {
            delivery_id: delivery.delivery_id,
            attempt: delivery.attempt,
            max_attempts: delivery.max_attempts,
            group: delivery.group,
            deadline: delivery.deadline.as_ref().and_then(timestamp::format),
            traceparent: delivery.traceparent,
            tracestate: delivery.tracestate,
            stream: delivery.stream,
            seq: delivery.seq,
            last_failure: delivery.last_failure,
            event: EventJson::from(&delivery.event.unwrap_or_default()),
        }
    }
}

/// An answer that reports a failure becomes that fault.
impl TryFrom<pb::PublishResponse> for PublishAnswerJson {
    type Error = Fault;

    fn try_from(answer: pb::PublishResponse) -> Result<Self, Fault> {
        if let Some(failure) = answer.failure {
            return Err(failure.into());
        }
        let stored = match pb::Stored::try_from(answer.stored) {
            Ok(pb::Stored::Broker) => "broker",
            Ok(pb::Stored::Spool) => "spool",
            Ok(pb::Stored::Unspecified) | Err(_) => {
                return Err(Fault::new(Code::OutcomeUnknown, "the sidecar did not say where the event is stored"));
            }
        };
        let stored = stored.to_owned();
        Ok(Self { id: answer.id, stored, stream: answer.stream, seq: answer.seq, duplicate: answer.duplicate })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use serde_json::json;

    use super::*;

    fn delivery() -> pb::Delivery {
        pb::Delivery {
            delivery_id: "d".into(),
            event: Some(Event { id: "i".into(), ..Event::default() }),
            attempt: 2,
            max_attempts: 4,
            group: "g".into(),
            deadline: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            traceparent: "00-a-b-01".into(),
            stream: "AB_default_EVENTS".into(),
            seq: 7,
            last_failure: "no".into(),
            ..pb::Delivery::default()
        }
    }

    #[test]
    fn both_views_of_a_delivery_look_the_same() {
        let wanted = json!({
            "delivery_id": "d", "attempt": 2, "max_attempts": 4, "group": "g", "deadline": "1970-01-01T00:01:00Z",
            "traceparent": "00-a-b-01", "stream": "AB_default_EVENTS", "seq": 7, "last_failure": "no",
            "event": {"id": "i"},
        });
        assert_eq!(serde_json::to_value(DeliveryJson::from(delivery())).unwrap(), wanted);
        let wire = wire::Delivery::decode(&delivery().encode_to_vec()[..]).unwrap();
        assert_eq!(serde_json::to_value(DeliveryJson::from_wire(wire).unwrap()).unwrap(), wanted);
    }

    #[test]
    fn an_answer_says_where_or_why_not() {
        let answer = |stored: pb::Stored, failure| pb::PublishResponse {
            id: "i".into(),
            stored: stored.into(),
            seq: Some(1),
            duplicate: Some(false),
            stream: "S".into(),
            failure,
            r#ref: 0,
        };
        let ok = PublishAnswerJson::try_from(answer(pb::Stored::Broker, None)).unwrap();
        let wanted = json!({"id": "i", "stored": "broker", "stream": "S", "seq": 1, "duplicate": false});
        assert_eq!(serde_json::to_value(ok).unwrap(), wanted);
        let failure = Fault::new(Code::StreamFull, "full");
        let failed = answer(pb::Stored::Unspecified, Some(failure.clone().into()));
        assert_eq!(PublishAnswerJson::try_from(failed), Err(failure));
        assert!(PublishAnswerJson::try_from(answer(pb::Stored::Unspecified, None)).is_err());
    }
}
