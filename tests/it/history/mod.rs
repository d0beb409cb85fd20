//! History: what is kept, what is removed and when, what happens to a group that does not
//! read, and how stored events are read once more.

mod ages;
mod facts;
mod lost;
mod nats_cli;
mod replay;
mod runaway;
mod trim;
mod world;
