//! The command line of agentbus: one program, `agentbus`, for people and scripts.
//!
//! `commands` has one file per command; `instance` finds the bus to talk to; `client` (gRPC), `control` (HTTP) and `broker` (NATS) talk to
//! it; `output`, `show`, `table` and `quote` print; `exit` ends the process with the contract's code. `up` starts everything.
//! Nothing here decides about events: that is done by the sidecar and the control plane, which are libraries of this program too.

pub mod bench;
pub mod broker;
pub mod cli;
pub mod client;
pub mod commands;
pub mod control;
pub mod exit;
pub mod filter;
pub mod history;
pub mod instance;
pub mod output;
pub mod probe;
pub mod programs;
pub mod progress;
pub mod quote;
pub mod show;
pub mod size;
pub mod table;
pub mod terminal;
