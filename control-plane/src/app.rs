//! The control plane put together, and the order in which it starts and stops.
//!
//! Start: connect → streams and registry → groups of earlier runs → consumers of all groups → the answering parts (requests
//! of sidecars, API) → reconciler → supervisor. So nothing is spawned before its consumers exist. Stop: supervisor
//! (agents, then sidecars) → the rest, the audit last. A broker that goes away stops nothing here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::bus::Bus;
use agentbus_nats::identity::Authority;
use agentbus_nats::topology::Sizes;
use agentbus_proto::Fault;
use agentbus_proto::http::unparsed;
use agentbus_runtime::drain::Shutdown;
use agentbus_runtime::serve;
use agentbus_runtime::tasks::{OnFailure, Tasks};
use tokio::sync::{Notify, watch};

use crate::api::{self, ApiState};
use crate::audit::Audit;
use crate::base::{self, Base};
use crate::control::{Responder, Verbs};
use crate::elsewhere::Elsewhere;
use crate::events::{self, Events};
use crate::grants::Grants;
use crate::keeper::Keeper;
use crate::reconcile::Health;
use crate::replay::Replays;
use crate::resolve::{self, Resolver};
use crate::schedules::{self, Schedules};
use crate::spec::Project;
use crate::standby::Standby;
use crate::status::InstanceStatus;
use crate::supervise::{self, Door, Local, Supervisor};
use crate::trimmer::{Alarms, Space, Trimmer};

/// How long a sidecar may take to finish and give back what it holds. Its agent is gone by then, so little is left.
const SIDECAR_DRAIN: Duration = Duration::from_secs(5);
/// For the parts that only answer, when everything stops.
const SERVICES_GRACE: Duration = Duration::from_secs(4);
/// What a control plane is made from.
pub struct Options {
    /// What is declared.
    pub project: Project,
    /// Working folder of agents.
    pub project_dir: PathBuf,
    /// Logs and sockets go below it. Must exist.
    pub state_dir: PathBuf,
    /// The broker, as the control plane and the sidecars reach it.
    pub servers: Vec<String>,
    /// The keys the broker trusts.
    pub authority: Arc<Authority>,
    /// Sizes of the streams.
    pub sizes: Sizes,
    /// Largest encoded event, in bytes; never more than the broker's `max_payload` less 16 KiB.
    pub event_bytes_max: usize,
    /// Where the API listens; loopback.
    pub listen: SocketAddr,
    /// What callers of the API must show.
    pub api_token: String,
    /// The `agentbus` program, for everything that is spawned.
    pub executable: PathBuf,
    /// OTLP collector for the sidecars.
    pub otlp: Option<String>,
    /// Adds the agent `me`, who may publish everywhere, and when spawning its sidecar.
    pub person: bool,
    /// Whether this process runs the sidecars and agents; not where something else does.
    pub spawn: bool,
}

/// A running control plane.
pub struct ControlPlane {
    api_url: String,
    instances: watch::Receiver<Vec<InstanceStatus>>,
    health: Health,
    poke: Arc<Notify>,
    supervisor: Option<Supervisor>,
    services: Shutdown,
}

impl ControlPlane {
    /// Starts everything. Needs a runtime of any kind that lives as long as the agents shall.
    pub async fn start(options: Options) -> Result<Self, Fault> {
        Self::run(options, None).await
    }

    /// Starts everything on a bus in this process, its sidecars included: no broker is asked, `servers` counts for nothing.
    pub async fn start_local(options: Options, local: Local) -> Result<Self, Fault> {
        Self::run(options, Some(local)).await
    }

