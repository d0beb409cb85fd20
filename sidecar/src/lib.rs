//! The sidecar: the localhost edge between one agent process and the bus.
//!
//! `stdio` starts it beside an agent → `app` wires it → `api` is what the agent talks to → `outbound` publishes,
//! `inbound` delivers and settles, `ask` waits for replies → `control` keeps its grant fresh. Nothing here knows how
//! agents are spawned or what the control plane does with a request.

pub mod api;
pub mod app;
pub mod breaker;
pub mod ask;
pub mod control;
pub mod embed;
pub mod full;
pub mod inbound;
pub mod later;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod outbound;
pub mod query;
pub mod scope;
pub mod seal;
pub mod spool;
pub mod standby;
pub mod stdio;
pub mod toll;

pub use stdio::Args;
