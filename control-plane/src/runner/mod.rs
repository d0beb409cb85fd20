//! Runners: ordinary agents that bring other programs onto the bus.
//!
//! `exec` runs a command once per event. It uses nothing but the sidecar's gRPC API and its own environment, so anything
//! it does any agent could do. `exec` is the loop, `client` its connection, `jobs` what is being worked on, `work` one event:
//! `command` is its child process, `output` and `publish` what that had to say, `verdict` what follows for the event, `answer` for an ask,
//! and `settle` telling it.

mod answer;
mod client;
mod command;
pub mod exec;
mod frames;
mod jobs;
mod options;
mod output;
mod publish;
mod settle;
#[cfg(test)]
mod tests;
mod verdict;
mod work;
