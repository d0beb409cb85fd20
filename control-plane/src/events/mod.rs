//! What became of an event, and of a whole chain of them, told from what the bus keeps anyway.
//!
//! No index is kept and nothing is written on the way of an event: `ids` says where in the stream to look for an id,
//! `scan` looks there at headers only, `marks` collects what retries, dead letters and receipts say, `asking` asks the sidecars
//! about what is in their hands, `gather` brings it together, `decide` and `story` say what it amounts to. `service` is
//! what others ask, `list` reads the stream for people who watch, `verbs` answers agents.
//!
//! What the streams cannot know is said to be unknown: after a plain ack it is recorded nowhere who acked and when. An
//! event that was emitted with the ack tells it, and so does a receipt.

mod asking;
mod decide;
mod gather;
mod ids;
mod list;
mod marks;
mod receipts;
mod scan;
mod service;
mod status;
mod story;
mod verbs;

pub use list::{ListQuery, Listed, Listing, list};
pub use service::{CHAIN_MAX, Events};
pub use status::{Attempt, Chain, EventStatus, GroupStatus, Shown, State};
pub use verbs::{Question, verbs};
