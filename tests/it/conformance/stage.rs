//! A bus to play on, of either kind: the topology is applied, groups and sidecars are made on request.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus::control::Api;
use agentbus_control_plane::spec::Project;
use agentbus_control_plane::supervise::{Host, Hosted, Local};
use agentbus_control_plane::{ControlPlane, Options};
use agentbus_nats::ack::Answer;
use agentbus_nats::bus::Bus;
use agentbus_nats::connect::Identity;
use agentbus_nats::grant::{GroupGrant, Start};
use agentbus_nats::identity::{Authority, Layout};
use agentbus_nats::names::Names;
use agentbus_nats::publisher::Message;
use agentbus_nats::pull::{Incoming, Pull};
use agentbus_nats::read::{Query, Record};
use agentbus_nats::topology::Sizes;
use agentbus_nats::{consumers, headers};
use agentbus_proto::Fault;
use agentbus_runtime::trace::Tracer;
use agentbus_sidecar::app::Sidecar;
use agentbus_sidecar::embed::{Embedded, Member};
use agentbus_tests::Broker;
use agentbus_tests::broker::EVENT_BYTES_MAX;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::{PATIENCE, until};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use tempfile::TempDir;

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A real nats-server.
    JetStream,
    /// The same with the sidecars behind the wall.
    Wall,
    /// The bus in this process.
    Memory,
}

enum Backend {
    JetStream(Box<Broker>),
    Memory(Embedded),
}

/// A bus with full rights.
pub struct Stage {
    pub bus: Arc<dyn Bus>,
    pub names: Names,
    backend: Backend,
    dir: TempDir,
}

/// A sidecar in this process and the agent beside it.
pub struct Agent {
    pub http: HttpAgent,
    pub sidecar: Sidecar,
}

/// A control plane on the stage.
pub struct Control {
    pub api: Api,
    _control: ControlPlane,
}

const TOKEN: &str = "token-of-the-test";

impl Stage {
    pub async fn new(kind: Kind) -> Self {
        Self::with(kind, Sizes::within(64 << 20)).await
    }

    pub async fn with(kind: Kind, sizes: Sizes) -> Self {
        let (backend, bus, names) = match kind {
            Kind::JetStream | Kind::Wall => {
                let broker = Broker::start_of(Layout::walled(kind == Kind::Wall), sizes).await;
                let (bus, names) = (broker.bus.clone(), broker.names.clone());
                (Backend::JetStream(Box::new(broker)), bus, names)
            }
            Kind::Memory => {
                let embedded = Embedded::start_with(sizes).await.expect("a bus in this process");
                let (bus, names) = (embedded.bus().clone(), embedded.names().clone());
                (Backend::Memory(embedded), bus, names)
            }
        };
        Self { bus, names, backend, dir: tempfile::tempdir().expect("a folder") }
    }

    /// A durable consumer on the events stream: all of it, explicit acks, 1 s to settle.
    pub async fn consumer(&self, name: &str, change: impl FnOnce(&mut pull::Config)) -> Pull {
        self.put(name, change).await.expect("a consumer");
        self.bus.pull(&self.names.events(), name).await.expect("a pull")
    }

