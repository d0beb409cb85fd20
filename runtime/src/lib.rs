//! The process kit: what every long-running part of the bus needs and that has nothing to do with messaging.
//!
//! Values (`bytesize`), pure decisions (`backoff`, `restart`), the life of a process (`telemetry`, `trace`, `ready`, `drain`,
//! `tasks`), its doors (`serve`, `admin`, `metrics`), its children (`process`, `launch`, `files`, `logs`), its folder (`state`) and its
//! secrets (`secrecy`).
//! Nothing here knows NATS, events or agents; the services are built from these parts, never the other way round.

pub mod admin;
pub mod backoff;
pub mod bytesize;
pub mod drain;
pub mod files;
pub mod launch;
pub mod leftovers;
pub mod logs;
pub mod metrics;
mod otlp;
mod ownership;
pub mod process;
pub mod ready;
pub mod restart;
pub mod secrecy;
pub mod serve;
pub mod state;
pub mod tasks;
pub mod telemetry;
pub mod trace;
