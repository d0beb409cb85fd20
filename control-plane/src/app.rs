//! The control plane put together, and the order in which it starts and stops.
//!
//! Start: connect → streams and registry → groups of earlier runs → consumers of all groups → the answering parts (requests
//! of sidecars, API) → reconciler → supervisor. So nothing is spawned before its consumers exist. Stop: supervisor
//! (agents, then sidecars) → the rest, the audit last. A broker that goes away stops nothing here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::connect::{self, Identity, Link};
use agentbus_nats::identity::Authority;
use agentbus_nats::names::Names;
use agentbus_nats::publisher::{self, Publisher};
use agentbus_nats::topology::Sizes;
use agentbus_nats::{consumers, subject};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::drain::Shutdown;
use agentbus_runtime::serve;
use agentbus_runtime::tasks::{OnFailure, Tasks};
use async_nats::jetstream;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::api::{self, ApiState};
use crate::audit::Audit;
use crate::control::Responder;
use crate::grants::{self, Common, Grants};
use crate::groups::{Groups, PERSON};
use crate::reconcile::{Health, Reconciler};
use crate::registry::Registry;
use crate::spec::Project;
use crate::status::InstanceStatus;
use crate::supervise::{self, Door, Supervisor};

/// How long the broker may take to be there and to have its streams, at the start.
const BROKER_MAX: Duration = Duration::from_secs(10);
/// Pause between tries.
const BROKER_PAUSE: Duration = Duration::from_millis(200);
/// Headers, and what is added on the way to RETRY and DLQ: an event of the largest size still fits there.
const PAYLOAD_RESERVE_BYTES: usize = 16 * 1024;
/// How long a sidecar may take to finish and give back what it holds. Its agent is gone by then, so little is left.
const SIDECAR_DRAIN: Duration = Duration::from_secs(5);
/// For the parts that only answer, when everything stops.
const SERVICES_GRACE: Duration = Duration::from_secs(4);
/// Inbox of the control plane. Upper case: no agent can have this name, so none may listen there.
const INBOX_OWNER: &str = "CONTROL-PLANE";

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

/// What all parts stand on.
struct Base {
    link: Link,
    context: jetstream::Context,
    names: Names,
    publisher: Publisher,
    registry: Registry,
}

impl ControlPlane {
    /// Starts everything. Needs a runtime of any kind that lives as long as the agents shall.
    pub async fn start(options: Options) -> Result<Self, Fault> {
        let listener = bind(options.listen).await?;
        let deadline = Instant::now() + BROKER_MAX;
        let link = connect(&options, deadline).await?;
        let context = jetstream::new(link.client.clone());
        let names = Names::new(options.project.namespace.clone());
        let (audit, audit_service) = Audit::new(names.namespace());
        let grants = Arc::new(grants(&options, &link));
        let reconciler = Reconciler {
            link: link.clone(),
            context: context.clone(),
            names: names.clone(),
            sizes: options.sizes,
            grants: Arc::clone(&grants),
            audit: audit.clone(),
        };
        topology(&reconciler, deadline).await?;
        let registry = Registry::open(&context, &names).await?;
        restore(&grants, &registry, &options).await?;
        for group in grants.all_groups() {
            consumers::ensure(&context, &names, &group).await?;
        }
        let publisher = Publisher::start(link.clone(), publisher::Options::default()).await?;
        let base = Base { link, context, names, publisher, registry };
        let services = Shutdown::new();
        let tasks = Tasks::new(services.clone());
        let stop = services.token();
        start_responder(&tasks, &base, &grants).await?;
        let run = audit_service.run(base.publisher.clone(), stop.clone());
        tasks.spawn("audit", OnFailure::Log, endless(run));
        let (poke, (health_tx, health)) = (Arc::new(Notify::new()), watch::channel(None));
        tasks.spawn("reconciler", OnFailure::Log, endless(reconciler.run(poke.clone(), health_tx, stop.clone())));

        let supervisor = if options.spawn { Some(supervise(&options, &grants, audit)?) } else { None };
        let instances = supervisor.as_ref().map_or_else(|| watch::channel(Vec::new()).1, Supervisor::instances);
        let follow = base.registry.clone().follow(instances.clone(), stop.clone());
        tasks.spawn("registry", OnFailure::Log, endless(follow));
        let api_url = format!("http://{}", listener.local_addr().unwrap_or(options.listen));
        let router = api::router(api_state(&options, base, &grants, instances.clone()));
        tasks.spawn("api", OnFailure::Log, endless(serve::serve_tcp(listener, router, stop)));
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

async fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint =
            if error.kind() == std::io::ErrorKind::AddrInUse { ": the port is taken, choose another" } else { "" };
        Fault::new(Code::BadConfig, format!("the control plane cannot listen on {address}: {error}{hint}"))
    })
}