    async fn run(options: Options, local: Option<Local>) -> Result<Self, Fault> {
        let listener = base::bind(options.listen).await?;
        let (audit, audit_service) = Audit::new(&options.project.namespace);
        let (base, reconciler) = Base::reach(&options, local.as_ref(), &audit).await?;
        let (grants, keeper) = (Arc::clone(&reconciler.grants), Arc::clone(&reconciler.keeper));
        let services = Shutdown::new();
        let (tasks, stop) = (Tasks::new(services.clone()), services.token());
        // Whoever stops waiting for this start leaves nothing behind.
        let unfinished = stop.clone().drop_guard();
        let alarms = start_trimmer(&tasks, &options, &base, &grants, &audit);
        let standby = Standby::new(&options.project);
        let (bus, names) = (Arc::clone(&base.bus), base.names.clone());
        let events = Arc::new(Events::new(bus, names, Arc::clone(&grants), options.sizes, Arc::clone(&base.letters)));
        let resolver = Resolver::new(Arc::clone(&base.bus), base.names.clone(), Arc::clone(&grants));
        let mut verbs = verbs(&options, &base, &grants, &alarms, &standby, &events)?;
        verbs.extend(resolve::verbs(&resolver));
        let bus = Arc::clone(&base.bus);
        let elsewhere = elsewhere(&options, local.as_ref(), &bus);
        let (names, authority) = (base.names.clone(), &options.authority);
        let replays = Replays::new(bus, names, Arc::clone(&grants), authority, audit.clone(), elsewhere)?;
        verbs.extend([replays.verb()]);
        start_responder(&tasks, &options, &base, &grants, keeper, verbs).await?;
        tasks.spawn("audit", OnFailure::Log, endless(audit_service.run(base.publisher.clone(), stop.clone())));
        let (poke, (health_tx, health)) = (Arc::new(Notify::new()), watch::channel(None));
        tasks.spawn("reconciler", OnFailure::Log, endless(reconciler.run(poke.clone(), health_tx, stop.clone())));

        let supervisor = if options.spawn { Some(supervise(&options, local, &grants, audit)?) } else { None };
        let instances = supervisor.as_ref().map_or_else(|| watch::channel(Vec::new()).1, Supervisor::instances);
        standby.follow(instances.clone());
        resolver.follow(instances.clone());
        events.follow(instances.clone());
        let follow = base.registry.clone().follow(instances.clone(), stop.clone());
        tasks.spawn("registry", OnFailure::Log, endless(follow));
        let api_url = format!("http://{}", listener.local_addr().unwrap_or(options.listen));
        let router = api::router(api_state(&options, base, &grants, instances.clone(), alarms, events, replays));
        let limits = serve::Limits { refusal: unparsed, ..serve::Limits::default() };
        let serving = serve::serve(serve::Socket::Tcp(listener), router, stop, limits);
        tasks.spawn("api", OnFailure::Log, endless(serving));
        unfinished.disarm();
        Ok(Self { api_url, instances, health, poke, supervisor, services })
    }

    /// Base URL of the API.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// The states of all instances, to watch. Empty where this process spawns nothing.
    pub fn instances(&self) -> watch::Receiver<Vec<InstanceStatus>> {
        self.instances.clone()
    }

    /// Whether streams and consumers are as they should be, as of the last look; otherwise what is wrong.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Looks after streams and consumers now, not only at the next tick: the broker was restarted, for example.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Waits until every sidecar serves and every agent runs (or has exited as it may). Otherwise says who does not, and
    /// why. At once where this process spawns nothing.
    pub async fn all_ready(&self, within: Duration) -> Result<(), Fault> {
        match &self.supervisor {
            Some(supervisor) => supervisor.all_ready(within).await,
            None => Ok(()),
        }
    }

    /// The person's sidecar: `None` without one, and until it has been ready once.
    pub fn me(&self) -> Option<Door> {
        self.supervisor.as_ref().and_then(Supervisor::person)
    }

    /// Ends everything: agents, their sidecars, then the rest. What has not ended after `grace` is killed.
    pub async fn stop(self, grace: Duration) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.stop(grace).await;
        }
        if let Err(error) = self.services.drain(SERVICES_GRACE).await {
            tracing::warn!(%error, "control plane left before all of its parts");
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.services.begin();
    }
}

