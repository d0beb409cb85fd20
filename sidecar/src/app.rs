//! Wiring: from a grant to a running sidecar, and the order in which it stops.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::bus::{Bus, JetStream};
use agentbus_nats::connect::{self, Identity};
use agentbus_nats::grant::{BreakerReport, SidecarReport, SpoolOptions, Start};
use agentbus_nats::subject;
use agentbus_proto::http::unparsed;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::admin::{self, Admin};
use agentbus_runtime::ready::Readiness;
use agentbus_runtime::trace::Tracer;
use agentbus_runtime::{serve, state};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api;
use crate::ask::Asks;
use crate::breaker;
use crate::control::Control;
use crate::full::Full;
use crate::inbound::{self, Hub, hub::Parts};
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::query;
use crate::seal::Seal;
use crate::spool::{self, Spool};
use crate::standby;
use crate::toll::Toll;

/// A running sidecar.
pub struct Sidecar {
    /// Base URL of the agent API.
    pub url: String,
    /// Base URL of the admin listener.
    pub admin: String,
    /// Path of the unix socket.
    pub unix: Option<String>,
    /// Inbound side, for what the supervisor tells about the agent.
    pub hub: Hub,
    /// Cancelled when a drain is asked for on the admin listener.
    pub drain_requested: CancellationToken,
    /// Cancelled when the token has expired: only a new start helps.
    pub expired: CancellationToken,
    bus: Arc<dyn Bus>,
    spool: Option<Spool>,
    toll: Toll,
    grace: Duration,
    stop: CancellationToken,
    servers: TaskTracker,
}

impl Sidecar {
    /// On the broker that the grant names, as `identity`.
    pub async fn start(start: Start, identity: Identity, tracer: Tracer) -> Result<Self, Fault> {
        let grant = &start.grant;
        identity.renew(grant.jwt.clone());
        let options = connect::Options {
            servers: grant.servers.clone(),
            name: format!("sidecar {}", grant.instance),
            inbox: subject::inbox(&grant.agent),
            layout: grant.layout,
            identity,
        };
        let connect = async { Ok(JetStream::connect(options).await? as Arc<dyn Bus>) };
        Box::pin(Self::run(start, connect, tracer)).await
    }

    /// On a bus that is reached already, such as one in this process.
    pub async fn start_on(start: Start, bus: Arc<dyn Bus>, tracer: Tracer) -> Result<Self, Fault> {
        Box::pin(Self::run(start, std::future::ready(Ok(bus)), tracer)).await
    }

    /// Binds first, so that a taken port is known before the broker is bothered; then connects, then serves.
    async fn run(
        start: Start,
        connect: impl Future<Output = Result<Arc<dyn Bus>, Fault>>,
        tracer: Tracer,
    ) -> Result<Self, Fault> {
        let api_listener = bind(&start.listen).await?;
        let admin_listener = bind(&start.admin).await?;
        let unix = match &start.unix {
            Some(path) => Some(serve::bind_unix(Path::new(path)).await.map_err(|error| cannot_bind(path, &error))?),
            None => None,
        };
        let readiness = Readiness::new();
        let (broker, edge) = (readiness.latch("broker"), readiness.latch("api"));

        let grant = start.grant;
        let bus = connect.await?;
        let (metrics, replies, asking) = (Metrics::new(), bus.clone(), tracer.clone());
        let publisher = bus.publisher().clone();
        if let Some(state) = &start.state {
            state::create_private(Path::new(state))
                .map_err(|error| Fault::new(Code::BadConfig, format!("no folder for the sidecar: {error}")))?;
        }
        let toll = Toll::open(&grant, start.state.as_deref().map(Path::new), metrics.clone());
        let spool = open_spool(start.state.as_deref(), start.spool, &metrics)?;
        let outbound =
            Outbound::new(publisher.clone(), &grant, tracer.clone(), metrics.clone(), spool.clone(), toll.clone());
        outbound.explain_full(Full::new(bus.clone(), &grant.namespace, &grant.agent));
        let seal = Seal::new(&grant.secret, &grant.instance);
        let parts =
            Parts { bus: bus.clone(), publisher, outbound: outbound.clone(), seal, tracer, metrics: metrics.clone() };
        let hub = Hub::start(parts, &grant, inbound::Options::default());
        let control = Control::new(bus.clone(), hub.clone(), outbound.clone(), grant);

        let (stop, servers) = (CancellationToken::new(), TaskTracker::new());
        let drain_requested = CancellationToken::new();
        let expired = CancellationToken::new();
        servers.spawn({
            let (fresh, expired) = (control.clone().keep_fresh(stop.clone()), expired.clone());
            async move {
                if fresh.await {
                    expired.cancel();
                }
            }
        });
        servers.spawn(standby::run(control.clone(), hub.clone(), stop.clone()));
        servers.spawn(query::run(control.clone(), hub.clone(), stop.clone()));
        servers.spawn(toll.clone().save(stop.clone()));
        if let Some(spool) = &spool {
            servers.spawn(spool::drain::watch(spool.clone(), bus.clone(), stop.clone()));
            servers.spawn(spool::drain::run(spool.clone(), bus.clone(), stop.clone()));
        }
        servers.spawn(watch_broker(bus.clone(), broker, stop.clone()));
        let local = |listener: &TcpListener| listener.local_addr().map_err(|error| cannot_bind("listener", &error));
        let (api_addr, admin_addr) = (local(&api_listener)?, local(&admin_listener)?);
        let (out, held) = (outbound.clone(), control.clone());
        let asks = Asks::start(replies, out, held, asking, &servers, stop.clone()).await?;
        let state =
            api::State { outbound, hub: hub.clone(), control, asks, metrics: metrics.clone(), stop: stop.clone() };
        let router = api::router(state, &start.token, api_addr.port());
        let limits = serve::Limits { refusal: unparsed, ..serve::Limits::default() };
        for socket in [serve::Socket::Tcp(api_listener)].into_iter().chain(unix) {
            servers.spawn(serve::serve(socket, router.clone(), stop.clone(), limits));
        }
        let admin = Admin {
            readiness,
            metrics: Arc::new(move || metrics.encode()),
            drain: drain_requested.clone(),
            token: start.admin_token,
        };
        servers.spawn(serve::serve_tcp(admin_listener, admin::router(admin), stop.clone()));
        edge.ready();
        Ok(Self {
            url: format!("http://{api_addr}"),
            admin: format!("http://{admin_addr}"),
            unix: start.unix,
            hub,
            drain_requested,
            expired,
            bus,
            spool,
            toll,
            grace: Duration::from_millis(start.drain_ms),
            stop,
            servers,
        })
    }

