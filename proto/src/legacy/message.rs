//! The existing message format, as it is written.
//!
//! Only what the format promises to be text is typed; everything optional stays a JSON value, with `null` kept apart
//! from absent, and unknown keys are kept: nothing may be lost because somebody spelled it differently.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Identity.
    pub message_id: String,
    /// Who sent it.
    pub from_agent: String,
    /// For whom.
    pub to_agent: String,
    /// What it is.
    pub message_type: String,
    /// Usually `low`, `normal`, `high`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub priority: Option<Value>,
    /// Usually ISO 8601 or seconds since 1970.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Value>,
    /// Usually seconds.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Value>,
    /// The content.
    pub body: Body,
    /// How it is delivered; `Some(None)` is a `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub delivery_options: Option<Option<Options>>,
    /// Keys that the format does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The content of a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// What it says.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// What it is about.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// Anything else.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Keys that the format does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How a message is delivered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// False: at most once.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub require_ack: Option<Value>,
    /// Attempts after the first.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<Value>,
    /// Usually seconds.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retry_delay: Option<Value>,
    /// Keys that the format does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
pub(super) mod testing {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(".{0,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn likely(values: Vec<Value>) -> impl Strategy<Value = Option<Value>> {
        option::of(prop_oneof![proptest::sample::select(values), any_value()])
    }

    /// Keys that cannot collide with those of the format.
    fn any_extra() -> impl Strategy<Value = Map<String, Value>> {
        btree_map("x_.{0,6}", any_value(), 0..3).prop_map(|map| map.into_iter().collect())
    }

    fn any_body() -> impl Strategy<Value = Body> {
        let value = || option::of(any_value());
        (value(), value(), value(), any_extra()).prop_map(|(content, context, metadata, extra)| Body {
            content,
            context,
            metadata,
            extra,
        })
    }

    fn any_options() -> impl Strategy<Value = Options> {
        let require_ack = likely(vec![json!(true), json!(false)]);
        let max_retries = likely(vec![json!(0), json!(3), json!(u32::MAX), json!(-1)]);
        let retry_delay = likely(vec![json!(2), json!(0.5), json!("5s"), json!(-1), json!(1e300)]);
        (require_ack, max_retries, retry_delay, any_extra()).prop_map(
            |(require_ack, max_retries, retry_delay, extra)| Options { require_ack, max_retries, retry_delay, extra },
        )
    }

    /// Messages as they might be found, good and strange.
    pub fn any_message() -> impl Strategy<Value = Message> {
        let to = prop_oneof!["[a-zA-Z]{0,9}", Just("all".to_owned()), "[@#]?[a-z]{1,6}", ".{0,12}"];
        let kind = prop_oneof!["[a-z]{1,6}(\\.[a-z]{1,6}){0,2}", ".{0,12}"];
        let priority = likely(vec![json!("low"), json!("NORMAL"), json!("critical"), json!(5)]);
        let moments = vec![json!("2026-11-20T10:00:00Z"), json!("2026-11-20T10:00:00.5"), json!(1.7e9), json!(-1e300)];
        let ttl = likely(vec![json!(60), json!(0), json!(0.25), json!("1h"), json!(-5), json!(u64::MAX)]);
        let strings = (".{0,12}", ".{0,12}", to, kind);
        let rest = (any_body(), option::of(option::of(any_options())), any_extra());
        (strings, priority, likely(moments), ttl, rest).prop_map(|(strings, priority, timestamp, ttl, rest)| {
            let (message_id, from_agent, to_agent, message_type) = strings;
            let (body, delivery_options, extra) = rest;
            Message {
                message_id,
                from_agent,
                to_agent,
                message_type,
                priority,
                timestamp,
                ttl,
                body,
                delivery_options,
                extra,
            }
        })
    }
}
