//! Brings the broker back in line with what is wanted: streams, registry, consumers of all groups.
//!
//! Takes no input, is idempotent, runs on a tick, when poked and after every reconnect. A broker that lost its store gets
//! everything again; what it had is gone, but nobody has to restart anything, and what is sent again meanwhile is read. It
//! never deletes.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::bus::Bus;
use agentbus_nats::names::Names;
use agentbus_nats::plan::{self, Step};
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::grants::Grants;
use crate::keeper::Keeper;

/// How soon a lost consumer is noticed without anybody poking.
const TICK: Duration = Duration::from_secs(5);
/// Longest pass: beyond, the broker is too slow to be helped, and the next tick tries again.
const PASS_MAX: Duration = Duration::from_secs(30);

/// What the last pass found: `None` = all as it should be.
pub type Health = watch::Receiver<Option<String>>;

/// The reconciler.
pub struct Reconciler {
    /// The control plane's connection.
    pub bus: Arc<dyn Bus>,
    /// Names of the namespace.
    pub names: Names,
    /// Wanted sizes of the streams.
    pub sizes: Sizes,
    /// Knows the groups.
    pub grants: Arc<Grants>,
    /// Keeps their consumers.
    pub keeper: Arc<Keeper>,
    /// Remembers what was changed.
    pub audit: Audit,
}

impl Reconciler {
    /// One pass. Errors name the first thing that could not be done.
    pub async fn pass(&self) -> Result<(), Fault> {
        let events_made = self.streams().await?;
        for group in self.keeper.pass(&self.grants.all_groups(), events_made).await? {
            tracing::warn!(group, "consumers were missing on the broker and were made again");
        }
        Ok(())
    }

    /// Streams and registry; tells whether the events stream was made just now. Looks first: an update that changes nothing
    /// is still a write.
    pub async fn streams(&self) -> Result<bool, Fault> {
        let steps = plan::plan(&*self.bus, &self.names, &self.sizes).await?;
        if !steps.iter().any(Step::changes_something) {
            return Ok(false);
        }
        let steps = plan::apply(&*self.bus, &self.names, &self.sizes).await?;
        let changed: Vec<&Step> = steps.iter().filter(|step| step.changes_something()).collect();
        tracing::info!(changes = changed.len(), "streams brought in line");
        self.audit.record("topology.applied.v1", json!({"by": "control-plane", "steps": changed}));
        let events = self.names.events();
        Ok(steps.iter().any(|step| matches!(step, Step::Create { name } if *name == events)))
    }

    /// Passes until `stop`.
    pub async fn run(self, poke: Arc<Notify>, health: watch::Sender<Option<String>>, stop: CancellationToken) {
        let mut state = self.bus.state();
        loop {
            // Cancel-safe: a poke that loses is kept, a change of state is seen by the pass anyway.
            tokio::select! {
                () = stop.cancelled() => return,
                () = poke.notified() => {}
                _ = state.changed() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            let problem = tokio::select! {
                () = stop.cancelled() => return,
                problem = self.bounded_pass() => problem,
            };
            health.send_if_modified(|known| {
                if *known == problem {
                    return false;
                }
                match &problem {
                    Some(problem) => tracing::warn!(problem, "the broker is not as it should be"),
                    None => tracing::info!("the broker is as it should be"),
                }
                known.clone_from(&problem);
                true
            });
        }
    }

    async fn bounded_pass(&self) -> Option<String> {
        if !self.bus.is_up() {
            return Some(self.bus.down().message);
        }
        let late = || Fault::new(Code::BrokerDown, format!("the broker took more than {} s", PASS_MAX.as_secs()));
        let passed = tokio::time::timeout(PASS_MAX, self.pass()).await;
        passed.unwrap_or_else(|_| Err(late())).err().map(|fault| fault.message)
    }
}
