//! An event inside a message of the existing format: readable for those who know only that format, and whole, as base64
//! of its encoding, for us.

use prost::Message as _;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};

use super::message::{Body, Message, Options};
use crate::duration;
use crate::event::v1 as pb;
use crate::json::{EventJson, content};
use crate::timestamp;

/// Key in `body.metadata`.
const KEY: &str = "agentbus_event";

/// The event that a message says it carries.
pub(super) fn carried(message: &Message) -> Option<pb::Event> {
    let text = message.body.metadata.as_ref()?.get(KEY)?.as_str()?;
    pb::Event::decode(content::from_base64(text)?).ok()
}

/// A message that carries the event.
pub(super) fn carry(event: &pb::Event) -> Message {
    let mut metadata: Map<String, Value> =
        event.attributes.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    metadata.insert(KEY.to_owned(), Value::from(content::to_base64(&event.encode_to_vec())));
    Message {
        message_id: event.id.clone(),
        from_agent: event.source.clone(),
        to_agent: to_agent(event),
        message_type: event.r#type.clone(),
        priority: priority(event).map(Value::from),
        timestamp: event.time.as_ref().and_then(timestamp::format).map(Value::from),
        ttl: ttl(event),
        body: Body { content: readable(event), metadata: Some(Value::Object(metadata)), ..Body::default() },
        delivery_options: event.delivery.as_ref().map(|delivery| Some(options(delivery))),
        extra: Map::new(),
    }
}

/// An agent's bare name, as the format has it; topics and channels as we write them.
fn to_agent(event: &pb::Event) -> String {
    let written = EventJson::from(&pb::Event { to: event.to.clone(), ..pb::Event::default() }).to.unwrap_or_default();
    match written.strip_prefix('@') {
        Some(name) => name.to_owned(),
        None if written == "#all" => "all".to_owned(),
        None => written,
    }
}

/// JSON and text as they are, anything else as base64.
fn readable(event: &pb::Event) -> Option<Value> {
    if event.data.is_empty() {
        return None;
    }
    let written = content::write(&event.data, &event.content_type);
    let value = written.data.as_deref().map(RawValue::get).and_then(|json| serde_json::from_str(json).ok());
    Some(value.unwrap_or_else(|| Value::from(content::to_base64(&event.data))))
}

fn priority(event: &pb::Event) -> Option<&'static str> {
    match pb::Priority::try_from(event.priority) {
        Ok(pb::Priority::Low) => Some("low"),
        Ok(pb::Priority::Normal) => Some("normal"),
        Ok(pb::Priority::High) => Some("high"),
        Ok(pb::Priority::Unspecified) | Err(_) => None,
    }
}

/// Seconds between the event's time and its expiry.
fn ttl(event: &pb::Event) -> Option<Value> {
    let (time, expires) = (timestamp::to_system(event.time.as_ref()?)?, timestamp::to_system(event.expires.as_ref()?)?);
    Number::from_f64(expires.duration_since(time).ok()?.as_secs_f64()).map(Value::Number)
}

fn options(delivery: &pb::DeliveryOptions) -> Options {
    let mode = pb::DeliveryMode::try_from(delivery.mode).unwrap_or_default();
    let initial = delivery.backoff.as_ref().and_then(|backoff| backoff.initial.as_ref());
    let delay = initial.and_then(duration::from_proto).and_then(|delay| Number::from_f64(delay.as_secs_f64()));
    Options {
        require_ack: Some(json!(mode != pb::DeliveryMode::AtMostOnce)),
        max_retries: delivery.max_attempts.checked_sub(1).map(Value::from),
        retry_delay: delay.map(Value::Number),
        extra: Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    #[test]
    fn the_readable_part_is_that_of_the_format() {
        let event = pb::Event {
            id: "e".into(),
            source: "list".into(),
            to: Some(Address::Agent("check".into()).into()),
            r#type: "t.v1".into(),
            time: Some(prost_types::Timestamp { seconds: 10, nanos: 0 }),
            expires: Some(prost_types::Timestamp { seconds: 70, nanos: 0 }),
            priority: pb::Priority::Low.into(),
            content_type: content::JSON.into(),
            data: r#"{"n":1}"#.into(),
            attributes: [("k".to_owned(), "v".to_owned())].into(),
            delivery: Some(pb::DeliveryOptions { max_attempts: 4, ..pb::DeliveryOptions::default() }),
            ..pb::Event::default()
        };
        let mut message = serde_json::to_value(carry(&event)).unwrap();
        assert!(message["body"]["metadata"].as_object_mut().unwrap().remove(KEY).is_some());
        let wanted = json!({
            "message_id": "e", "from_agent": "list", "to_agent": "check", "message_type": "t.v1", "priority": "low",
            "timestamp": "1970-01-01T00:00:10Z", "ttl": 60.0,
            "body": {"content": {"n": 1}, "metadata": {"k": "v"}},
            "delivery_options": {"require_ack": true, "max_retries": 3},
        });
        assert_eq!(message, wanted);
    }
}
