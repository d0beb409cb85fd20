//! Reaching the broker, and making it ready: connection, streams, groups of earlier runs, consumers of all groups.
//!
//! All of it is bounded; when it is done, agents may be spawned and the first event may come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::budget;
use agentbus_nats::bus::{Bus, JetStream};
use agentbus_nats::connect::{self, Identity};
use agentbus_nats::identity::{Authority, Layout};
use agentbus_nats::names::Names;
use agentbus_nats::publisher::Publisher;
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};
use tokio::net::TcpListener;

use crate::app::Options;
use crate::audit::Audit;
use crate::dead_letters::{DeadLetters, Shares, redrive_secret};
use crate::grants::{self, Common, Grants};
use crate::groups::{Groups, PERSON};
use crate::keeper::Keeper;
use crate::reconcile::Reconciler;
use crate::registry::Registry;
use crate::supervise::Local;

/// How long the broker may take to be there and to have its streams, at the start.
const BROKER_MAX: Duration = Duration::from_secs(10);
/// Pause between tries.
const BROKER_PAUSE: Duration = Duration::from_millis(200);
/// Headers, and what is added on the way to RETRY and DLQ: an event of the largest size still fits there.
const PAYLOAD_RESERVE_BYTES: usize = 16 * 1024;
/// Inbox of the control plane. Upper case: no agent can have this name, so none may listen there.
const INBOX_OWNER: &str = "CONTROL-PLANE";

/// What all parts stand on.
pub(crate) struct Base {
    pub bus: Arc<dyn Bus>,
    pub names: Names,
    pub publisher: Publisher,
    pub registry: Registry,
    pub letters: Arc<DeadLetters>,
    pub shares: Arc<Shares>,
}

impl Base {
    /// Connects and makes the broker ready. The reconciler that did so comes along, to go on with it.
    pub async fn reach(options: &Options, local: Option<&Local>, audit: &Audit) -> Result<(Self, Reconciler), Fault> {
        let deadline = Instant::now() + BROKER_MAX;
        let bus = match local {
            Some(local) => local.bus.connect(INBOX_OWNER),
            None => connect(&options.servers, &options.authority, deadline).await?,
        };
        let names = Names::new(options.project.namespace.clone());
        let grants = Arc::new(grants(options, &*bus));
        let reconciler = Reconciler {
            bus: Arc::clone(&bus),
            names: names.clone(),
            sizes: options.sizes,
            grants: Arc::clone(&grants),
            keeper: Arc::new(Keeper::new(Arc::clone(&bus), names.clone())),
            audit: audit.clone(),
        };
        let events_made = topology(&reconciler, deadline).await?;
        let registry = Registry::new(Arc::clone(&bus), &names);
        restore(&grants, &registry, options).await?;
        let groups = grants.all_groups();
        budget::project(&groups)?;
        reconciler.keeper.pass(&groups, events_made).await?;
        for group in &groups {
            // They may be declared in another way than in an earlier run.
            reconciler.keeper.ensure(group).await?;
        }
        let publisher = bus.publisher().clone();
        let secret = redrive_secret(&options.authority)?;
        let letters = Arc::new(DeadLetters::new(Arc::clone(&bus), names.clone(), secret));
        let shares = Arc::new(Shares::new(Arc::clone(&bus), names.clone(), Arc::clone(&reconciler.grants)));
        Ok((Self { bus, names, publisher, registry, letters, shares }, reconciler))
    }
}

/// Binds the API's listener; a taken port is said plainly.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint =
            if error.kind() == std::io::ErrorKind::AddrInUse { ": the port is taken, choose another" } else { "" };
        Fault::new(Code::BadConfig, format!("the control plane cannot listen on {address}: {error}{hint}"))
    })
}

/// Tries until the deadline; a broker that refuses our credentials is not asked twice.
pub(crate) async fn connect(
    servers: &[String],
    authority: &Authority,
    deadline: Instant,
) -> Result<Arc<dyn Bus>, Fault> {
    let bad = |error: &dyn std::fmt::Display| Fault::new(Code::BadConfig, format!("cannot make credentials: {error}"));
    let credentials = authority.control_plane(grants::now()).map_err(|error| bad(&error))?;
    loop {
        let attempt = JetStream::connect(connect::Options {
            servers: servers.to_vec(),
            name: "agentbus-control-plane".to_owned(),
            inbox: subject::inbox(INBOX_OWNER),
            layout: Layout::Plain,
            identity: Identity::from_credentials(&credentials)?,
        });
        match attempt.await {
            Ok(bus) => return Ok(bus),
            Err(fault) if fault.code == Code::Unauthenticated || Instant::now() >= deadline => return Err(fault),
            Err(fault) => tracing::debug!(error = %fault, "broker not reached yet"),
        }
        tokio::time::sleep(BROKER_PAUSE).await;
    }
}

fn grants(options: &Options, bus: &dyn Bus) -> Grants {
    let payload_max = bus.server().message_bytes_max;
    let common = Common {
        namespace: options.project.namespace.clone(),
        servers: options.servers.clone(),
        event_bytes_max: options.event_bytes_max.min(payload_max.saturating_sub(PAYLOAD_RESERVE_BYTES)),
    };
    Grants::new(Arc::clone(&options.authority), common, Groups::declared(&options.project, options.person))
        .bounded(&options.project, &options.sizes)
}

/// JetStream may need a moment after the broker accepts connections.
async fn topology(reconciler: &Reconciler, deadline: Instant) -> Result<bool, Fault> {
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
