//! Conversion to and from the existing message format, without loss in either direction.
//!
//! | existing | event | |
//! |---|---|---|
//! | `message_id` | `id` | as it is; whether it is allowed is for `validate` |
//! | `from_agent` | – | `source` is whom the broker authenticated, and a sidecar takes in no other name; kept in the attribute `legacy` |
//! | `to_agent` | `to` | `name` and `@name` an agent (in lower case), `#name` a channel, `all`, `broadcast`, `*` the channel `all`; anything else: no address, who converts must set one |
//! | `message_type` | `type` | when it is tokens with dots, else empty |
//! | `priority` | `priority` | `low`; `normal`, `medium`; `high`, `urgent`, `critical`; anything else: unset |
//! | `timestamp` | `time` | RFC 3339, the same without offset (UTC), or seconds since 1970 |
//! | `ttl` | `expires` | `timestamp` + seconds (or a duration as text); without a timestamp from when it is taken in |
//! | `body` | `data` | the JSON text of the whole body, content type `application/json` |
//! | `delivery_options.require_ack` | `delivery.mode` | false = at most once, true = at least once |
//! | `delivery_options.max_retries` | `delivery.max_attempts` | one more: the first attempt counts |
//! | `delivery_options.retry_delay` | `delivery.backoff.initial` | seconds |
//! | everything but `body` | attribute `legacy` | as JSON, so that spelling and unknown keys survive; attributes hold 8 KiB |
//!
//! An event that came from a message carries `schema = "agentbus.legacy.message.v1"` and turns back into exactly that
//! message, also after the bus stamped it (source, missing id, type or time, expiry, chain): the stamp is dropped.
//! Any other event becomes a message that a reader of the old format understands and that carries the encoded event in
//! `body.metadata.agentbus_event`; from it exactly that event comes back. If somebody changed the readable part since,
//! the carried event no longer counts.
//!
//! A sidecar takes messages in by `accept`, which refuses what would not be meant, and hands them out by `hand`.

mod carry;
mod door;
mod fold;
mod hand;
mod message;

pub use door::accept;
pub use hand::hand;
pub use message::{Body, Message, Options};

use crate::event::v1::Event;
use crate::failure::Fault;

/// Reads a message of the existing format. Refuses with `INVALID_EVENT`.
pub fn from_slice(json: &[u8]) -> Result<Message, Fault> {
    crate::json::object(json)
        .map_err(|fault| Fault { message: format!("not a message of the existing format: {}", fault.message), ..fault })
}

/// The event that a message means, or the one that it carries.
pub fn from_legacy(message: &Message) -> Event {
    // Compared with what the event would look like now, so that a change to the readable part is not lost.
    carry::carried(message).filter(|event| to_legacy(event) == *message).unwrap_or_else(|| fold::fold(message))
}

