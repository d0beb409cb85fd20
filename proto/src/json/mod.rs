//! How events look as JSON: the bodies of the HTTP API, what the command line prints, and the lines an `exec` agent reads
//! and writes.
//!
//! Names are those of the contract in snake_case; addresses (`"@reviewer"`), durations (`"30s"`), moments (RFC 3339) and
//! enums (`"high"`) are text. What is unset is left out. Unknown keys are refused on the way in and allowed on the way
//! out, so that newer sidecars can say more. The rules for `data` are in [`content`].

mod ask;
pub mod content;
mod delivery;
mod event;
mod object;
mod options;
mod publish;

pub use ask::{AnswerJson, AskJson, Asked, ReplyWithJson};
pub use delivery::{DeliveryJson, PublishAnswerJson};
pub use event::{EventJson, ReplyJson, event_to_json};
pub use object::{Members, objects, optional};
pub use options::{BackoffJson, DeliveryOptionsJson, ModeJson, PriorityJson};
pub use publish::PublishJson;

/// Reads a JSON object. An array is refused, although its elements could be taken for the fields in their order.
pub fn object<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, crate::Fault> {
    let invalid = |why: String| crate::Fault::new(crate::Code::InvalidEvent, format!("invalid JSON: {why}"));
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => serde_json::from_slice(json).map_err(|error| invalid(error.to_string())),
        Some(b'[' | b'"' | b'0'..=b'9' | b't' | b'f' | b'n' | b'-') => {
            Err(invalid("expected an object, {…}".to_owned()))
        }
        // What is no JSON at all is said with its line and column.
        _ => serde_json::from_slice(json).map_err(|error| invalid(error.to_string())),
    }
}
