//! How events look as JSON: the bodies of the HTTP API, what the command line prints, and the lines an `exec` agent reads
//! and writes.
//!
//! Names are those of the contract in snake_case; addresses (`"@reviewer"`), durations (`"30s"`), moments (RFC 3339) and
//! enums (`"high"`) are text. What is unset is left out. Unknown keys are refused on the way in and allowed on the way
//! out, so that newer sidecars can say more. The rules for `data` are in [`content`].

pub mod content;
mod delivery;
mod event;
mod options;
mod publish;

pub use delivery::{DeliveryJson, PublishAnswerJson};
pub use event::{EventJson, ReplyJson, event_to_json};
pub use options::{BackoffJson, DeliveryOptionsJson, ModeJson, PriorityJson};
pub use publish::PublishJson;
