//! Priority and delivery options as JSON.

use serde::{Deserialize, Serialize};

use super::object::optional;
use crate::duration::{self, Text};
use crate::event::v1 as pb;

/// `"low"`, `"normal"`, `"high"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityJson {
    /// Background work.
    Low,
    /// What is meant when nothing is said.
    Normal,
    /// Handed out first where a group splits its lanes.
    High,
}

/// `"at_least_once"`, `"at_most_once"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeJson {
    /// Delivered until acked.
    AtLeastOnce,
    /// Acked before it is handed out.
    AtMostOnce,
}

/// `DeliveryOptions` of the contract; zeros and false are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryOptionsJson {
    /// How surely it is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ModeJson>,
    /// Deliveries before it becomes a dead letter, the first included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Pauses between attempts.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional")]
    pub backoff: Option<BackoffJson>,
    /// How long an agent may hold a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_deadline: Option<Text>,
    /// Record who received it and when.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub receipt: bool,
    /// Keep it as a dead letter when it expires unread.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dead_letter_if_expired: bool,
}

/// `Backoff` of the contract.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackoffJson {
    /// Pause before the second attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<Text>,
    /// Longest pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Text>,
    /// Growth from one pause to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Random variation, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
}

impl PriorityJson {
    /// From the number of the contract; `None` when unset or unknown.
    pub fn from_number(priority: i32) -> Option<Self> {
        match pb::Priority::try_from(priority) {
            Ok(pb::Priority::Low) => Some(Self::Low),
            Ok(pb::Priority::Normal) => Some(Self::Normal),
            Ok(pb::Priority::High) => Some(Self::High),
            Ok(pb::Priority::Unspecified) | Err(_) => None,
        }
    }
}

impl From<PriorityJson> for pb::Priority {
    fn from(priority: PriorityJson) -> Self {
        match priority {
            PriorityJson::Low => Self::Low,
            PriorityJson::Normal => Self::Normal,
            PriorityJson::High => Self::High,
        }
    }
}

impl From<DeliveryOptionsJson> for pb::DeliveryOptions {
    fn from(options: DeliveryOptionsJson) -> Self {
        let mode = match options.mode {
            None => pb::DeliveryMode::Unspecified,
            Some(ModeJson::AtLeastOnce) => pb::DeliveryMode::AtLeastOnce,
            Some(ModeJson::AtMostOnce) => pb::DeliveryMode::AtMostOnce,
        };
        Self {
            mode: mode.into(),
            max_attempts: options.max_attempts.unwrap_or_default(),
            backoff: options.backoff.map(pb::Backoff::from),
            ack_deadline: options.ack_deadline.map(proto),
            receipt: options.receipt,
            dead_letter_if_expired: options.dead_letter_if_expired,
        }
    }
}

impl From<&pb::DeliveryOptions> for DeliveryOptionsJson {
    fn from(options: &pb::DeliveryOptions) -> Self {
        let mode = match pb::DeliveryMode::try_from(options.mode) {
            Ok(pb::DeliveryMode::AtLeastOnce) => Some(ModeJson::AtLeastOnce),
            Ok(pb::DeliveryMode::AtMostOnce) => Some(ModeJson::AtMostOnce),
            Ok(pb::DeliveryMode::Unspecified) | Err(_) => None,
        };
        Self {
            mode,
            max_attempts: Some(options.max_attempts).filter(|most| *most != 0),
            backoff: options.backoff.as_ref().map(BackoffJson::from),
            ack_deadline: options.ack_deadline.as_ref().and_then(text),
            receipt: options.receipt,
            dead_letter_if_expired: options.dead_letter_if_expired,
        }
    }
}

impl From<BackoffJson> for pb::Backoff {
    fn from(backoff: BackoffJson) -> Self {
        Self {
            initial: backoff.initial.map(proto),
            max: backoff.max.map(proto),
            factor: backoff.factor.unwrap_or_default() as f32,
            jitter: backoff.jitter.unwrap_or_default() as f32,
        }
    }
}

impl From<&pb::Backoff> for BackoffJson {
    fn from(backoff: &pb::Backoff) -> Self {
        Self {
            initial: backoff.initial.as_ref().and_then(text),
            max: backoff.max.as_ref().and_then(text),
            factor: widen(backoff.factor),
            jitter: widen(backoff.jitter),
        }
    }
}

fn proto(duration: Text) -> prost_types::Duration {
    duration::to_proto(duration.0)
}

fn text(duration: &prost_types::Duration) -> Option<Text> {
    duration::from_proto(duration).map(Text)
}

/// Through decimal text, so that 0.2 stays 0.2 and does not become 0.200000003.
fn widen(number: f32) -> Option<f64> {
    if number == 0.0 { None } else { number.to_string().parse().ok() }
}
