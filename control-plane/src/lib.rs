//! The control plane: what a project declares, brought to life and kept alive.

pub mod api;
mod app;
mod audit;
pub mod authority;
#[cfg(test)]
mod broker_tests;
pub mod control;
pub mod dead_letters;
pub mod grants;
pub mod groups;
pub mod reconcile;
pub mod registry;
pub mod runner;
pub mod spec;
pub mod status;
pub mod supervise;

pub use app::{ControlPlane, Options};
