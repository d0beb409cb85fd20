//! A broker, the control plane as a library that spawns nothing, and sidecar processes with grants of the same keys.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agentbus::control::Api;
use agentbus_control_plane::spec::Project;
use agentbus_control_plane::{ControlPlane, Options};
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::identity::Authority;
use agentbus_nats::topology::Sizes;
use agentbus_proto::Fault;
use agentbus_tests::broker::{EVENT_BYTES_MAX, group};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::Value;

const TOKEN: &str = "token-of-the-test";

/// Two agents that read the same topics as two groups, and give up at the second failure.
pub const TWO: &str = "
version: 1
defaults: {retry: {max_attempts: 2, initial: 200ms, max: 1s}}
agents:
  left: {runner: process, command: [none], subscribe: [note.>], publish: [note.>]}
  right: {runner: process, command: [none], subscribe: [note.>], publish: [note.>]}
";

pub struct Bus {
    pub broker: Broker,
    pub control: ControlPlane,
    pub api: Api,
}

impl Bus {
    pub async fn start(project: &str) -> Self {
        let broker = Broker::start().await;
        let control = control(&broker, project).await.expect("the control plane starts");
        let api = Api::new("the control plane", control.api_url(), TOKEN);
        Self { broker, control, api }
    }

    /// The sidecar of one of the two, and the agent beside it.
    pub async fn agent(&self, name: &str) -> (SidecarProcess, HttpAgent) {
        let groups = [two(name)];
        let member = Member { agent: name, groups: &groups, publish: &["note.>"], ..Member::default() };
        let sidecar = SidecarProcess::start(&self.broker, member).await;
        let agent = HttpAgent::of(&sidecar);
        (sidecar, agent)
    }

    pub async fn get(&self, path: &str) -> Value {
        self.api.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.api.post(path, &body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn two(name: &str) -> GroupGrant {
    let mut group = group(name, &["note.>"]);
    group.policy.max_attempts = 2;
    group
}

pub async fn control(broker: &Broker, project: &str) -> Result<ControlPlane, Fault> {
    let keys = broker.authority.to_json().expect("keys");
    ControlPlane::start(Options {
        project: Project::parse(project, "agentbus.yaml").expect("a project"),
        project_dir: broker.dir.path().to_owned(),
        state_dir: broker.dir.path().to_owned(),
        servers: vec![broker.url()],
        authority: Arc::new(Authority::from_json(&keys).expect("keys")),
        sizes: Sizes::within(256 * 1024 * 1024),
        event_bytes_max: EVENT_BYTES_MAX,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        api_token: TOKEN.to_owned(),
        executable: agentbus_tests::binary::agentbus().clone(),
        otlp: None,
        person: false,
        spawn: false,
    })
    .await
}

/// Nothing more comes within a while.
pub async fn nothing(agent: &HttpAgent) {
    let got = agent.receive(1, "1500ms").await;
    assert!(got.is_empty(), "{got:?}");
}

pub const GRACE: Duration = Duration::from_secs(5);
