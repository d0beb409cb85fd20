//! The one place that decides whether an event may be published.
//!
//! Looks only at the head and the length, never at the payload. A refusal says what is wrong and what is allowed, and has
//! the code a caller can act on. Rights (who may publish where) are not decided here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::address::{Address, dotted};
use crate::code::Code;
use crate::duration;
use crate::event::v1 as pb;
use crate::failure::Fault;
use crate::head::EventHead;
use crate::timestamp;

/// Longest id, also for correlation and causation, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Longest ordering key, in bytes.
pub const ORDERING_KEY_BYTES_MAX: usize = 256;
/// Longest content type and attribute key, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// Longest schema, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 512;
/// Attribute keys with this prefix, in any case, belong to the bus.
pub const RESERVED_PREFIX: &str = "ab-";

/// How large an event may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest encoded event, in bytes.
    pub event_bytes_max: usize,
    /// Most attributes.
    pub attributes_max: usize,
    /// Keys and values of all attributes together, in bytes.
    pub attributes_bytes_max: usize,
    /// Longest chain of events.
    pub hops_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The broker takes 1 MiB by default; retry and dead-letter copies of the event need room for more headers.
            event_bytes_max: 1024 * 1024 - 16 * 1024,
            // They are also matched by filters, for every event and subscription.
            attributes_max: 32,
            attributes_bytes_max: 8192,
            // Longer than any sensible chain of agents, short enough to stop a loop early.
            hops_max: 32,
        }
    }
}

/// Checks an event as it is about to be stored, with its id already set. `total_len` is the length of the encoded event
/// in bytes. Returns where it goes.
pub fn validate(head: &EventHead, total_len: usize, limits: &Limits, now: SystemTime) -> Result<Address, Fault> {
    if total_len > limits.event_bytes_max {
        let message = format!("the event has {total_len} bytes; at most {} are allowed", limits.event_bytes_max);
        return Err(Fault::new(Code::TooLarge, message));
    }
    let to = head.to.as_ref().ok_or_else(|| Fault::new(Code::InvalidAddress, "the event has no `to`"))?;
    let address = Address::try_from(to)?;
    check_ids(head)?;
    check_texts(head)?;
    check_attributes(&head.attributes, limits)?;
    check_delivery(head)?;
    check_times(head, now)?;
    if head.hops > limits.hops_max {
        let (hops, max) = (head.hops, limits.hops_max);
        return Err(Fault::new(Code::HopLimit, format!("`hops` is {hops}; at most {max} are allowed (is it a loop?)")));
    }
    Ok(address)
}

/// Checks what a group asks for of types and attributes. What no event can have is refused: the group would take every event
/// of its patterns and hand out none.
pub fn filters(types: &[String], attributes: &BTreeMap<String, String>) -> Result<(), Fault> {
    for wanted in types {
        dotted("type", wanted).map_err(|why| Fault::new(Code::InvalidEvent, why))?;
    }
    check_attributes(attributes, &Limits::default())
}

fn check_ids(head: &EventHead) -> Result<(), Fault> {
    if head.id.is_empty() {
        return invalid(format!("`id` is empty; use 1 to {ID_BYTES_MAX} visible ASCII characters"));
    }
    id("id", &head.id)?;
    id("correlation_id", &head.correlation_id)?;
    id("causation_id", &head.causation_id)?;
    id("replay_of", &head.replay_of)?;
    id("reply.request_id", head.reply.as_ref().map_or("", |reply| &reply.request_id))
}

/// Ids become headers, so only visible ASCII.
fn id(field: &str, text: &str) -> Result<(), Fault> {
    within(field, text, ID_BYTES_MAX)?;
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => invalid(format!("`{field}` contains {bad:?}; only visible ASCII without spaces is allowed")),
        None => Ok(()),
    }
}

fn check_texts(head: &EventHead) -> Result<(), Fault> {
    if !head.r#type.is_empty() {
        dotted("type", &head.r#type).map_err(|why| Fault::new(Code::InvalidEvent, why))?;
    }
    within("ordering_key", &head.ordering_key, ORDERING_KEY_BYTES_MAX)?;
    within("schema", &head.schema, SCHEMA_BYTES_MAX)?;
    check_content_type(&head.content_type)
}

/// `type/subtype`, then perhaps parameters. It becomes a header, so nothing but printable ASCII.
fn check_content_type(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Ok(());
    }
    within("content_type", text, LABEL_BYTES_MAX)?;
    let media = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let good = media.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    if good && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Ok(());
    }
    invalid(format!("`content_type` is `{}`; write it like `application/json`", text.escape_debug()))
}

