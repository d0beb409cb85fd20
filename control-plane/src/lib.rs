//! The control plane: what a project declares, brought to life and kept alive.

pub mod authority;
pub mod groups;
pub mod spec;
