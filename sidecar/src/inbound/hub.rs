//! The owner of everything inbound: the table, the group loops, the clock tick, and the way to the broker.
//!
//! Here are its parts, its beginning and its end, and who subscribes; `intake` takes in and hands out, `clock` keeps leases
//! and answers, `commands` carries out what the table wants done, `life` follows the agent process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::grant::{Grant, GroupGrant};
use agentbus_nats::held::{self, Wanted};
use agentbus_nats::names::Names;
use agentbus_nats::publisher::Publisher;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::trace::Tracer;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::clock::Unsent;
use super::group;
use super::receipt::Receipts;
use super::share::Shares;
use super::table::bounds::Bounds;
use super::table::{Gone, Outgoing, Table};
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::seal::Seal;
use crate::standby;

mod clock;
mod commands;
mod intake;
mod life;

/// Group loops hand over what is on its way within a round trip to the broker; without one they are not waited for.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// How the inbound side behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Settled deliveries remembered; about 100 bytes each.
    pub memory_entries_max: usize,
    /// How often leases are looked at.
    pub tick: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // Twice the bound on unsettled deliveries of one group: with few groups, whatever can come again is still known.
        Self { memory_entries_max: 40_000, tick: Duration::from_millis(250) }
    }
}

/// What the hub works with.
pub struct Parts {
    /// Connection to the bus.
    pub bus: Arc<dyn Bus>,
    /// Publishing with PubAck.
    pub publisher: Publisher,
    /// Publishing for the agent: emitted events take the same way.
    pub outbound: Outbound,
    /// Delivery ids.
    pub seal: Seal,
    /// Spans.
    pub tracer: Tracer,
    /// Counters.
    pub metrics: Metrics,
}

/// Handle to the inbound side. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    names: Names,
    agent: String,
    options: Options,
    table: Mutex<Table>,
    groups: Mutex<HashMap<Arc<str>, Running>>,
    /// What seals the successors' ids, by group.
    secrets: RwLock<BTreeMap<String, String>>,
    /// Answers given while there was no connection.
    unsent: Mutex<Vec<Unsent>>,
    receipts: Receipts,
    /// Room for dead letters.
    shares: Shares,
    /// The group loops, and what ends them: first of all in a drain.
    loops: TaskTracker,
    intake: CancellationToken,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Running {
    grant: Arc<GroupGrant>,
    poke: Arc<Notify>,
    stop: CancellationToken,
}