fn check_attributes(attributes: &BTreeMap<String, String>, limits: &Limits) -> Result<(), Fault> {
    let (count, max) = (attributes.len(), limits.attributes_max);
    if count > max {
        return invalid(format!("the event has {count} attributes; at most {max} are allowed"));
    }
    let (bytes, max) = (attributes.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>(), limits.attributes_bytes_max);
    if bytes > max {
        return invalid(format!("the attributes have {bytes} bytes; at most {max} are allowed"));
    }
    for key in attributes.keys() {
        if key.is_empty() {
            return invalid("an attribute has an empty key".to_owned());
        }
        within("attribute key", key, LABEL_BYTES_MAX)?;
        if key.get(..RESERVED_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX)) {
            return invalid(format!("attribute `{}`: keys beginning with `ab-` are reserved", key.escape_debug()));
        }
    }
    Ok(())
}

fn check_delivery(head: &EventHead) -> Result<(), Fault> {
    known("priority", head.priority, pb::Priority::try_from(head.priority).is_ok())?;
    let Some(delivery) = &head.delivery else { return Ok(()) };
    known("delivery.mode", delivery.mode, pb::DeliveryMode::try_from(delivery.mode).is_ok())?;
    span("delivery.ack_deadline", &delivery.ack_deadline)?;
    let Some(backoff) = &delivery.backoff else { return Ok(()) };
    span("delivery.backoff.initial", &backoff.initial)?;
    span("delivery.backoff.max", &backoff.max)?;
    if backoff.factor != 0.0 && !(1.0..=1000.0).contains(&backoff.factor) {
        return invalid(format!("`delivery.backoff.factor` is {}; allowed are 1 to 1000", backoff.factor));
    }
    if !(0.0..=1.0).contains(&backoff.jitter) {
        return invalid(format!("`delivery.backoff.jitter` is {}; allowed are 0 to 1", backoff.jitter));
    }
    Ok(())
}

fn check_times(head: &EventHead, now: SystemTime) -> Result<(), Fault> {
    for (field, time) in [("time", &head.time), ("expires", &head.expires), ("reply_by", &head.reply_by)] {
        if time.as_ref().is_some_and(|time| timestamp::to_system(time).is_none()) {
            return invalid(format!("`{field}` is outside the years 1 to 9999"));
        }
    }
    match &head.expires {
        Some(expires) if timestamp::to_system(expires).is_some_and(|expires| expires <= now) => {
            let when = timestamp::format(expires).unwrap_or_default();
            Err(Fault::new(Code::Expired, format!("the event expired at {when}, before it was published")))
        }
        _ => Ok(()),
    }
}

fn within(field: &str, text: &str, max: usize) -> Result<(), Fault> {
    if text.len() > max {
        return invalid(format!("`{field}` has {} bytes; at most {max} are allowed", text.len()));
    }
    Ok(())
}

fn known(field: &str, number: i32, known: bool) -> Result<(), Fault> {
    if known { Ok(()) } else { invalid(format!("`{field}` has the unknown value {number}")) }
}

fn span(field: &str, value: &Option<prost_types::Duration>) -> Result<(), Fault> {
    match value.as_ref().map(duration::from_proto) {
        Some(None) => invalid(format!("`{field}` is negative or out of range")),
        Some(Some(value)) if value > duration::MAX => invalid(format!("`{field}` is longer than 10000d")),
        _ => Ok(()),
    }
}

