//! Runners: ordinary agents that bring other programs onto the bus.
//!
//! `exec` runs a command once per event. It uses nothing but the sidecar's gRPC API and its own environment, so anything
//! it does any agent could do. `client` is the connection, `jobs` what is being worked on, `command` one child process,
//! `output` and `publish` what it had to say, `verdict` what follows for the event.

mod client;
mod command;
pub mod exec;
mod frames;
mod jobs;
mod output;
mod publish;
#[cfg(test)]
mod tests;
mod verdict;
