//! The HTTP API of the control plane: what the command line asks, in JSON, on loopback.
//!
//! ```text
//! GET  /livez                        no token needed
//! GET  /v1/status                    everything at a glance
//! GET  /v1/agents                    instances
//! GET  /v1/dead-letters              ?group&class&type&cause&all&limit&after
//! GET  /v1/dead-letters/groups       counts by group, class and cause
//! GET  /v1/dead-letters/{seq}        one in full
//! POST /v1/dead-letters/redrive      see `dead_letters::Request`
//! GET  /v1/events                    ?from_seq&since&last&pattern&limit&wait_ms: what is stored, and what comes
//! GET  /v1/events/{id}               where one event is, for every group
//! GET  /v1/chains/{id}               a whole chain, by its correlation id or the id of one of its events
//! POST /v1/replay                    see `replay::Request`: stored events once more, to a group or into a sandbox
//! GET  /v1/streams/plan              what applying would do
//! POST /v1/streams/apply             make the streams as the table says
//! ```
//! Every request but `/livez` needs the bearer token, a loopback `Host`, and no foreign `Origin`: a web page must not be
//! able to steer the bus. Errors are RFC 9457 problems with a stable `code`.

mod answers;
mod auth;
mod dead_letters;
mod errors;
mod events;
mod replay;
mod router;
mod streams;
mod system;
#[cfg(test)]
mod tests;

pub use answers::{Agents, Change, ListQuery, PLAN_ACTIONS, Step, Streams};
pub use router::{ApiState, router};