fn invalid<T>(message: String) -> Result<T, Fault> {
    Err(Fault::new(Code::InvalidEvent, message))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn good() -> EventHead {
        let to = Address::Topic("notes.created".into()).into();
        EventHead { id: "0198-x/y".into(), to: Some(to), ..EventHead::default() }
    }

    fn run(change: impl FnOnce(&mut EventHead)) -> Result<Address, Fault> {
        let mut head = good();
        change(&mut head);
        validate(&head, 100, &Limits::default(), NOW)
    }

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn delivery(change: impl FnOnce(&mut pb::DeliveryOptions)) -> Option<pb::DeliveryOptions> {
        let mut delivery = pb::DeliveryOptions::default();
        change(&mut delivery);
        Some(delivery)
    }

    #[test]
    fn accepts_good_events() {
        let accept = |change: fn(&mut EventHead)| assert_eq!(run(change), Ok(Address::Topic("notes.created".into())));
        accept(|_| {});
        accept(|head| head.id = "x".repeat(128));
        accept(|head| head.r#type = "task.completed.v1".into());
        accept(|head| head.content_type = "text/plain; charset=utf-8".into());
        accept(|head| head.content_type = "application/vnd.a+json".into());
        accept(|head| head.expires = at(1));
        accept(|head| head.hops = 32);
        accept(|head| head.attributes = (0..32).map(|n| (format!("k{n}"), "v".into())).collect());
        accept(|head| head.attributes = [("about".to_owned(), "é".to_owned())].into());
        accept(|head| head.attributes = [("äb-".to_owned(), String::new())].into());
        accept(|head| head.delivery = delivery(|delivery| delivery.backoff = Some(pb::Backoff::default())));
    }

    #[test]
    fn refuses_bad_events_and_says_why() {
        let refuse = |code: Code, wanted: &str, change: fn(&mut EventHead)| {
            let fault = run(change).unwrap_err();
            assert_eq!(fault.code, code, "{fault}");
            assert!(fault.message.contains(wanted), "{fault}");
        };
        refuse(Code::InvalidAddress, "no `to`", |head| head.to = None);
        refuse(Code::InvalidAddress, "names no topic", |head| head.to = Some(pb::Address::default()));
        let event = |wanted: &str, change: fn(&mut EventHead)| refuse(Code::InvalidEvent, wanted, change);
        event("`id` is empty", |head| head.id.clear());
        event("`id` has 129 bytes; at most 128", |head| head.id = "x".repeat(129));
        event("`id` contains ' '", |head| head.id = "a b".into());
        event("`id` contains '\\r'", |head| head.id = "a\r\nX: y".into());
        event("`id` contains 'é'", |head| head.id = "é".into());
        event("`correlation_id` contains", |head| head.correlation_id = "\n".into());
        event("`causation_id` has 200 bytes", |head| head.causation_id = "x".repeat(200));
        event("type `a..b`", |head| head.r#type = "a..b".into());
        event("type has 151 bytes", |head| head.r#type = "x".repeat(151));
        event("`ordering_key` has 257 bytes", |head| head.ordering_key = "x".repeat(257));
        event("`schema` has", |head| head.schema = "x".repeat(513));
        event("`content_type` is `json`", |head| head.content_type = "json".into());
        event("`content_type` is `text/\\n`", |head| head.content_type = "text/\n".into());
        event("`content_type` is", |head| head.content_type = "text/plain; x=\r\nA: b".into());
        event("33 attributes", |head| head.attributes = (0..33).map(|n| (n.to_string(), String::new())).collect());
        event("8193 bytes", |head| head.attributes = [("k".to_owned(), "v".repeat(8192))].into());
        event("reserved", |head| head.attributes = [("AB-x".to_owned(), String::new())].into());
        event("empty key", |head| head.attributes = [(String::new(), String::new())].into());
        event("`priority` has the unknown value 9", |head| head.priority = 9);
        event("`delivery.mode`", |head| head.delivery = delivery(|delivery| delivery.mode = 7));
        event("factor` is NaN", |head| {
            let backoff = pb::Backoff { factor: f32::NAN, ..Default::default() };
            head.delivery = delivery(|delivery| delivery.backoff = Some(backoff));
        });
        event("jitter` is 2", |head| {
            let backoff = pb::Backoff { jitter: 2.0, ..Default::default() };
            head.delivery = delivery(|delivery| delivery.backoff = Some(backoff));
        });
        event("ack_deadline` is negative", |head| {
            let negative = prost_types::Duration { seconds: -1, nanos: 0 };
            head.delivery = delivery(|delivery| delivery.ack_deadline = Some(negative));
        });
        event("`time` is outside", |head| head.time = at(i64::MAX));
        refuse(Code::Expired, "expired at 1970-01-01T00:00:00Z", |head| head.expires = at(0));
        refuse(Code::HopLimit, "`hops` is 33; at most 32", |head| head.hops = 33);
    }

    #[test]
    fn the_limit_counts_the_whole_event() {
        let limits = Limits { event_bytes_max: 1000, ..Limits::default() };
        assert!(validate(&good(), 1000, &limits, NOW).is_ok());
        let fault = validate(&good(), 1001, &limits, NOW + Duration::from_secs(1)).unwrap_err();
        assert_eq!(fault.to_string(), "TOO_LARGE: the event has 1001 bytes; at most 1000 are allowed");
    }
}
