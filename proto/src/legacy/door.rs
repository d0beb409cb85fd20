//! A message as its sender hands it in: what it says is meant and kept, or it is refused by name.
//!
//! Converting (`fold`) never fails, because what is stored must come out again; here is where a message can still be
//! mended by who wrote it.

use std::time::Duration;

use serde_json::{Map, Value};

use super::fold::{self, SCHEMA};
use super::{Message, Options, from_legacy, from_slice};
use crate::address::Address;
use crate::code::Code;
use crate::event::v1::{Event, Priority};
use crate::failure::Fault;

/// Reads a message that the agent `caller` sends: its event, and the lifetime from now of one that has no `timestamp`.
/// Refuses with `SCOPE_DENIED` what somebody else is said to have sent, with `INVALID_EVENT` or `INVALID_ADDRESS` what it
/// asks for and does not get.
pub fn accept(json: &[u8], caller: &str) -> Result<(Event, Option<Duration>), Fault> {
    let message = from_slice(json)?;
    known(&message)?;
    if fold::address(&message.from_agent) != Some(Address::Agent(caller.to_owned())) {
        let why = format!("`from_agent` is `{}`; this is agent `{caller}`", message.from_agent.escape_debug());
        return Err(Fault::new(Code::ScopeDenied, why));
    }
    let event = from_legacy(&message);
    if event.to.is_none() {
        let why = "an agent's or a pool's name, `#channel`, or `all`";
        return Err(Fault { code: Code::InvalidAddress, ..wrong("to_agent", &message.to_agent.as_str().into(), why) });
    }
    // One that carries an event says the same twice, and was compared.
    if event.schema == SCHEMA {
        meant(&message, &event)?;
    }
    let ttl = present(&message.ttl).filter(|_| event.time.is_none()).and_then(fold::span);
    Ok((event, ttl))
}

/// Every key is one that the format names.
fn known(message: &Message) -> Result<(), Fault> {
    let options = message.delivery_options.iter().flatten();
    let places = [("", &message.extra), ("body.", &message.body.extra)];
    let all = places.into_iter().chain(options.map(|options| ("delivery_options.", &options.extra)));
    match all.into_iter().find_map(|(place, extra): (_, &Map<String, Value>)| Some((place, extra.keys().next()?))) {
        Some((place, key)) => Err(invalid(format!("unknown key `{place}{}`", key.escape_debug()))),
        None => Ok(()),
    }
}

/// Everything that the message says is in the event.
fn meant(message: &Message, event: &Event) -> Result<(), Fault> {
    if message.message_id.is_empty() {
        return Err(invalid("`message_id` is empty; it is the event's id".to_owned()));
    }
    if event.r#type != message.message_type {
        let why = "words of letters, digits, `-` and `_` with dots between, like `task.assigned`";
        return Err(wrong("message_type", &message.message_type.as_str().into(), why));
    }
    if let Some(priority) = present(&message.priority).filter(|_| event.priority() == Priority::Unspecified) {
        return Err(wrong("priority", priority, "low, normal, medium, high, urgent or critical"));
    }
    if let Some(timestamp) = present(&message.timestamp).filter(|_| event.time.is_none()) {
        return Err(wrong("timestamp", timestamp, "a moment like 2026-11-20T10:00:00Z, or seconds since 1970"));
    }
    a_span("ttl", &message.ttl)?;
    message.delivery_options.iter().flatten().try_for_each(deliverable)
}

fn deliverable(options: &Options) -> Result<(), Fault> {
    let retries = present(&options.max_retries);
    if let Some(ack) = present(&options.require_ack).filter(|ack| !ack.is_boolean()) {
        return Err(wrong("delivery_options.require_ack", ack, "true or false"));
    }
    let number = |value: &&Value| value.as_u64().is_some_and(|number| number < u64::from(u32::MAX));
    if let Some(retries) = retries.filter(|retries| !number(retries)) {
        return Err(wrong("delivery_options.max_retries", retries, "a number, 0 or more"));
    }
    a_span("delivery_options.retry_delay", &options.retry_delay)?;
    let again = retries.is_some_and(|retries| *retries != 0) || present(&options.retry_delay).is_some();
    if options.require_ack == Some(Value::Bool(false)) && again {
        let why =
            "`delivery_options` ask for retries, and with `require_ack` false there are none: leave one of them out";
        return Err(invalid(why.to_owned()));
    }
    Ok(())
}

fn a_span(key: &str, value: &Option<Value>) -> Result<(), Fault> {
    match present(value).filter(|value| fold::span(value).is_none()) {
        Some(value) => Err(wrong(key, value, "seconds, more than 0, or a duration like 1m30s")),
        None => Ok(()),
    }
}

/// `null` says as little as an absent key.
fn present(value: &Option<Value>) -> Option<&Value> {
    value.as_ref().filter(|value| !value.is_null())
}

fn wrong(key: &str, value: &Value, allowed: &str) -> Fault {
    invalid(format!("`{key}` is {value}; allowed: {allowed}"))
}

