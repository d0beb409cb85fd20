//! Ask and reply: at once when nobody serves, until the deadline when nobody replies, and over outages of everybody.

mod answers;
mod away;
mod backlog;
mod commands;
mod streams;
mod trace;
mod unhappy;
pub mod world;
