//! The body of `POST /v1/ask` and of the settle verb `reply`, and the answer to an ask.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::content;
use super::event::EventJson;
use super::object::optional;
use super::options::{DeliveryOptionsJson, PriorityJson};
use super::publish::{PublishJson, present};
use crate::duration::Text;
use crate::event::v1 as pb;
use crate::failure::Fault;

/// An event that wants replies: the keys of a publish that make sense for one, and `timeout`. Only `to` is required;
/// unknown keys are refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each is the key of that name of `PublishJson`")]
pub struct AskJson {
    /// How long the final reply is waited for: `"30s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Text>,
    pub to: String,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<PriorityJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional")]
    pub delivery: Option<DeliveryOptionsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
}

/// What an ask amounts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The event.
    pub event: pb::Event,
    /// How long it may be handed out, if that was said.
    pub ttl: Option<Duration>,
    /// How long the final reply is waited for, if that was said.
    pub timeout: Option<Duration>,
}

impl AskJson {
    /// Reads one. Refuses with `INVALID_EVENT`; the message says which key, line and column.
    pub fn from_slice(json: &[u8]) -> Result<Self, Fault> {
        super::object(json)
    }

    /// The event and its times. Checks what has to be converted; the rest is for `validate`.
    pub fn into_ask(self) -> Result<Asked, Fault> {
        let timeout = self.timeout.as_ref().map(|timeout| timeout.0);
        let publish = PublishJson {
            to: self.to,
            data: self.data,
            data_base64: self.data_base64,
            ttl: self.ttl,
            id: self.id,
            r#type: self.r#type,
            time: self.time,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            priority: self.priority,
            ordering_key: self.ordering_key,
            content_type: self.content_type,
            schema: self.schema,
            attributes: self.attributes,
            delivery: self.delivery,
            hops: self.hops,
            ..PublishJson::default()
        };
        let (event, ttl) = publish.into_event()?;
        Ok(Asked { event, ttl, timeout })
    }
}

/// The body of `POST /v1/deliveries/ID/reply`. All keys may be left out: an empty final reply.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplyWithJson {
    /// Content; see [`content`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub data: Option<Box<RawValue>>,
    /// Content as base64; not together with `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// Media type of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// More replies follow: the delivery stays with the agent.
    pub more: bool,
    /// Position among the replies, from 0; makes a repetition safe. Absent: the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Set when the agent could not do what was asked: a code of its own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_code: String,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error_message: String,
}

impl ReplyWithJson {
    /// The content and its media type. Refuses with `INVALID_EVENT`.
    pub fn content(&self) -> Result<(Bytes, String), Fault> {
        content::read(self.data.as_deref(), self.data_base64.as_deref(), self.content_type.as_deref())
    }
}

/// The answer to an ask that was not streamed, and the data of each event of a stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AnswerJson {
    /// The reply; `reply` in it is set.
    pub reply: EventJson,
    /// No more follow.
    pub r#final: bool,
    /// The replies before the final one, in order; only where all are answered together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<EventJson>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;

    #[test]
    fn an_ask_is_an_event_with_a_timeout() {
        let ask = |json: &str| AskJson::from_slice(json.as_bytes())?.into_ask();
        let least = ask(r#"{"to":"@reviewer"}"#).unwrap();
        assert_eq!((least.timeout, least.ttl), (None, None));
        let full = ask(r#"{"to":"@reviewer","data":null,"timeout":"5s","ttl":"1h","id":"a"}"#).unwrap();
        assert_eq!((full.timeout, full.ttl), (Some(Duration::from_secs(5)), Some(Duration::from_secs(3600))));
        assert_eq!((full.event.id.as_str(), full.event.data.as_ref()), ("a", &b"null"[..]));
        for (bad, code) in [
            (r#"{"to":"@r","reply_by":"2026-11-20T10:00:00Z"}"#, Code::InvalidEvent),
            (r#"{"to":"@r","timeout":"soon"}"#, Code::InvalidEvent),
            (r#"{"to":"@r","delivery":[]}"#, Code::InvalidEvent),
            (r#"{"data":1}"#, Code::InvalidAddress),
        ] {
            assert_eq!(ask(bad).unwrap_err().code, code, "{bad}");
        }
    }

    #[test]
    fn a_reply_may_be_empty() {
        let reply: ReplyWithJson = super::super::object(b"{}").unwrap();
        assert_eq!(reply.content().unwrap(), (Bytes::new(), String::new()));
        let reply: ReplyWithJson = super::super::object(br#"{"data":{"ok":true},"more":true,"index":2}"#).unwrap();
        assert_eq!(reply.content().unwrap(), (r#"{"ok":true}"#.into(), "application/json".to_owned()));
        assert_eq!((reply.more, reply.index), (true, Some(2)));
    }
}
