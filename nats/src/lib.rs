//! The bus on NATS JetStream: everything that knows a subject, a stream or a header.
//!
//! `subject`, `pattern`, `headers` and `names` spell what is on the wire; `topology` is the table of assets, `plan` and
//! `consumers` bring a broker in line with it; `bus` is what others hold, on JetStream or in this process; `connect` → `publisher` and `pull` → `ack` carry events; `moves` makes
//! retries and dead letters; `identity` mints what each sidecar may do; `grant` is how a sidecar learns it, `asks` what it asks about asks; `server`
//! finds and runs a nats-server. Nothing here knows an agent process or an HTTP request.

pub mod ack;
pub mod asks;
pub mod budget;
pub mod bus;
pub mod connect;
pub mod consumers;
pub mod directory;
pub mod grant;
pub mod headers;
pub mod held;
pub mod identity;
pub mod layout;
pub mod moves;
pub mod msg_id;
pub mod names;
pub mod pattern;
pub mod plan;
pub mod publisher;
pub mod pull;
pub mod read;
pub mod replay;
pub mod schedule;
pub mod server;
pub mod subject;
pub mod topology;
