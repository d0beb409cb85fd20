//! Sidecars that run inside this process instead of in one of their own: for a bus that is inside it, too.
//!
//! The control plane knows nothing of a sidecar's inside, so whoever starts it brings a [`Host`]. What an instance hears is
//! the same as from a process: ready, or ended with a cause. It cannot be killed from outside; a drain that takes too long
//! is left behind.

use std::sync::Arc;

use agentbus_nats::bus::Memory;
use agentbus_nats::connect::Identity;
use agentbus_nats::grant::{AgentLife, Start, ToSidecar};
use agentbus_proto::Fault;
use agentbus_runtime::logs::Stream;
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::child::{Place, Said};
use super::sidecar::{DRAIN_MARGIN, Job, READY_MAX, start_of};

/// Runs sidecars in this process.
#[async_trait]
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Starts one; it serves when this returns.
    async fn start(&self, start: Start) -> Result<Box<dyn Hosted>, Fault>;
}

/// A sidecar in this process.
#[async_trait]
pub trait Hosted: Send {
    /// Base URL of the agent API.
    fn url(&self) -> &str;

    /// Base URL of the admin listener.
    fn admin(&self) -> &str;

    /// What became of its agent.
    fn tell(&self, life: AgentLife);

    /// Returns when it wants to end: somebody asked its admin listener, or its token ran out.
    async fn wants_to_end(&self);

    /// Stops taking work, finishes or gives back what it holds, closes its listeners.
    async fn drain(self: Box<Self>);
}

/// A bus inside this process, and what runs its sidecars.
#[derive(Clone)]
pub struct Local {
    /// The bus.
    pub bus: Memory,
    /// Runs the sidecars on it.
    pub host: Arc<dyn Host>,
}

/// Holds one run, as [`super::sidecar::hold`] does for a process.
pub(super) async fn hold(
    job: Job,
    place: Place,
    host: Arc<dyn Host>,
    said: mpsc::Sender<Said>,
    orders: mpsc::Receiver<ToSidecar>,
) {
    let log = job.log.clone();
    let cause = tokio::select! {
        cause = run(job, &place, host, &said, orders) => cause,
        () = place.kill.cancelled() => "stopped with this process".to_owned(),
    };
    log.line(Stream::Supervisor, &format!("sidecar ended: {cause}"));
    // Fails only when the instance is gone, and then nobody wants to know.
    let _ = said.send(Said::SidecarExited { cause }).await;
}

async fn run(
    job: Job,
    place: &Place,
    host: Arc<dyn Host>,
    said: &mpsc::Sender<Said>,
    mut orders: mpsc::Receiver<ToSidecar>,
) -> String {
    let grant = match (job.issue)(&Identity::new_user().public_key()) {
        Ok(grant) => grant,
        Err(fault) => return fault.to_string(),
    };
    // A spool outlives what it would wait for.
    let start = Start { spool: None, ..start_of(&job, place, grant) };
    let sidecar = match tokio::time::timeout(READY_MAX, host.start(start)).await {
        Ok(Ok(sidecar)) => sidecar,
        Ok(Err(fault)) => return fault.to_string(),
        Err(_) => return "not ready in time".to_owned(),
    };
    job.log.line(Stream::Supervisor, "sidecar started in this process");
    let (url, admin) = (sidecar.url().to_owned(), sidecar.admin().to_owned());
    let _ = said.send(Said::SidecarReady { url, admin }).await;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(ToSidecar::Agent(life)) => sidecar.tell(life),
                Some(ToSidecar::Start(_)) => {}
                Some(ToSidecar::Drain {}) | None => break,
            },
            () = sidecar.wants_to_end() => break,
        }
    }
    match tokio::time::timeout(2 * place.drain + DRAIN_MARGIN, sidecar.drain()).await {
        Ok(()) => "drained".to_owned(),
        Err(_) => "did not drain in time".to_owned(),
    }
}
