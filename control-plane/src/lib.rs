//! The control plane: what a project declares, brought to life and kept alive.

pub mod api;
pub mod authority;
pub mod dead_letters;
pub mod groups;
pub mod spec;
pub mod status;
