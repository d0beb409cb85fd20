//! The way in: from the broker to the agent and back as an answer.
//!
//! `group` pulls by demand; `slices` does for a group in lanes or parts, as `lanes` decides → `admit` decides what a message
//! is → `table` holds it under a lease and hands it out by credit (`hand`) → `settle` takes the agent's answer (`reply` one
//! to an ask) → `moves` stores a retry or a dead letter before the broker is told, as far as the group's
//! `share` goes → `receipt` says who was through with it.
//! `brake` leaves a group alone whose events the agent keeps failing on.
//!
//! `hub` owns all of it. Deciding (`admit`, `lanes`, `table`) takes time as an argument and does nothing by itself.

pub mod hub;

mod group;
pub mod lanes;
mod slices;

pub mod admit;
mod hand;
pub mod table;

mod brake;
mod moves;
mod receipt;
mod reply;
mod settle;
mod share;

pub use hub::{Hub, Options};
pub use reply::ReplyWith;
pub use settle::{How, Settled};
pub use table::{Gone, Outgoing};
