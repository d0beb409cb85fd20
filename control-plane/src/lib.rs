//! The control plane: what a project declares, brought to life and kept alive.
//!
//! `spec` reads the project file, `authority` keeps the keys, `groups` decides who reads what, `grants` signs it and
//! `control` hands it to sidecars that ask, each in its `turns`. `reconcile` keeps the broker as it should be, `keeper` the groups' consumers on
//! it, `supervise` the processes,
//! `registry` and `audit` write down what is and what was. `resolve` tells askers who serves, and what they missed. `dead_letters` and `api` are what people ask. `runner` holds
//! programs that run beside a sidecar like any agent. `base` reaches the broker, `app` puts all of it together.
//!
//! Nothing here is on the way of an event: without the control plane events go on flowing.

pub mod addresses;
pub mod api;
mod app;
pub mod args;
mod audit;
pub mod authority;
mod base;
#[cfg(test)]
mod broker_tests;
pub mod control;
pub mod dead_letters;
pub mod events;
pub mod grants;
pub mod groups;
pub mod keeper;
pub mod reconcile;
pub mod registry;
pub mod replay;
pub mod resolve;
pub mod runner;
pub mod schedules;
pub mod spec;
pub mod standby;
pub mod status;
pub mod supervise;
pub mod trimmer;
mod turns;

pub use app::{ControlPlane, Options};
