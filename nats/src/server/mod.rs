//! The managed nats-server: where its program comes from, how it is configured, how it runs.
//!
//! Reading order is running order: [`find`] looks for a program (flag, environment, PATH, cache), [`obtain`] gets one when there is none,
//! [`config`] writes its configuration, [`process`] runs it, and [`StoreWatch`] notices when it cannot store any more.
//!
//! Promises: only a server of [`Version::MINIMUM`] or newer is ever returned; nothing is fetched without saying so; every wait is bounded.
//! It does not decide when to restart a dead server (the caller does, with its own back-off) and never touches a server it did not start.

mod child;
pub mod config;
mod files;
pub mod find;
pub mod obtain;
pub mod process;
mod ready;
mod store_watch;
#[cfg(test)]
mod tests;
mod version;

pub use child::ProbeError;
pub use config::{ConfigOptions, OperatorMode};
pub use find::{Binary, Error, Options, Source, find_only, find_or_obtain};
pub use process::{Server, StartError, free_port};
pub use store_watch::StoreWatch;
pub use version::Version;

/// Told, in words for a person, what is being fetched and from where. Called from the task that waits, never after it returned.
pub type Progress<'a> = dyn Fn(&str) + Send + Sync + 'a;