/// The message that an event came from, or one that carries it.
pub fn to_legacy(event: &Event) -> Message {
    match fold::unfold(event) {
        Some(message) if fold::is_stamped(event, &from_legacy(&message)) => message,
        _ => carry::carry(event),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::message::testing::any_message;
    use super::*;
    use crate::address::Address;
    use crate::event::v1::DeliveryMode;
    use crate::head::{Stamp, stamp};
    use crate::testing::any_event;

    fn example() -> Value {
        json!({
            "message_id": "m-1", "from_agent": "Planner", "to_agent": "Reviewer", "message_type": "task.assigned",
            "priority": "urgent", "timestamp": "2026-11-20T10:00:00.250000", "ttl": 60, "shard": [1, null],
            "body": {"content": "look at this", "context": {"pr": 7}, "metadata": null, "extra": 1.5},
            "delivery_options": {"require_ack": false, "max_retries": 3, "retry_delay": 2.5, "x": {}},
        })
    }

    #[test]
    fn an_example_means_what_the_table_says() {
        let message: Message = serde_json::from_value(example()).unwrap();
        let event = from_legacy(&message);
        let seconds = |time: &Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
        let delivery = event.delivery.unwrap();
        assert_eq!(event.id, "m-1");
        assert_eq!(event.to, Some(Address::Agent("reviewer".into()).into()));
        assert_eq!(event.r#type, "task.assigned");
        assert_eq!(event.priority(), crate::event::v1::Priority::High);
        assert_eq!(seconds(&event.time), Some((1_795_168_800, 250_000_000)));
        assert_eq!(seconds(&event.expires), Some((1_795_168_860, 250_000_000)));
        assert_eq!(serde_json::from_slice::<Value>(&event.data).unwrap(), example()["body"]);
        assert_eq!((delivery.mode(), delivery.max_attempts), (DeliveryMode::AtMostOnce, 4));
        let initial = delivery.backoff.unwrap().initial.unwrap();
        assert_eq!((initial.seconds, initial.nanos), (2, 500_000_000));
        assert_eq!(serde_json::to_value(to_legacy(&event)).unwrap(), example());
    }

    #[test]
    fn nulls_absences_and_unknown_keys_are_kept_apart() {
        let check = |key: &str, value: &Value| {
            let mut json = json!({"message_id": "", "from_agent": "", "to_agent": "", "message_type": "", "body": {}});
            json[key] = value.clone();
            let message = from_slice(json.to_string().as_bytes()).unwrap();
            assert_eq!(serde_json::to_value(to_legacy(&from_legacy(&message))).unwrap(), json);
        };
        for key in ["priority", "timestamp", "ttl", "delivery_options", "unknown"] {
            check(key, &Value::Null);
        }
        check("body", &json!({"content": null, "context": null, "metadata": null, "other": null}));
        check("delivery_options", &json!({"require_ack": null, "max_retries": null, "retry_delay": null, "x": 1}));
        check("ttl", &json!(0.1 + 0.2));
    }

    #[test]
    fn a_changed_message_is_not_what_it_carries() {
        let event = Event { id: "e".into(), data: "x".into(), ..Event::default() };
        let mut message = to_legacy(&event);
        message.to_agent = "other".into();
        let read = from_legacy(&message);
        assert_eq!(read.to, Some(Address::Agent("other".into()).into()));
        assert_eq!(to_legacy(&read), message);
    }

    #[test]
    fn refuses_what_is_no_message() {
        let check = |json: &[u8], wanted: &str| {
            let fault = from_slice(json).unwrap_err();
            assert!(fault.code == crate::Code::InvalidEvent && fault.message.contains(wanted), "{fault}");
        };
        check(b"", "EOF");
        check(b"{}", "missing field `message_id`");
        check(br#"{"message_id":1}"#, "expected a string");
        check(br#"{"message_id":"","from_agent":"","to_agent":"","message_type":""}"#, "missing field `body`");
        check(br#"{"message_id":"","from_agent":"","to_agent":"","message_type":"","body":"x"}"#, "invalid type");
    }

    proptest! {
        #[test]
        fn a_message_survives_as_an_event(message in any_message()) {
            let event = from_legacy(&message);
            prop_assert_eq!(&to_legacy(&event), &message);
            prop_assert_eq!(from_legacy(&to_legacy(&event)), event);
        }

        #[test]
        fn a_message_survives_as_text(message in any_message()) {
            let text = serde_json::to_vec(&message).unwrap();
            prop_assert_eq!(from_slice(&text).unwrap(), message);
        }

        #[test]
        fn a_message_survives_the_stamp_of_the_bus(message in any_message(), text in "[a-z]{1,9}") {
            let mut event = from_legacy(&message);
            let some = |empty: bool| empty.then(|| text.clone());
            let with = Stamp {
                id: some(event.id.is_empty()),
                source: text.clone(),
                type_: some(event.r#type.is_empty()),
                time: event.time.is_none().then_some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
                ..Stamp::default()
            };
            event = prost::Message::decode(stamp(&prost::Message::encode_to_vec(&event), &with)).unwrap();
            prop_assert_eq!(to_legacy(&event), message);
        }

        #[test]
        fn an_event_survives_as_a_message(event in any_event()) {
            let message = to_legacy(&event);
            prop_assert_eq!(&from_legacy(&message), &event);
            prop_assert_eq!(to_legacy(&from_legacy(&message)), message);
        }

        #[test]
        fn a_forged_mark_loses_nothing(event in any_event(), mark in ".{0,20}", data in ".{0,20}") {
            let mut event = Event { schema: fold::SCHEMA.into(), data: Bytes::from(data), ..event };
            event.source.clear();
            event.attributes.insert(fold::ATTRIBUTE.into(), mark);
            prop_assert_eq!(from_legacy(&to_legacy(&event)), event);
        }
    }
}
