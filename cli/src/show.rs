//! An event as a line for people: when, where to, from whom, what.
//!
//! Everything that came from outside is made printable. Nothing is cut: a line is as long as its data.

use agentbus_proto::event::v1::{Event, Priority};
use agentbus_proto::{Address, timestamp};
use prost_types::Timestamp;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::output::{Paint, printable};

/// One event on one line: `2026-11-20T10:00:00.123Z notes.created from me {"text":"hi"}`.
pub fn line(event: &Event, paint: Paint) -> String {
    let time = event.time.as_ref().map_or_else(|| "-".to_owned(), millis);
    let to = paint.nth(colour(event), address(event));
    let source = if event.source.is_empty() { "-" } else { &event.source };
    let from = paint.dim(format!("from {}", printable(source)));
    let kind = if event.r#type.is_empty() || event.r#type == address(event) {
        String::new()
    } else {
        format!(" [{}]", printable(&event.r#type))
    };
    format!("{} {to}{kind} {from} {}", paint.dim(time), data(event))
}

/// A number for the chain an event belongs to: the same for all of it, whoever prints it.
fn colour(event: &Event) -> usize {
    let chain = if event.correlation_id.is_empty() { &event.id } else { &event.correlation_id };
    // FNV-1a: no secret, only spread.
    let hash = chain.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    usize::try_from(hash >> 8).unwrap_or(0)
}

/// All of an event, a field a line; empty fields are left out.
pub fn block(event: &Event) -> Vec<String> {
    let moment = |time: &Option<Timestamp>| time.as_ref().map(millis).unwrap_or_default();
    let priority = match Priority::try_from(event.priority) {
        Ok(Priority::Unspecified) => String::new(),
        Ok(priority) => priority.as_str_name().trim_start_matches("PRIORITY_").to_ascii_lowercase(),
        Err(_) => event.priority.to_string(),
    };
    let hops = if event.hops == 0 { String::new() } else { event.hops.to_string() };
    let reply = event.reply.as_ref().map(|reply| reply.request_id.clone()).unwrap_or_default();
    let mut fields = vec![
        ("id", event.id.clone()),
        ("to", address(event)),
        ("type", event.r#type.clone()),
        ("source", event.source.clone()),
        ("time", moment(&event.time)),
        ("expires", moment(&event.expires)),
        ("correlation", event.correlation_id.clone()),
        ("causation", event.causation_id.clone()),
        ("priority", priority),
        ("key", event.ordering_key.clone()),
        ("hops", hops),
        ("reply to", reply),
        ("replay of", event.replay_of.clone()),
        ("schema", event.schema.clone()),
        ("content type", event.content_type.clone()),
    ];
    let attributes: Vec<String> = event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    fields.push(("attributes", attributes.join(" ")));
    let mut lines: Vec<String> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<13} {}", printable(&value)))
        .collect();
    lines.push(format!("{:<13} {}", "data", data(event)));
    lines
}

/// The address as people write it.
pub fn address(event: &Event) -> String {
    match event.to.as_ref() {
        // An address that breaks the rules is still shown: this is where one looks for it.
        Some(to) => Address::try_from(to).map_or_else(|_| printable(&format!("{to:?}")), |address| address.to_string()),
        None => "-".to_owned(),
    }
}

/// The data as text on one line; bytes that are no text as hex.
pub fn data(event: &Event) -> String {
    match std::str::from_utf8(&event.data) {
        Ok("") => "-".to_owned(),
        Ok(text) => printable(text.trim_end_matches('\n')),
        Err(_) => format!("<{} bytes> {}", event.data.len(), hex(&event.data)),
    }
}

/// Bytes as hex, in groups of four; at most the first 64.
pub fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let groups = bytes[..bytes.len().min(SHOWN)].chunks(4);
    let mut text: String = groups
        .map(|group| group.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        .collect::<Vec<_>>()
        .join(" ");
    if bytes.len() > SHOWN {
        text.push_str(" …");
    }
    text
}

/// A moment in UTC with milliseconds, always of the same width.
pub fn millis(time: &Timestamp) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let date = timestamp::to_system(time).map(OffsetDateTime::from);
    date.and_then(|date| date.format(format).ok()).unwrap_or_else(|| "-".to_owned())
}

/// A moment written as RFC 3339, with milliseconds; what is none stays as it is.
pub fn moment(text: &str) -> String {
    timestamp::parse(text).map_or_else(|| text.to_owned(), |time| millis(&time))
}

#[cfg(test)]
mod tests {
    use agentbus_proto::event::v1::{Address as Destination, address::Kind};

    use super::*;

    fn event() -> Event {
        Event {
            id: "1".into(),
            to: Some(Destination { kind: Some(Kind::Topic("notes.created".into())) }),
            source: "me".into(),
            r#type: "notes.created".into(),
            time: timestamp::parse("2026-11-20T10:00:00.5Z"),
            data: "{\"a\":\"x\ny\"}".into(),
            ..Event::default()
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let plain = line(&event(), Paint::default());
        assert_eq!(plain, "2026-11-20T10:00:00.500Z notes.created from me {\"a\":\"x\\ny\"}");
        let bare = line(&Event::default(), Paint::default());
        assert_eq!(bare, "- - from - -");
    }

    #[test]
    fn bytes_are_hex_and_bounded() {
        let event = Event { data: vec![0xff; 100].into(), ..event() };
        let text = data(&event);
        assert!(text.starts_with("<100 bytes> ffffffff ffffffff") && text.ends_with('…'), "{text}");
    }

    #[test]
    fn moments_have_one_width() {
        assert_eq!(moment("2026-11-20T10:00:00.5Z"), "2026-11-20T10:00:00.500Z");
        assert_eq!(moment("2026-11-20T10:00:00.123456789Z"), "2026-11-20T10:00:00.123Z");
        assert_eq!((moment("").as_str(), moment("x").as_str()), ("", "x"));
    }

    #[test]
    fn a_block_leaves_empty_fields_out() {
        let lines = block(&event());
        assert_eq!(lines[0], "id            1");
        assert!(!lines.iter().any(|line| line.starts_with("expires")));
    }
}
