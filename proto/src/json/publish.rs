//! The body of `POST /v1/publish`, an element of `emit`, and a line of output of an `exec` agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::content;
use super::object::optional;
use super::options::{DeliveryOptionsJson, PriorityJson};
use crate::address::Address;
use crate::code::Code;
use crate::duration::Text;
use crate::event::v1 as pb;
use crate::failure::Fault;
use crate::timestamp;

/// An event to be published. Only `to` is required; unknown keys are refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishJson {
    /// `"notes.created"`, `"@reviewer"`, `"#engineering"`.
    pub to: String,
    /// Content; see [`content`].
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub data: Option<Box<RawValue>>,
    /// Content as base64; not together with `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// Lifetime from now: `"1h"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Text>,
    /// Identity; the sidecar makes one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `"task.completed.v1"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// When it was made, RFC 3339; the time of publishing when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Id of the first event of the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Id of the event that led to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// Default normal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<PriorityJson>,
    /// Events with the same key keep their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Media type of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Schema of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The sender's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The sender's wish for delivery.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional")]
    pub delivery: Option<DeliveryOptionsJson>,
    /// A reply is wanted until this moment, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_by: Option<String>,
    /// Events before this one in its chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
    /// Store it even if the agent or pool is not declared yet. Beside the event, like `ttl`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub park: bool,
}

impl PublishJson {
    /// Reads one. Refuses with `INVALID_EVENT`; the message says which key, line and column.
    pub fn from_slice(json: &[u8]) -> Result<Self, Fault> {
        super::object(json)
    }

    /// The event, and the lifetime that the sidecar turns into `expires`. Checks the address and what has to be
    /// converted; the rest is for `validate`.
    pub fn into_event(self) -> Result<(pb::Event, Option<Duration>), Fault> {
        let to: Address = self.to.parse()?;
        let (data, content_type) =
            content::read(self.data.as_deref(), self.data_base64.as_deref(), self.content_type.as_deref())?;
        let event = pb::Event {
            id: self.id.unwrap_or_default(),
            to: Some(to.into()),
            r#type: self.r#type.unwrap_or_default(),
            time: moment("time", self.time.as_deref())?,
            correlation_id: self.correlation_id.unwrap_or_default(),
            causation_id: self.causation_id.unwrap_or_default(),
            priority: self.priority.map_or(pb::Priority::Unspecified, pb::Priority::from).into(),
            ordering_key: self.ordering_key.unwrap_or_default(),
            content_type,
            schema: self.schema.unwrap_or_default(),
            data,
            attributes: self.attributes,
            delivery: self.delivery.map(pb::DeliveryOptions::from),
            reply_by: moment("reply_by", self.reply_by.as_deref())?,
            hops: self.hops.unwrap_or_default(),
            ..pb::Event::default()
        };
        Ok((event, self.ttl.map(|ttl| ttl.0)))
    }
}

/// Reads an RFC 3339 moment of the key `key`.
pub(super) fn moment(key: &str, text: Option<&str>) -> Result<Option<prost_types::Timestamp>, Fault> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || format!("`{key}` is `{}`; write it like `2026-11-20T10:00:00Z`", text.escape_debug());
    timestamp::parse(text).map(Some).ok_or_else(|| Fault::new(Code::InvalidEvent, wrong()))
}

