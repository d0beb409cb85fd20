//! A stored event as JSON: what deliveries carry and the command line prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::content::{self, Written};
use super::options::{DeliveryOptionsJson, PriorityJson};
use super::publish::{moment, present};
use crate::address::Address;
use crate::event::v1 as pb;
use crate::failure::Fault;
use crate::timestamp;

/// Every field of an event; what is unset is left out. A valid event survives the way there and back (its JSON data
/// without the spaces between tokens); of an invalid one, numbers no enum has and impossible times are left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventJson {
    /// Identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Who sent it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// `"notes.created"`, `"@reviewer"`, `"#engineering"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `"task.completed.v1"`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub r#type: String,
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Not handed out from this moment on, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Id of the first event of the chain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub correlation_id: String,
    /// Id of the event that led to this one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub causation_id: String,
    /// The lane, when the sender chose one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<PriorityJson>,
    /// Events with the same key keep their order.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ordering_key: String,
    /// Media type of the content; empty text: bytes without one; absent: no content either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Schema of the content.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// Content; see [`content`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub data: Option<Box<RawValue>>,
    /// Content that is neither JSON nor text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// The sender's labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The sender's wish for delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryOptionsJson>,
    /// A reply is wanted until this moment, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_by: Option<String>,
    /// Set on a reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyJson>,
    /// Events before this one in its chain; left out for the first.
    #[serde(skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// Id of the original of a replay.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replay_of: String,
}

/// `ReplyInfo` of the contract.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplyJson {
    /// Id of the event that asked.
    pub request_id: String,
    /// Position among the replies, from 0.
    pub index: u32,
    /// No reply follows.
    pub r#final: bool,
    /// Set when the agent could not do what was asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_code: String,
    /// What went wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_message: String,
    /// Group in whose name the agent replies.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Which handling of the ask it belongs to; another one begins anew at index 0.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run: String,
}

/// Serde gives a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An event as a JSON value, for printing. Content whose JSON a `Value` cannot hold (too deep, broken surrogates) is
/// written as base64; numbers beyond 64 bits lose precision here, unlike in `EventJson`.
pub fn event_to_json(event: &pb::Event) -> Value {
    let mut json = EventJson::from(event);
    if let Ok(value) = serde_json::to_value(&json) {
        return value;
    }
    json.data = None;
    json.data_base64 = Some(content::to_base64(&event.data));
    serde_json::to_value(&json).unwrap_or(Value::Null)
}

impl From<&pb::Event> for EventJson {
    fn from(event: &pb::Event) -> Self {
        let nothing = event.data.is_empty() && event.content_type.is_empty();
        let Written { data, data_base64 } = match nothing {
            true => Written { data: None, data_base64: None },
            false => content::write(&event.data, &event.content_type),
        };
        Self {
            id: event.id.clone(),
            source: event.source.clone(),
            to: event.to.as_ref().and_then(|to| to.kind.clone()).map(unchecked),
            r#type: event.r#type.clone(),
            time: event.time.as_ref().and_then(timestamp::format),
            expires: event.expires.as_ref().and_then(timestamp::format),
            correlation_id: event.correlation_id.clone(),
            causation_id: event.causation_id.clone(),
            priority: PriorityJson::from_number(event.priority),
            ordering_key: event.ordering_key.clone(),
            content_type: (!nothing).then(|| event.content_type.clone()),
            schema: event.schema.clone(),
            data,
            data_base64,
            attributes: event.attributes.clone(),
            delivery: event.delivery.as_ref().map(DeliveryOptionsJson::from),
            reply_by: event.reply_by.as_ref().and_then(timestamp::format),
            reply: event.reply.as_ref().map(ReplyJson::from),
            hops: event.hops,
            replay_of: event.replay_of.clone(),
        }
    }
}

