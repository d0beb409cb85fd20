//! The bus: everything that knows a subject, a stream or a header.
//!
//! - What is on the wire: `subject` and `pattern` say where an event goes and who reads it, `headers` what is told beside it,
//!   `msg_id` seals its id, `names` spells the assets.
//! - What exists on a broker: `topology` is the table of it, `layout` says through which consumers a group reads, `budget`
//!   how many there may be; `plan` and `consumers` bring a broker in line.
//! - What others hold: `bus`, one trait over JetStream and over memory in this process. `connect` → `publisher` and `pull` →
//!   `ack` carry events; `moves` makes retries and dead letters; `read` looks at streams without taking anything.
//! - Who may do what: `identity` mints it, `accounts` tells a running broker of namespaces, `grant` is how a sidecar learns it, `directory` knows the declared addresses.
//! - What sidecars and the control plane say to each other, because neither imports the other: `asks`, `schedule`, `replay`,
//!   `held`.
//! - `server` finds and runs a nats-server.
//!
//! Nothing here knows an agent process or an HTTP request.

pub mod headers;
pub mod msg_id;
pub mod names;
pub mod pattern;
pub mod subject;

pub mod budget;
pub mod consumers;
pub mod layout;
pub mod plan;
pub mod topology;

pub mod ack;
pub mod bus;
pub mod connect;
pub mod moves;
pub mod publisher;
pub mod pull;
pub mod read;

pub mod accounts;
pub mod directory;
pub mod grant;
pub mod identity;

pub mod asks;
pub mod held;
pub mod replay;
pub mod schedule;

pub mod server;
