//! A message of the existing format inside an event: body as data, envelope as one attribute, and what the bus must know
//! in the event's own fields. The mapping table is at the top of the folder.

use std::time::Duration;

use serde_json::Value;

use super::message::{Body, Message, Options};
use crate::address::{Address, dotted};
use crate::duration;
use crate::event::v1 as pb;
use crate::json::content;
use crate::timestamp;

/// Schema of an event that came from a message.
pub(super) const SCHEMA: &str = "agentbus.legacy.message.v1";
/// Attribute that holds the message without its body, as JSON.
pub(super) const ATTRIBUTE: &str = "legacy";

/// The event that a message means.
pub(super) fn fold(message: &Message) -> pb::Event {
    let envelope = Message { body: Body::default(), ..message.clone() };
    let time = message.timestamp.as_ref().and_then(moment);
    pb::Event {
        id: message.message_id.clone(),
        to: address(&message.to_agent).map(pb::Address::from),
        r#type: Some(&message.message_type).filter(|kind| dotted("type", kind).is_ok()).cloned().unwrap_or_default(),
        time,
        expires: message.ttl.as_ref().and_then(span).and_then(|ttl| after(time?, ttl)),
        priority: message.priority.as_ref().map_or(pb::Priority::Unspecified, priority).into(),
        content_type: content::JSON.to_owned(),
        schema: SCHEMA.to_owned(),
        data: text(&message.body).into(),
        attributes: [(ATTRIBUTE.to_owned(), text(&envelope))].into(),
        delivery: message.delivery_options.as_ref().and_then(Option::as_ref).map(delivery),
        ..pb::Event::default()
    }
}

/// The message inside an event, if it claims to hold one. Whether the claim is true is for `is_stamped`.
pub(super) fn unfold(event: &pb::Event) -> Option<Message> {
    if event.schema != SCHEMA {
        return None;
    }
    let envelope: Message = serde_json::from_str(event.attributes.get(ATTRIBUTE)?).ok()?;
    Some(Message { body: serde_json::from_slice(&event.data).ok()?, ..envelope })
}

/// `event` is `folded` but for what the bus sets on its way.
pub(super) fn is_stamped(event: &pb::Event, folded: &pb::Event) -> bool {
    let mut plain = event.clone();
    plain.source.clone_from(&folded.source);
    let texts = [
        (&mut plain.id, &folded.id),
        (&mut plain.r#type, &folded.r#type),
        (&mut plain.correlation_id, &folded.correlation_id),
        (&mut plain.causation_id, &folded.causation_id),
        (&mut plain.replay_of, &folded.replay_of),
    ];
    for (text, unset) in texts {
        if unset.is_empty() {
            text.clear();
        }
    }
    plain.time = plain.time.filter(|_| folded.time.is_some());
    plain.expires = plain.expires.filter(|_| folded.expires.is_some());
    plain.hops = folded.hops;
    plain == *folded
}

fn text<T: serde::Serialize>(value: &T) -> String {
    // Strings, maps with string keys and JSON values: there is nothing in them that JSON cannot say.
    serde_json::to_string(value).unwrap_or_default()
}

/// Whom a name means.
pub(super) fn address(to: &str) -> Option<Address> {
    let lower = to.to_ascii_lowercase();
    match lower.as_str() {
        "all" | "broadcast" | "*" => Some(Address::Channel("all".to_owned())),
        name if name.starts_with(['@', '#']) => name.parse().ok(),
        name => format!("@{name}").parse().ok(),
    }
}

fn priority(value: &Value) -> pb::Priority {
    match value.as_str().unwrap_or_default().to_ascii_lowercase().as_str() {
        "low" => pb::Priority::Low,
        "normal" | "medium" => pb::Priority::Normal,
        "high" | "urgent" | "critical" => pb::Priority::High,
        _ => pb::Priority::Unspecified,
    }
}

fn delivery(options: &Options) -> pb::DeliveryOptions {
    let mode = match options.require_ack {
        Some(Value::Bool(false)) => pb::DeliveryMode::AtMostOnce,
        Some(Value::Bool(true)) => pb::DeliveryMode::AtLeastOnce,
        _ => pb::DeliveryMode::Unspecified,
    };
    let retries = options.max_retries.as_ref().and_then(Value::as_u64).and_then(|most| u32::try_from(most).ok());
    let delay = options.retry_delay.as_ref().and_then(span).map(duration::to_proto);
    pb::DeliveryOptions {
        mode: mode.into(),
        max_attempts: retries.map_or(0, |most| most.saturating_add(1)),
        backoff: delay.map(|delay| pb::Backoff { initial: Some(delay), ..pb::Backoff::default() }),
        ..pb::DeliveryOptions::default()
    }
}

/// Seconds, or a duration as text. Zero means none.
pub(super) fn span(value: &Value) -> Option<Duration> {
    let span = match value {
        Value::String(text) => duration::parse(text).ok()?,
        _ => Duration::try_from_secs_f64(value.as_f64()?).ok()?,
    };
    (!span.is_zero() && span <= duration::MAX).then_some(span)
}

/// RFC 3339, the same without offset (Python writes it so; taken as UTC), or seconds since 1970.
fn moment(value: &Value) -> Option<prost_types::Timestamp> {
    match value {
        Value::String(text) => timestamp::parse(text).or_else(|| timestamp::parse(&format!("{text}Z"))),
        _ => {
            let seconds = value.as_f64().filter(|seconds| (0.0..=253_402_300_799.0).contains(seconds))?;
            let since = Duration::try_from_secs_f64(seconds).ok()?;
            after(prost_types::Timestamp::default(), since)
        }
    }
}

fn after(time: prost_types::Timestamp, span: Duration) -> Option<prost_types::Timestamp> {
    let later = timestamp::to_system(&time)?.checked_add(span).map(timestamp::from_system)?;
    timestamp::to_system(&later).map(|_| later)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses() {
        let check = |to: &str, wanted: Option<&str>| {
            assert_eq!(address(to).map(|to| to.to_string()).as_deref(), wanted, "{to}");
        };
        check("reviewer", Some("@reviewer"));
        check("Reviewer-2", Some("@reviewer-2"));
        check("@x", Some("@x"));
        check("#dev", Some("#dev"));
        check("all", Some("#all"));
        check("BROADCAST", Some("#all"));
        check("*", Some("#all"));
        for nobody in ["", "two words", "a.b", "ü", "@", "@@x"] {
            check(nobody, None);
        }
    }

    #[test]
    fn moments_and_spans() {
        let seconds = |value: Value| moment(&value).map(|time| (time.seconds, time.nanos));
        assert_eq!(seconds(json!("1970-01-01T00:00:01")), Some((1, 0)));
        assert_eq!(seconds(json!("1970-01-01T01:00:01+01:00")), Some((1, 0)));
        assert_eq!(seconds(json!(1.5)), Some((1, 500_000_000)));
        for bad in [json!("now"), json!(-1), json!(1e300), json!(null), json!([])] {
            assert_eq!(seconds(bad), None);
        }
        assert_eq!(span(&json!(90)), Some(Duration::from_secs(90)));
        assert_eq!(span(&json!("1m30s")), Some(Duration::from_secs(90)));
        for none in [json!(0), json!(-1), json!(1e300), json!("soon"), json!(true)] {
            assert_eq!(span(&none), None);
        }
    }
}
