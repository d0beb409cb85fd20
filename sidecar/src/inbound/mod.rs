//! The way in: from the broker to the agent and back as an answer.
//!
//! `group` pulls by demand → `admit` decides what a message is → `table` holds it under a lease and hands it out by
//! credit (`hand`) → `settle` takes the agent's answer (`reply` one to an ask) → `moves` stores a retry or a dead letter before the broker is told.
//! `hub` owns all of it. Deciding (`admit`, `table`) takes time as an argument and does nothing by itself.

pub mod admit;
mod brake;
mod group;
mod hand;
pub mod lanes;
pub mod hub;
mod moves;
mod receipt;
mod reply;
mod settle;
mod slices;
pub mod table;

pub use hub::{Hub, Options};
pub use reply::ReplyWith;
pub use settle::{How, Settled};
pub use table::{Gone, Outgoing};