/// Tries until the deadline; a broker that refuses our credentials is not asked twice.
async fn connect(options: &Options, deadline: Instant) -> Result<Link, Fault> {
    let bad = |error: &dyn std::fmt::Display| Fault::new(Code::BadConfig, format!("cannot make credentials: {error}"));
    let credentials = options.authority.control_plane(grants::now()).map_err(|error| bad(&error))?;
    loop {
        let attempt = Link::connect(connect::Options {
            servers: options.servers.clone(),
            name: "agentbus-control-plane".to_owned(),
            inbox: subject::inbox(INBOX_OWNER, &std::process::id().to_string()),
            identity: Identity::from_credentials(&credentials)?,
        });
        match attempt.await {
            Ok(link) => return Ok(link),
            Err(fault) if fault.code == Code::Unauthenticated || Instant::now() >= deadline => return Err(fault),
            Err(fault) => tracing::debug!(error = %fault, "broker not reached yet"),
        }
        tokio::time::sleep(BROKER_PAUSE).await;
    }
}

fn grants(options: &Options, link: &Link) -> Grants {
    let payload_max = link.client.server_info().max_payload;
    let common = Common {
        namespace: options.project.namespace.clone(),
        servers: options.servers.clone(),
        event_bytes_max: options.event_bytes_max.min(payload_max.saturating_sub(PAYLOAD_RESERVE_BYTES)),
    };
    Grants::new(Arc::clone(&options.authority), common, Groups::declared(&options.project, options.person))
}

/// JetStream may need a moment after the broker accepts connections.
async fn topology(reconciler: &Reconciler, deadline: Instant) -> Result<(), Fault> {
    loop {
        match reconciler.streams().await {
            Err(fault) if fault.code == Code::BrokerDown && Instant::now() < deadline => {
                tracing::debug!(error = %fault, "streams not there yet");
                tokio::time::sleep(BROKER_PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn restore(grants: &Grants, registry: &Registry, options: &Options) -> Result<(), Fault> {
    let agents = options.project.agents.iter().map(|agent| agent.name.as_str());
    for agent in agents.chain(options.person.then_some(PERSON)) {
        let kept = registry.joined(agent).await?;
        grants.groups().restore(agent, kept);
    }
    Ok(())
}

async fn start_responder(tasks: &Tasks, base: &Base, grants: &Arc<Grants>) -> Result<(), Fault> {
    let responder = Responder {
        link: base.link.clone(),
        context: base.context.clone(),
        names: base.names.clone(),
        grants: Arc::clone(grants),
        registry: base.registry.clone(),
    };
    let requests = responder.listen().await?;
    tasks.spawn("responder", OnFailure::Log, responder.run(requests, tasks.shutdown().token()));
    Ok(())
}

fn supervise(options: &Options, grants: &Arc<Grants>, audit: Audit) -> Result<Supervisor, Fault> {
    let options = supervise::Options {
        project: options.project.clone(),
        person: options.person,
        project_dir: options.project_dir.clone(),
        state_dir: options.state_dir.clone(),
        executable: options.executable.clone(),
        otlp: options.otlp.clone(),
        drain: SIDECAR_DRAIN,
    };
    Supervisor::start(options, Arc::clone(grants), audit)
}

fn api_state(
    options: &Options,
    base: Base,
    grants: &Arc<Grants>,
    instances: watch::Receiver<Vec<InstanceStatus>>,
) -> ApiState {
    let grants = Arc::clone(grants);
    ApiState {
        context: base.context,
        publisher: base.publisher,
        names: base.names,
        sizes: options.sizes,
        token: options.api_token.clone(),
        instances,
        groups: Arc::new(move || grants.all_groups().into_iter().map(|group| group.name).collect()),
        link: base.link,
    }
}

/// For tasks that cannot fail.
async fn endless(future: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    future.await;
    Ok(())
}
