//! The control plane: what a project declares, brought to life and kept alive.
//!
//! - Its life: `args` makes a program of it, `app` puts it together, `base` reaches the broker and makes it ready.
//! - What is declared: `spec` reads the project file; `groups` decides who reads what, with the groups that come with
//!   `addresses`; `authority` keeps the keys and `grants` signs.
//! - What sidecars ask: `control` answers them, each in its `turns`. `resolve` says who serves an address and what an asker
//!   has missed, `standby` who is away, `schedules` takes events for later.
//! - What is kept alive: `reconcile` the broker as it should be, `keeper` the consumers of groups, `trimmer` room in the
//!   stream, `supervise` the processes.
//! - What is known: `registry` and `audit` write down what is and what was, `status` is the state of all as others see it.
//! - What people ask through `api`: `events` tells what became of one, `dead_letters` what was given up, `replay` hands out
//!   again, into other namespaces through `elsewhere`.
//! - `runner` holds programs that run beside a sidecar like any agent.
//!
//! Nothing here is on the way of an event: without the control plane events go on flowing.

mod app;
pub mod args;
mod base;
mod elsewhere;

pub mod addresses;
pub mod authority;
pub mod grants;
pub mod groups;
pub mod spec;

pub mod control;
pub mod resolve;
pub mod schedules;
pub mod standby;
mod turns;

pub mod keeper;
pub mod reconcile;
pub mod supervise;
pub mod trimmer;

mod audit;
pub mod registry;
pub mod status;

pub mod api;
pub mod dead_letters;
pub mod events;
pub mod replay;

pub mod runner;

#[cfg(test)]
mod broker_tests;

pub use app::{ControlPlane, Options};