impl Hub {
    /// Starts the loops of a grant's groups.
    pub fn start(parts: Parts, grant: &Grant, options: Options) -> Self {
        let inner = Inner {
            parts,
            names: Names::new(&grant.namespace),
            agent: grant.agent.clone(),
            options,
            table: Mutex::new(Table::new(options.memory_entries_max, Bounds::new(grant))),
            groups: Mutex::default(),
            secrets: RwLock::default(),
            unsent: Mutex::default(),
            receipts: Receipts::default(),
            shares: Shares::default(),
            loops: TaskTracker::new(),
            intake: CancellationToken::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let hub = Self { inner: Arc::new(inner) };
        hub.renew(grant);
        hub.inner.tasks.spawn(hub.clone().keep_leases());
        hub
    }

    /// Takes a renewed grant: starts new groups, restarts changed ones.
    pub fn renew(&self, grant: &Grant) {
        *self.inner.secrets.write().unwrap_or_else(PoisonError::into_inner) = grant.group_secrets.clone();
        let mut groups = self.groups();
        let others = standby::inboxes(grant).into_iter().filter(|name| !groups.contains_key(name.as_str()));
        self.table().closed.extend(others);
        groups.retain(|name, running| {
            let stays = grant.groups.iter().any(|group| *group.name == **name);
            if !stays {
                running.stop.cancel();
                self.table().forget(name);
            }
            stays
        });
        for group in &grant.groups {
            let name: Arc<str> = group.name.as_str().into();
            if groups.get(&name).is_some_and(|running| *running.grant == *group) {
                continue;
            }
            if let Some(changed) = groups.remove(&name) {
                changed.stop.cancel();
            }
            let grant = Arc::new(group.clone());
            let (poke, stop) = (Arc::new(Notify::new()), self.inner.intake.child_token());
            self.inner.loops.spawn(group::keep(self.clone(), grant.clone(), poke.clone(), stop.clone()));
            groups.insert(name, Running { grant, poke, stop });
        }
    }

    /// Asks nothing for these groups from now on, and for all others again.
    pub fn close(&self, groups: &BTreeSet<String>) {
        self.table().closed.clone_from(groups);
        self.after_all();
    }

    /// Names of the declared groups: what an agent gets that names none.
    pub fn declared(&self) -> Vec<String> {
        let groups = self.groups();
        let mut names: Vec<String> = groups
            .values()
            .filter(|running| running.grant.declared)
            .map(|running| running.grant.name.clone())
            .collect();
        names.sort();
        names
    }

    /// Names of all groups.
    pub fn group_names(&self) -> Vec<String> {
        self.groups().keys().map(ToString::to_string).collect()
    }

    /// The grant of a group, if the agent is in it.
    pub fn group(&self, name: &str) -> Option<Arc<GroupGrant>> {
        self.groups().get(name).map(|running| running.grant.clone())
    }

    pub(super) fn group_name(&self, name: &str) -> Option<Arc<str>> {
        self.groups().get_key_value(name).map(|(name, _)| name.clone())
    }

    /// Adds a subscriber of these groups. `tx` must have room for the largest credit.
    pub fn attach(&self, groups: &[String], credit: usize, tx: mpsc::Sender<Outgoing>) -> Result<u64, Fault> {
        let names: Option<Vec<Arc<str>>> = groups.iter().map(|name| self.group_name(name)).collect();
        let names = names.ok_or_else(|| Fault::new(Code::InvalidAddress, "not a member of one of these groups"))?;
        let mut table = self.table();
        if table.draining {
            return Err(draining());
        }
        let id = table.attach(names, credit, tx);
        drop(table);
        groups.iter().for_each(|name| self.after(name));
        Ok(id)
    }

    /// Sets a subscriber's credit.
    pub fn credit(&self, id: u64, credit: usize) {
        self.table().credit(id, credit);
        self.after_all();
    }

    /// Lets a subscriber go; what it held is handed on in the background.
    pub fn detach(&self, id: u64, how: Gone) {
        let commands = self.table().detach(id, how, (Instant::now(), SystemTime::now()));
        self.spawn(commands);
        self.after_all();
    }

    /// Whether the broker had more for the group when it sent this delivery.
    pub fn has_more_behind(&self, id: &str) -> bool {
        self.seal().open(id).is_some_and(|receipt| receipt.pending > 0)
    }

    /// Puts deliveries back that were on an answer which never left.
    pub fn unhand(&self, ids: &[String]) {
        self.table().unhand(ids);
        self.after_all();
    }

    /// What is held or remembered of an event, for whoever asks where it is. `now` is the same moment twice.
    pub fn look(&self, wanted: &Wanted, now: (Instant, SystemTime)) -> Option<held::Held> {
        self.table().look(wanted, &self.inner.names.events(), now)
    }

    pub(super) fn shares(&self) -> &Shares {
        &self.inner.shares
    }

    pub(super) fn receipts(&self) -> &Receipts {
        &self.inner.receipts
    }

    /// For what may go on beside everything; a drain waits for its end, so it must be bounded.
    pub(super) fn spawn_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Deliveries held.
    pub fn held(&self) -> usize {
        self.table().len()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.table().draining
    }

    /// Stops taking work, waits for the agent to finish what it has, gives the rest back. Bounded by `grace` plus the
    /// time to store what is given back.
    pub async fn drain(&self, grace: Duration) {
        self.table().start_draining();
        let end = Instant::now() + grace;
        self.inner.intake.cancel();
        self.inner.loops.close();
        let _ = tokio::time::timeout(HAND_OVER_MAX, self.inner.loops.wait()).await;
        let waiting = self.table().give_waiting_back();
        self.run(waiting).await;
        while Instant::now() < end && self.held() > 0 && self.table().has_work_out() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let commands = self.table().give_all_back();
        if !commands.is_empty() {
            tracing::info!(deliveries = commands.len(), "drain: giving back");
        }
        self.run(commands).await;
        self.inner.stop.cancel();
        self.inner.tasks.close();
        // Moves under way are bounded by the publisher's own waits.
        self.inner.tasks.wait().await;
        self.bus().flush(Duration::from_secs(2)).await;
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Arc<str>, Running>> {
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What seals the ids of a group's successors.
    pub(super) fn secret(&self, group: &str) -> String {
        let secrets = self.inner.secrets.read().unwrap_or_else(PoisonError::into_inner);
        secrets.get(group).cloned().unwrap_or_default()
    }

    pub(super) fn names(&self) -> &Names {
        &self.inner.names
    }

    pub(super) fn namespace(&self) -> &str {
        self.inner.names.namespace()
    }

    pub(super) fn agent(&self) -> &str {
        &self.inner.agent
    }

    /// The connection.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.inner.parts.bus
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.inner.parts.publisher
    }

    pub(super) fn outbound(&self) -> &Outbound {
        &self.inner.parts.outbound
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.inner.parts.seal
    }

    pub(super) fn tracer(&self) -> &Tracer {
        &self.inner.parts.tracer
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.inner.parts.metrics
    }
}

/// The fault for new work during a drain.
pub fn draining() -> Fault {
    let why = "the sidecar is about to stop: connect again in a moment";
    Fault::new(Code::Draining, why).with_retry_after(Duration::from_secs(1))
}
