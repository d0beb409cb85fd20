//! Replay: stored events once more, to oneself, to one group, or into another namespace.
//!
//! To oneself is only reading: `read` answers sidecars with pages of what their agent may see, byte for byte as stored.
//! To a group and into a sandbox stores copies: `request` says which and where to, `copy` makes them (pure), `run` stores
//! them at the wished pace. A copy is a new event: its id is `<run>.<sequence>`, `replay_of` names the original, and its
//! message id is sealed like a redrive's, so that nothing that was stored before swallows it, and asking twice for the same
//! part of a run stores it once. Copies for a group wait in the retry stream, where only that group reads; copies for a
//! sandbox go through a connection into that namespace's own account, of which nobody of this one knows. So nothing leaks back.

mod copy;
mod read;
mod request;
mod run;
mod scope;

use std::sync::Arc;

use agentbus_nats::bus::Bus;
use agentbus_nats::identity::Authority;
use agentbus_nats::names::Names;
use agentbus_nats::replay::VERB;
use agentbus_proto::{Code, Fault};

use crate::audit::Audit;
use crate::control::Verb;
use crate::elsewhere::Elsewhere;
use crate::grants::Grants;

pub use request::{Clock, RATE_DEFAULT, Report, Request, SPACE_DEFAULT, Skipped};

/// The desk for replays. Cheap to clone.
#[derive(Clone)]
pub struct Replays {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    names: Names,
    grants: Arc<Grants>,
    /// Seals the ids of copies.
    secret: String,
    audit: Audit,
    elsewhere: Elsewhere,
}

impl Replays {
    /// `bus` needs the control plane's rights.
    pub fn new(
        bus: Arc<dyn Bus>,
        names: Names,
        grants: Arc<Grants>,
        authority: &Authority,
        audit: Audit,
        elsewhere: Elsewhere,
    ) -> Result<Self, Fault> {
        let bad = |error| Fault::new(Code::BadConfig, format!("cannot derive the secret for replays: {error}"));
        let secret = authority.secret("control-plane", "replay").map_err(bad)?;
        Ok(Self { inner: Arc::new(Inner { bus, names, grants, secret, audit, elsewhere }) })
    }

    /// What sidecars may ask of it.
    pub fn verb(&self) -> (&'static str, Arc<dyn Verb>) {
        (VERB, Arc::new(self.clone()))
    }
}
