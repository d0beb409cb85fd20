//! Arbitrary values of the contract, for the property tests of this crate.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost_types::{Duration, Timestamp};

use crate::event::v1 as pb;

/// Any moment of the years 1 to 9999.
pub fn any_timestamp() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800i64..=253_402_300_799, 0..1_000_000_000i32)
        .prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn any_duration() -> impl Strategy<Value = Duration> {
    (0..=1_000_000i64, 0..1_000_000_000i32).prop_map(|(seconds, nanos)| Duration { seconds, nanos })
}

fn any_address() -> impl Strategy<Value = pb::Address> {
    use pb::address::Kind;
    let kind = prop_oneof![
        "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}".prop_map(Kind::Topic),
        "[a-z]{1,8}".prop_map(Kind::Agent),
        "[a-z]{1,8}".prop_map(Kind::Channel),
    ];
    option::of(kind).prop_map(|kind| pb::Address { kind })
}

fn any_delivery() -> impl Strategy<Value = pb::DeliveryOptions> {
    let backoff = (option::of(any_duration()), option::of(any_duration()), 0.0..9.0f32, 0.0..1.0f32)
        .prop_map(|(initial, max, factor, jitter)| pb::Backoff { initial, max, factor, jitter });
    (0..3i32, any::<u32>(), option::of(backoff), option::of(any_duration()), any::<bool>(), any::<bool>()).prop_map(
        |(mode, max_attempts, backoff, ack_deadline, receipt, dead_letter_if_expired)| pb::DeliveryOptions {
            mode,
            max_attempts,
            backoff,
            ack_deadline,
            receipt,
            dead_letter_if_expired,
        },
    )
}

fn any_reply() -> impl Strategy<Value = pb::ReplyInfo> {
    (".{0,9}", any::<u32>(), any::<bool>(), ".{0,9}", ".{0,9}", ".{0,9}", ".{0,9}").prop_map(
        |(request_id, index, r#final, error_code, error_message, group, run)| pb::ReplyInfo {
            request_id,
            index,
            r#final,
            error_code,
            error_message,
            group,
            run,
        },
    )
}

fn any_attributes() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(".{0,9}", ".{0,9}", 0..4)
}

/// Any event that can be encoded; not only valid ones.
pub fn any_event() -> impl Strategy<Value = pb::Event> {
    let text = || ".{0,30}";
    let time = || option::of(any_timestamp());
    let names = (text(), text(), option::of(any_address()), text(), text(), text(), text());
    let times = (time(), time(), time());
    let content = (text(), text(), vec(any::<u8>(), 0..200), any_attributes());
    let rest = (0..4i32, option::of(any_delivery()), option::of(any_reply()), any::<u32>(), text());
    (names, times, content, rest).prop_map(|(names, times, content, rest)| {
        let (id, source, to, r#type, correlation_id, causation_id, ordering_key) = names;
        let (time, expires, reply_by) = times;
        let (content_type, schema, data, attributes) = content;
        let (priority, delivery, reply, hops, replay_of) = rest;
        pb::Event {
            id,
            source,
            to,
            r#type,
            time,
            expires,
            correlation_id,
            causation_id,
            priority,
            ordering_key,
            content_type,
            schema,
            data: data.into(),
            attributes,
            delivery,
            reply_by,
            reply,
            hops,
            replay_of,
        }
    })
}