/// Keeps `null` apart from an absent key: `"data": null` is content.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn event(json: &str) -> Result<(pb::Event, Option<Duration>), Fault> {
        PublishJson::from_slice(json.as_bytes())?.into_event()
    }

    #[test]
    fn the_least_event_has_only_an_address() {
        let (event, ttl) = event(r#"{"to":"@reviewer"}"#).unwrap();
        let to = Some(Address::Agent("reviewer".into()).into());
        assert_eq!((event, ttl), (pb::Event { to, ..pb::Event::default() }, None));
    }

    #[test]
    fn every_key_arrives() {
        let (event, ttl) = event(
            r#"{"to":"a.b","data":{"n":1},"ttl":"1h","id":"i","type":"t.v1","time":"1970-01-01T00:00:01Z",
                "correlation_id":"c","causation_id":"d","priority":"high","ordering_key":"k",
                "content_type":"application/x+json","schema":"s","attributes":{"x":"y"},
                "delivery":{"mode":"at_most_once","max_attempts":2,"backoff":{"initial":"2s","max":10,"factor":2,
                "jitter":0.5},"ack_deadline":"1m","receipt":true,"dead_letter_if_expired":true},
                "reply_by":"1970-01-01T00:00:02Z","hops":3}"#,
        )
        .unwrap();
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let backoff = pb::Backoff { initial: seconds(2), max: seconds(10), factor: 2.0, jitter: 0.5 };
        let delivery = pb::DeliveryOptions {
            mode: pb::DeliveryMode::AtMostOnce.into(),
            max_attempts: 2,
            backoff: Some(backoff),
            ack_deadline: seconds(60),
            receipt: true,
            dead_letter_if_expired: true,
        };
        let wanted = pb::Event {
            id: "i".into(),
            to: Some(Address::Topic("a.b".into()).into()),
            r#type: "t.v1".into(),
            time: Some(Timestamp { seconds: 1, nanos: 0 }),
            correlation_id: "c".into(),
            causation_id: "d".into(),
            priority: pb::Priority::High.into(),
            ordering_key: "k".into(),
            content_type: "application/x+json".into(),
            schema: "s".into(),
            data: r#"{"n":1}"#.into(),
            attributes: [("x".to_owned(), "y".to_owned())].into(),
            delivery: Some(delivery),
            reply_by: Some(Timestamp { seconds: 2, nanos: 0 }),
            hops: 3,
            ..pb::Event::default()
        };
        assert_eq!((event, ttl), (wanted, Some(Duration::from_secs(3600))));
    }

    #[test]
    fn null_is_content() {
        assert_eq!(event(r#"{"to":"a","delivery":null}"#).unwrap().0.delivery, None, "but no structure");
        assert_eq!(event(r#"{"to":"a","data":null}"#).unwrap().0.data, "null");
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |json: &str, code: Code, wanted: &str| {
            let fault = event(json).unwrap_err();
            assert_eq!(fault.code, code);
            assert!(fault.message.contains(wanted), "{fault}");
        };
        check("", Code::InvalidEvent, "invalid JSON: EOF");
        check("[1]", Code::InvalidEvent, "invalid JSON");
        check("{}", Code::InvalidEvent, "missing field `to`");
        check(r#"{"to":"a","prio":1}"#, Code::InvalidEvent, "unknown field `prio`");
        check(r#"{"to":"a","to":"b"}"#, Code::InvalidEvent, "duplicate field `to`");
        check(r#"{"to":"a","source":"me"}"#, Code::InvalidEvent, "unknown field `source`");
        check(r#"{"to":"a","priority":"urgent"}"#, Code::InvalidEvent, "unknown variant `urgent`");
        check(r#"{"to":"a","ttl":"soon"}"#, Code::InvalidEvent, "`soon` is not a duration");
        check(r#"{"to":"a","ttl":-1}"#, Code::InvalidEvent, "`-1` is not a duration");
        check(r#"{"to":"a","delivery":[]}"#, Code::InvalidEvent, "invalid type: sequence, expected an object");
        check(r#"{"to":"a","delivery":{"backoff":["1s"]}}"#, Code::InvalidEvent, "sequence, expected an object");
        check(r#"{"to":"a","delivery":{"mod":1}}"#, Code::InvalidEvent, "unknown field `mod`");
        check(r#"{"to":"a","attributes":{"n":1}}"#, Code::InvalidEvent, "expected a string");
        check(r#"{"to":"a","reply_by":"tomorrow"}"#, Code::InvalidEvent, "`reply_by` is `tomorrow`");
        check(r#"{"to":"a","data":1,"data_base64":""}"#, Code::InvalidEvent, "not both");
        check(r#"{"to":"A b"}"#, Code::InvalidAddress, "contains ' '");
        check(r#"{"to":""}"#, Code::InvalidAddress, "address is empty");
    }
}
