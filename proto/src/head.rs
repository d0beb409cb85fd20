//! The event without its payload, and how to change an encoded event without decoding it.
//!
//! The sidecar passes events through as bytes: it reads this head, checks it, and appends the few fields it sets behind
//! the sender's bytes. The payload is never copied or looked at. Nothing here checks the fields: see `validate`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, int32, int64, string, uint32};
use prost_types::Timestamp;

use crate::code::Code;
use crate::event::v1 as pb;
use crate::failure::Fault;

/// Every field of `Event` but `data`, under the same tags. Decoding skips the payload.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventHead {
    /// See `Event.id`; likewise for all fields.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Replaced by the sidecar.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Destination; not checked yet.
    #[prost(message, optional, tag = "3")]
    pub to: Option<pb::Address>,
    /// Tokens with dots, or empty.
    #[prost(string, tag = "4")]
    pub r#type: String,
    /// When it was made.
    #[prost(message, optional, tag = "5")]
    pub time: Option<Timestamp>,
    /// Not handed out from this moment on.
    #[prost(message, optional, tag = "6")]
    pub expires: Option<Timestamp>,
    /// Id of the first event of the chain.
    #[prost(string, tag = "7")]
    pub correlation_id: String,
    /// Id of the event before.
    #[prost(string, tag = "8")]
    pub causation_id: String,
    /// The lane.
    #[prost(enumeration = "pb::Priority", tag = "9")]
    pub priority: i32,
    /// Order within the same key.
    #[prost(string, tag = "10")]
    pub ordering_key: String,
    /// Media type of the payload.
    #[prost(string, tag = "11")]
    pub content_type: String,
    /// Schema of the payload.
    #[prost(string, tag = "12")]
    pub schema: String,
    /// The sender's labels.
    #[prost(btree_map = "string, string", tag = "14")]
    pub attributes: BTreeMap<String, String>,
    /// The sender's wish for delivery.
    #[prost(message, optional, tag = "15")]
    pub delivery: Option<pb::DeliveryOptions>,
    /// A reply is wanted until this moment.
    #[prost(message, optional, tag = "16")]
    pub reply_by: Option<Timestamp>,
    /// Set on a reply.
    #[prost(message, optional, tag = "17")]
    pub reply: Option<pb::ReplyInfo>,
    /// Events before this one in its chain.
    #[prost(uint32, tag = "18")]
    pub hops: u32,
    /// Id of the original of a replay.
    #[prost(string, tag = "19")]
    pub replay_of: String,
}

impl EventHead {
    /// Reads the head of an encoded event. Refuses with `INVALID_EVENT` what is not an event.
    pub fn decode(event: &[u8]) -> Result<Self, Fault> {
        <Self as Message>::decode(event)
            .map_err(|error| Fault::new(Code::InvalidEvent, format!("not an agentbus.event.v1.Event: {error}")))
    }

    /// The type, or the topic of an event to a topic that has none. Empty when there is neither.
    pub fn effective_type(&self) -> &str {
        match self.to.as_ref().and_then(|to| to.kind.as_ref()) {
            Some(pb::address::Kind::Topic(topic)) if self.r#type.is_empty() => topic,
            _ => &self.r#type,
        }
    }

    /// When it expired, if it has by `now`.
    pub fn expired(&self, now: SystemTime) -> Option<SystemTime> {
        SystemTime::try_from(self.expires?).ok().filter(|expires| *expires <= now)
    }

    /// The chain the event belongs to: its correlation id, or its own id for the first of a chain.
    pub fn chain(&self) -> &str {
        if self.correlation_id.is_empty() { &self.id } else { &self.correlation_id }
    }
}

/// The fields a sidecar sets. `None` leaves what the sender wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stamp {
    /// For an event that came without one.
    pub id: Option<String>,
    /// Always: the authenticated sender.
    pub source: String,
    /// For an event to a topic without one.
    pub type_: Option<String>,
    /// For an event without one.
    pub time: Option<Timestamp>,
    /// From the ttl of the request.
    pub expires: Option<Timestamp>,
    /// For emitted events.
    pub correlation_id: Option<String>,
    /// For emitted events.
    pub causation_id: Option<String>,
    /// For emitted events.
    pub hops: Option<u32>,
    /// For asks.
    pub reply_by: Option<Timestamp>,
    /// For replays: the id of the original.
    pub replay_of: Option<String>,
}