fn invalid(why: String) -> Fault {
    Fault::new(Code::InvalidEvent, why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::v1::DeliveryMode;
    use crate::legacy::to_legacy;

    /// A good one, with this in it.
    fn message(change: Value) -> Value {
        let mut message = json!({
            "message_id": "m-1", "from_agent": "Planner", "to_agent": "reviewer", "message_type": "task.assigned",
            "body": {"content": "look at this"},
        });
        for (key, value) in change.as_object().expect("an object") {
            message[key] = value.clone();
        }
        message
    }

    fn read(message: &Value) -> Result<(Event, Option<Duration>), Fault> {
        accept(message.to_string().as_bytes(), "planner")
    }

    #[test]
    fn what_is_taken_in_comes_out_as_it_was() {
        for change in [
            json!({}),
            json!({"priority": null, "timestamp": null, "ttl": null, "delivery_options": null}),
            json!({"priority": "URGENT", "timestamp": 1.7e9, "ttl": "1h", "to_agent": "all", "from_agent": "@planner"}),
            json!({"body": {"content": {"a": [1, null]}, "context": "c", "metadata": {"k": {"n": 1.5}}}}),
            json!({"delivery_options": {"require_ack": true, "max_retries": 0, "retry_delay": 0.5}}),
            json!({"delivery_options": {"require_ack": false, "max_retries": 0}}),
        ] {
            let message = message(change);
            let (event, _) = read(&message).unwrap();
            assert_eq!(serde_json::to_value(to_legacy(&event)).unwrap(), message);
        }
    }

    #[test]
    fn a_lifetime_without_a_timestamp_is_from_now() {
        let (event, ttl) = read(&message(json!({"ttl": 60}))).unwrap();
        assert_eq!((event.expires, ttl), (None, Some(Duration::from_secs(60))));
        let (event, ttl) = read(&message(json!({"ttl": 60, "timestamp": 40}))).unwrap();
        assert_eq!((event.expires.unwrap().seconds, ttl), (100, None));
    }

    #[test]
    fn delivery_options_are_the_events() {
        let options = json!({"require_ack": true, "max_retries": 2, "retry_delay": 5});
        let (event, _) = read(&message(json!({"delivery_options": options}))).unwrap();
        let delivery = event.delivery.unwrap();
        assert_eq!((delivery.mode(), delivery.max_attempts), (DeliveryMode::AtLeastOnce, 3));
        assert_eq!(delivery.backoff.unwrap().initial.unwrap().seconds, 5);
    }

    #[test]
    fn what_it_would_not_get_is_refused_by_name() {
        let check = |change: Value, code: Code, wanted: &str| {
            let fault = read(&message(change.clone())).unwrap_err();
            assert!(fault.code == code && fault.message.contains(wanted), "{change}: {fault}");
        };
        let invalid = |change: Value, wanted: &str| check(change, Code::InvalidEvent, wanted);
        let options = |options: Value, wanted: &str| invalid(json!({"delivery_options": options}), wanted);
        for other in ["boss", "", "#planner", "planner "] {
            check(json!({"from_agent": other}), Code::ScopeDenied, "this is agent `planner`");
        }
        for nobody in ["", "two words", "notes.created"] {
            check(json!({"to_agent": nobody}), Code::InvalidAddress, "`to_agent` is \"");
        }
        invalid(json!({"shard": 1}), "unknown key `shard`");
        invalid(json!({"body": {"text": 1}}), "unknown key `body.text`");
        options(json!({"retries": 1}), "unknown key `delivery_options.retries`");
        invalid(json!({"body": "text"}), "invalid type");
        invalid(json!({"message_id": ""}), "`message_id` is empty");
        invalid(json!({"message_type": "two words"}), "`message_type` is \"two words\"");
        for priority in [json!("asap"), json!(5), json!("")] {
            invalid(json!({"priority": priority}), "`priority` is ");
        }
        for moment in [json!("yesterday"), json!(-1), json!([])] {
            invalid(json!({"timestamp": moment}), "`timestamp` is ");
        }
        for span in [json!(0), json!(-1), json!("soon"), json!(true)] {
            invalid(json!({"ttl": span}), "`ttl` is ");
            options(json!({"retry_delay": span}), "`delivery_options.retry_delay` is ");
        }
        options(json!({"require_ack": "no"}), "`delivery_options.require_ack` is \"no\"");
        for retries in [json!(-1), json!(1.5), json!("3"), json!(u32::MAX)] {
            options(json!({"max_retries": retries}), "`delivery_options.max_retries` is ");
        }
        options(json!({"require_ack": false, "max_retries": 3}), "ask for retries");
        options(json!({"require_ack": false, "retry_delay": 3}), "ask for retries");
    }

    #[test]
    fn an_event_that_was_handed_out_as_a_message_can_be_handed_in_again() {
        let event = Event {
            id: "e".into(),
            source: "planner".into(),
            to: Some(Address::Topic("notes.created".into()).into()),
            ordering_key: "k".into(),
            data: "x".into(),
            ..Event::default()
        };
        let text = serde_json::to_vec(&to_legacy(&event)).unwrap();
        assert_eq!(accept(&text, "planner"), Ok((event, None)));
        assert_eq!(accept(&text, "other").unwrap_err().code, Code::ScopeDenied);
    }
}