    /// How it is, for whoever started it. The closure may outlive the sidecar.
    pub fn reporter(&self) -> impl Fn() -> SidecarReport + Send + 'static {
        let (hub, spool, toll) = (self.hub.clone(), self.spool.clone(), self.toll.clone());
        move || {
            let counts = spool.as_ref().map(Spool::counts).unwrap_or_default();
            let named = |side: &str, (name, state): (String, breaker::State)| BreakerReport {
                side: side.to_owned(),
                name,
                state: state.as_str().to_owned(),
            };
            let publish = toll.open_breakers().into_iter().map(|open| named("publish", open));
            let deliver = hub.open_breakers().into_iter().map(|open| named("deliver", open));
            SidecarReport {
                spool_events: counts.events,
                spool_bytes: counts.bytes,
                spool_refused: counts.refused,
                breakers: publish.chain(deliver).collect(),
            }
        }
    }

    /// Stops in order: no new deliveries → the agent finishes or its deliveries are given back → acks are flushed → the
    /// spool is sent, if the broker is there → the listeners close. Publishes are taken until the listeners close; what is
    /// left in the spool stays for the next run.
    pub async fn drain(self) {
        self.hub.drain(self.grace).await;
        if let Some(spool) = self.spool.filter(|_| self.bus.is_up()) {
            spool.empty(self.grace).await;
        }
        self.stop.cancel();
        self.servers.close();
        if tokio::time::timeout(self.grace, self.servers.wait()).await.is_err() {
            tracing::warn!("connections cut at the end of the drain");
        }
    }
}

/// The spool of this instance, if it is to have one.
fn open_spool(state: Option<&str>, options: Option<SpoolOptions>, metrics: &Metrics) -> Result<Option<Spool>, Fault> {
    let Some(options) = options else { return Ok(None) };
    let Some(state) = state else {
        let why = "a spool needs a folder of the instance's own that survives its restarts (`state`)";
        return Err(Fault::new(Code::BadConfig, why));
    };
    Spool::open(&Path::new(state).join("spool"), &options, metrics.clone()).map(Some)
}

async fn bind(address: &str) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| cannot_bind(address, &error))
}

fn cannot_bind(address: &str, error: &std::io::Error) -> Fault {
    Fault::new(Code::BadConfig, format!("cannot listen on `{address}`: {error}; choose another address or port 0"))
}

async fn watch_broker(bus: Arc<dyn Bus>, latch: agentbus_runtime::ready::Latch, stop: CancellationToken) {
    let mut state = bus.state();
    loop {
        if bus.is_up() {
            latch.ready()
        } else {
            latch.unready(bus.down().message)
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}