fn start_trimmer(tasks: &Tasks, options: &Options, base: &Base, grants: &Arc<Grants>, audit: &Audit) -> Alarms {
    let trimmer = Trimmer {
        bus: Arc::clone(&base.bus),
        names: base.names.clone(),
        retention: options.project.retention.clone(),
        grants: Arc::clone(grants),
        authority: Arc::clone(&options.authority),
        audit: audit.clone(),
        letters: Arc::clone(&base.letters),
        shares: Arc::clone(&base.shares),
    };
    let (tx, alarms) = watch::channel(Vec::new());
    tasks.spawn("trimmer", OnFailure::Log, endless(trimmer.run(tx, tasks.shutdown().token())));
    alarms
}

/// What sidecars may ask beside their grants.
fn verbs(
    options: &Options,
    base: &Base,
    grants: &Arc<Grants>,
    alarms: &Alarms,
    standby: &Arc<Standby>,
    events: &Arc<Events>,
) -> Result<Verbs, Fault> {
    let mut verbs = Verbs::new();
    verbs.extend(events::verbs(events));
    verbs.insert("standby", Arc::clone(standby) as _);
    verbs.insert("letters", Arc::clone(&base.shares) as _);
    verbs.insert("space", Arc::new(Space { alarms: alarms.clone() }));
    let secret = schedules::secret(&options.authority)?;
    verbs.extend(Schedules::new(Arc::clone(&base.bus), base.names.clone(), Arc::clone(grants), secret).verbs());
    Ok(verbs)
}

fn elsewhere(options: &Options, local: Option<&Local>, bus: &Arc<dyn Bus>) -> Elsewhere {
    match local {
        Some(_) => Elsewhere::Here(Arc::clone(bus)),
        None => Elsewhere::Broker { servers: options.servers.clone(), authority: Arc::clone(&options.authority) },
    }
}

async fn start_responder(
    tasks: &Tasks,
    options: &Options,
    base: &Base,
    grants: &Arc<Grants>,
    keeper: Arc<Keeper>,
    verbs: Verbs,
) -> Result<(), Fault> {
    let responder = Responder {
        bus: Arc::clone(&base.bus),
        names: base.names.clone(),
        layout: options.authority.layout(),
        grants: Arc::clone(grants),
        keeper,
        registry: base.registry.clone(),
        verbs,
    };
    let requests = responder.listen().await?;
    tasks.spawn("responder", OnFailure::Log, responder.run(requests, tasks.shutdown().token()));
    Ok(())
}

fn supervise(options: &Options, local: Option<Local>, grants: &Arc<Grants>, audit: Audit) -> Result<Supervisor, Fault> {
    let options = supervise::Options {
        project: options.project.clone(),
        person: options.person,
        project_dir: options.project_dir.clone(),
        state_dir: options.state_dir.clone(),
        executable: options.executable.clone(),
        otlp: options.otlp.clone(),
        drain: SIDECAR_DRAIN,
        host: local.map(|local| local.host),
    };
    Supervisor::start(options, Arc::clone(grants), audit)
}

fn api_state(
    options: &Options,
    base: Base,
    grants: &Arc<Grants>,
    instances: watch::Receiver<Vec<InstanceStatus>>,
    alarms: Alarms,
    events: Arc<Events>,
    replays: Replays,
) -> ApiState {
    let grants = Arc::clone(grants);
    ApiState {
        bus: base.bus,
        names: base.names,
        layout: options.authority.layout(),
        sizes: options.sizes,
        token: options.api_token.clone(),
        events,
        letters: base.letters,
        shares: base.shares,
        instances,
        replays,
        alarms,
        groups: Arc::new(move || grants.all_groups().into_iter().map(|group| group.name).collect()),
    }
}

/// For tasks that cannot fail.
async fn endless(future: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    future.await;
    Ok(())
}