    pub async fn put(&self, name: &str, change: impl FnOnce(&mut pull::Config)) -> Result<(), Fault> {
        let mut config = pull::Config {
            durable_name: Some(name.to_owned()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(1),
            max_ack_pending: 100,
            ..pull::Config::default()
        };
        change(&mut config);
        self.bus.put_consumer(&self.names.events(), config).await
    }

    /// Stores this text on `ab.default.n.a.topic.-.<topic>`; tells its sequence.
    pub async fn event(&self, topic: &str, text: &str) -> u64 {
        self.bus.store(message(topic, text, "")).await.expect("stored").seq
    }

    pub async fn ack(&self, incoming: &Incoming) {
        self.bus.answer(&incoming.receipt.subject, Answer::Ack).await;
    }

    /// All that a stream holds, in one page.
    pub async fn records(&self, stream: &str) -> Vec<Record> {
        self.bus.read(stream, &Query::all()).await.expect("a page").records
    }

    /// Waits until there are so many dead letters.
    pub async fn letters(&self, count: usize) -> Vec<Record> {
        until("dead letters", || async {
            let letters = self.records(&self.names.dead_letters()).await;
            if letters.len() == count { Ok(letters) } else { Err(letters.len()) }
        })
        .await
    }

    /// Waits until a group has nothing to do.
    pub async fn settled(&self, group: &str) {
        until("settled group", || async {
            let group = [group.to_owned()];
            let state = consumers::states(&*self.bus, &self.names, &group).await.expect("a state").remove(0);
            if (state.lag, state.in_flight, state.retrying) == (0, 0, 0) { Ok(()) } else { Err(state) }
        })
        .await;
    }

    /// Makes a group.
    pub async fn group(&self, group: &GroupGrant) {
        consumers::ensure(&*self.bus, &self.names, group).await.expect("a group");
    }

    /// Starts a sidecar in this process; its groups are made, too.
    pub async fn agent(&self, agent: &str, instance: &str, groups: &[GroupGrant]) -> Agent {
        for group in groups {
            self.group(group).await;
        }
        let sidecar = match &self.backend {
            Backend::JetStream(broker) => {
                let identity = Identity::new_user();
                let grant = broker.grant(agent, instance, &identity.public_key(), groups, &[">"]);
                let any = || "127.0.0.1:0".to_owned();
                let start = Start {
                    grant,
                    token: TOKEN.to_owned(),
                    listen: any(),
                    admin: any(),
                    admin_token: None,
                    unix: None,
                    drain_ms: 2_000,
                    state: None,
                    spool: None,
                };
                Box::pin(Sidecar::start(start, identity, Tracer::disabled())).await
            }
            Backend::Memory(embedded) => {
                let member = Member {
                    instance: instance.to_owned(),
                    groups: groups.to_vec(),
                    publish: vec![">".to_owned()],
                    token: TOKEN.to_owned(),
                    ..Member::new(agent)
                };
                Box::pin(embedded.sidecar(member)).await
            }
        };
        let sidecar = sidecar.expect("a sidecar");
        let address = sidecar.url.trim_start_matches("http://").to_owned();
        Agent { http: HttpAgent { address, token: TOKEN.to_owned() }, sidecar }
    }

    /// A control plane for `agents:` of a project file. It runs no agent: the test does.
    pub async fn control(&self, agents: &str) -> Control {
        let project = format!("version: 1\nagents:\n{agents}");
        let (servers, authority) = match &self.backend {
            Backend::JetStream(broker) => {
                (vec![broker.url()], broker.authority.of_namespace(self.names.namespace()).expect("keys"))
            }
            Backend::Memory(_) => (vec![], Authority::generate(self.names.namespace())),
        };
        let options = Options {
            project: Project::parse(&project, "agentbus.yaml").unwrap_or_else(|error| panic!("{error}")),
            project_dir: self.dir.path().to_owned(),
            state_dir: self.dir.path().to_owned(),
            servers,
            authority: Arc::new(authority),
            sizes: Sizes::within(64 << 20),
            event_bytes_max: EVENT_BYTES_MAX,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_token: TOKEN.to_owned(),
            executable: "agentbus".into(),
            otlp: None,
            person: false,
            spawn: false,
        };
        let control = match &self.backend {
            Backend::JetStream(_) => Box::pin(ControlPlane::start(options)).await,
            Backend::Memory(embedded) => {
                let local = Local { bus: embedded.memory().clone(), host: Arc::new(Nobody) };
                Box::pin(ControlPlane::start_local(options, local)).await
            }
        };
        let control = control.expect("a control plane");
        Control { api: Api::new("the control plane", control.api_url(), TOKEN), _control: control }
    }
}

/// Runs no sidecars: the tests do.
#[derive(Debug)]
struct Nobody;

#[async_trait::async_trait]
impl Host for Nobody {
    async fn start(&self, _start: Start) -> Result<Box<dyn Hosted>, Fault> {
        panic!("the test starts its sidecars itself")
    }
}

/// The next delivery, within the tests' patience.
pub async fn next(pull: &mut Pull) -> Incoming {
    tokio::time::timeout(PATIENCE, pull.next()).await.expect("a delivery")
}

/// That nothing comes for so long.
pub async fn nothing(pull: &mut Pull, ms: u64) {
    let came = tokio::time::timeout(Duration::from_millis(ms), pull.next()).await;
    assert!(came.is_err(), "{came:?}");
}

pub fn text(incoming: &Incoming) -> String {
    String::from_utf8_lossy(&incoming.payload).into_owned()
}

/// A message with this id; empty = none.
pub fn message(topic: &str, text: &str, id: &str) -> Message {
    let mut map = HeaderMap::new();
    if !id.is_empty() {
        map.insert(headers::MSG_ID, id);
    }
    Message { subject: subject(topic), headers: map, payload: text.to_owned().into() }
}

pub fn subject(topic: &str) -> String {
    format!("ab.default.n.a.topic.-.{topic}")
}

/// Now, on the clock of the machine that both share.
pub fn now() -> SystemTime {
    SystemTime::now()
}
