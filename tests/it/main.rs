//! All behaviours in one binary: one link step, and tests that share the machine, not a server.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod addresses;
mod ask;
mod conformance;
mod crowd;
mod delivery;
mod dependencies;
mod docs;
mod edge;
mod history;
mod limits;
mod offline;
mod order;
mod pages;
mod scope;
mod skeleton;
mod status;
mod time;
mod tracing;
mod up;