/// Written even when it breaks a rule: it is on the stream already.
fn unchecked(kind: pb::address::Kind) -> String {
    let address = match kind {
        pb::address::Kind::Topic(topic) => Address::Topic(topic),
        pb::address::Kind::Agent(name) => Address::Agent(name),
        pb::address::Kind::Channel(name) => Address::Channel(name),
    };
    address.to_string()
}

impl TryFrom<EventJson> for pb::Event {
    type Error = Fault;

    fn try_from(json: EventJson) -> Result<Self, Fault> {
        let to = json.to.as_deref().map(str::parse::<Address>).transpose()?;
        let (data, content_type) =
            content::read(json.data.as_deref(), json.data_base64.as_deref(), json.content_type.as_deref())?;
        Ok(Self {
            id: json.id,
            source: json.source,
            to: to.map(pb::Address::from),
            r#type: json.r#type,
            time: moment("time", json.time.as_deref())?,
            expires: moment("expires", json.expires.as_deref())?,
            correlation_id: json.correlation_id,
            causation_id: json.causation_id,
            priority: json.priority.map_or(pb::Priority::Unspecified, pb::Priority::from).into(),
            ordering_key: json.ordering_key,
            content_type,
            schema: json.schema,
            data,
            attributes: json.attributes,
            delivery: json.delivery.map(pb::DeliveryOptions::from),
            reply_by: moment("reply_by", json.reply_by.as_deref())?,
            reply: json.reply.map(pb::ReplyInfo::from),
            hops: json.hops,
            replay_of: json.replay_of,
        })
    }
}

impl From<&pb::ReplyInfo> for ReplyJson {
    fn from(reply: &pb::ReplyInfo) -> Self {
        Self {
            request_id: reply.request_id.clone(),
            index: reply.index,
            r#final: reply.r#final,
            error_code: reply.error_code.clone(),
            error_message: reply.error_message.clone(),
            group: reply.group.clone(),
            run: reply.run.clone(),
        }
    }
}

impl From<ReplyJson> for pb::ReplyInfo {
    fn from(reply: ReplyJson) -> Self {
        Self {
            request_id: reply.request_id,
            index: reply.index,
            r#final: reply.r#final,
            error_code: reply.error_code,
            error_message: reply.error_message,
            group: reply.group,
            run: reply.run,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::any_event;

    #[test]
    fn unset_fields_are_left_out() {
        assert_eq!(event_to_json(&pb::Event::default()), json!({}));
    }

    #[test]
    fn an_event_is_readable() {
        let event = pb::Event {
            id: "i".into(),
            source: "list".into(),
            to: Some(Address::Topic("file.found".into()).into()),
            time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            priority: pb::Priority::High.into(),
            content_type: "application/json".into(),
            data: r#"{"path": "a"}"#.into(),
            delivery: Some(pb::DeliveryOptions {
                backoff: Some(pb::Backoff { jitter: 0.2, ..pb::Backoff::default() }),
                ..pb::DeliveryOptions::default()
            }),
            ..pb::Event::default()
        };
        let wanted = json!({
            "id": "i", "source": "list", "to": "file.found", "time": "1970-01-01T00:00:00Z", "priority": "high",
            "content_type": "application/json", "data": {"path": "a"}, "delivery": {"backoff": {"jitter": 0.2}},
        });
        assert_eq!(event_to_json(&event), wanted);
    }

    #[test]
    fn json_a_value_cannot_hold_is_base64() {
        let data = r#""\ud800""#;
        let event = pb::Event { content_type: content::JSON.into(), data: data.into(), ..pb::Event::default() };
        assert_eq!(event_to_json(&event)["data_base64"], content::to_base64(data.as_bytes()));
    }

    proptest! {
        #[test]
        fn an_event_survives_the_way_there_and_back(event in any_event()) {
            let to = event.to.clone().filter(|to| to.kind.is_some());
            let event = pb::Event { to, ..event };
            let text = serde_json::to_string(&EventJson::from(&event)).unwrap();
            let again: EventJson = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(pb::Event::try_from(again).unwrap(), event);
        }
    }
}
