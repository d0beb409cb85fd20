//! The sidecar: the localhost edge between one agent process and the bus.
//!
//! - Its life: `stdio` starts it beside an agent, `app` wires it and stops it in order, `control` keeps its grant fresh,
//!   `metrics` counts. `embed` runs sidecars on a bus in memory, for tests.
//! - `api` is what the agent talks to: gRPC and HTTP.
//! - The way out: `outbound` checks and publishes, within `scope` and past `toll` (`limits`, and the `breaker` of destinations
//!   that fail). `spool` keeps events on disk while the broker is away, `full` says why a stream is full, `later` hands over
//!   events with a time.
//! - The way in: `inbound` delivers and settles. `seal` makes delivery ids, `memory` knows what was settled lately,
//!   `standby` opens the inbox of another agent while that is away.
//! - `ask` waits for replies; `query` tells the control plane which events are in hand.
//!
//! Nothing here knows how agents are spawned or what the control plane does with a request.

pub mod app;
pub mod control;
pub mod embed;
pub mod metrics;
pub mod stdio;

pub mod api;

pub mod breaker;
pub mod full;
pub mod later;
pub mod limits;
pub mod outbound;
pub mod scope;
pub mod spool;
pub mod toll;

pub mod inbound;
pub mod memory;
pub mod seal;
pub mod standby;

pub mod ask;
pub mod query;

pub use stdio::Args;
