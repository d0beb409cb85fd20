//! The harness: a real nats-server, real sidecar processes and scripted agents, each test with its own of everything.
//!
//! `binary` builds the program once; `broker` runs a nats-server with authentication and the topology applied;
//! `installation` runs a whole `agentbus up`; `sidecar` runs a sidecar process against it; `http` and `grpc` are agents;
//! `collector` receives traces; `proxy` makes outages; `wait` waits for conditions. Nothing here sleeps for luck, and what a
//! test starts ends with it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub mod binary;
pub mod broker;
pub mod collector;
pub mod grpc;
pub mod http;
pub mod installation;
pub mod proxy;
pub mod sidecar;
pub mod wait;

pub use broker::Broker;
pub use installation::{Installation, Up};
pub use sidecar::{Member, SidecarProcess};