/// The event with the stamp's fields replaced and everything else, unknown fields included, as it was.
///
/// Works by appending: of a field that occurs twice, every protobuf decoder takes the last one. For messages they merge
/// the two; therefore a timestamp is written with both its fields, zeros too, so that nothing of the old one remains.
/// Empty strings and zeros are written as well, so they replace. `event` must be a decodable event: behind a truncated
/// one the stamp would be read as its rest.
pub fn stamp(event: &[u8], stamp: &Stamp) -> Bytes {
    let texts = [
        (1, stamp.id.as_ref()),
        (2, Some(&stamp.source)),
        (4, stamp.type_.as_ref()),
        (7, stamp.correlation_id.as_ref()),
        (8, stamp.causation_id.as_ref()),
        (19, stamp.replay_of.as_ref()),
    ];
    let added: usize = texts.iter().map(|(_, text)| text.map_or(0, |text| text.len() + 6)).sum();
    let mut out = BytesMut::with_capacity(event.len() + added + 3 * TIMESTAMP_BYTES_MAX + 8);
    out.put_slice(event);
    for (tag, text) in texts {
        text.inspect(|text| string::encode(tag, text, &mut out));
    }
    for (tag, time) in [(5, &stamp.time), (6, &stamp.expires), (16, &stamp.reply_by)] {
        time.as_ref().inspect(|time| put_timestamp(tag, time, &mut out));
    }
    stamp.hops.inspect(|hops| uint32::encode(18, hops, &mut out));
    out.freeze()
}

/// Tag, length, two tagged varints of at most ten bytes each.
const TIMESTAMP_BYTES_MAX: usize = 24;

fn put_timestamp(tag: u32, time: &Timestamp, out: &mut BytesMut) {
    let length = int64::encoded_len(1, &time.seconds) + int32::encoded_len(2, &time.nanos);
    debug_assert!(length + 1 + encoded_len_varint(length as u64) <= TIMESTAMP_BYTES_MAX);
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
    int64::encode(1, &time.seconds, out);
    int32::encode(2, &time.nanos, out);
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::event::v1::Event;
    use crate::testing::{any_event, any_timestamp};

    fn any_stamp() -> impl Strategy<Value = Stamp> {
        let text = || option::of(".{0,40}");
        let time = || option::of(any_timestamp());
        let numbers = option::of(any::<u32>());
        (text(), ".{0,40}", text(), time(), time(), text(), text(), numbers, time(), text()).prop_map(
            |(id, source, type_, time, expires, correlation_id, causation_id, hops, reply_by, replay_of)| Stamp {
                id,
                source,
                type_,
                time,
                expires,
                correlation_id,
                causation_id,
                hops,
                reply_by,
                replay_of,
            },
        )
    }

    fn replaced(event: &Event, stamp: &Stamp) -> Event {
        let mut event = event.clone();
        let put = |field: &mut String, text: &Option<String>| text.iter().for_each(|text| field.clone_from(text));
        put(&mut event.id, &stamp.id);
        event.source.clone_from(&stamp.source);
        put(&mut event.r#type, &stamp.type_);
        put(&mut event.correlation_id, &stamp.correlation_id);
        put(&mut event.causation_id, &stamp.causation_id);
        event.time = stamp.time.or(event.time);
        event.expires = stamp.expires.or(event.expires);
        event.hops = stamp.hops.unwrap_or(event.hops);
        event.reply_by = stamp.reply_by.or(event.reply_by);
        put(&mut event.replay_of, &stamp.replay_of);
        event
    }

    proptest! {
        #[test]
        fn a_stamp_replaces_its_fields_and_nothing_else(event in any_event(), with in any_stamp()) {
            let stamped = stamp(&event.encode_to_vec(), &with);
            prop_assert_eq!(Event::decode(stamped).unwrap(), replaced(&event, &with));
        }

        #[test]
        fn the_head_is_the_event_without_its_data(event in any_event()) {
            let head = EventHead::decode(&event.encode_to_vec()).unwrap();
            let without = Event { data: Bytes::new(), ..event };
            prop_assert_eq!(head.encode_to_vec(), without.encode_to_vec());
        }

        #[test]
        fn any_bytes_are_a_head_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(fault) = EventHead::decode(&bytes) {
                prop_assert_eq!(fault.code, Code::InvalidEvent);
            }
        }
    }

    #[test]
    fn an_event_to_a_topic_takes_its_topic_as_type() {
        let topic = Some(pb::Address { kind: Some(pb::address::Kind::Topic("a.b".into())) });
        let agent = Some(pb::Address { kind: Some(pb::address::Kind::Agent("x".into())) });
        let check = |to: &Option<pb::Address>, kind: &str, wanted: &str| {
            let head = EventHead { to: to.clone(), r#type: kind.into(), ..EventHead::default() };
            assert_eq!(head.effective_type(), wanted);
        };
        check(&topic, "", "a.b");
        check(&topic, "c.v1", "c.v1");
        check(&agent, "", "");
        check(&None, "", "");
    }
}
