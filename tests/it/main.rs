//! All behaviours in one binary: one link step, and tests that share the machine, not a server.

mod delivery;
mod dependencies;
mod edge;
mod scope;
mod docs;
mod readme;
mod skeleton;
mod up;
mod tracing;
