//! A broker, a control plane that spawns nothing, and two agents with sidecars: each reads and writes its own topics.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agentbus_control_plane::spec::Project;
use agentbus_control_plane::{ControlPlane, Options};
use agentbus_nats::identity::Authority;
use agentbus_nats::topology::Sizes;
use agentbus_tests::broker::{EVENT_BYTES_MAX, group};
use agentbus_tests::http::{Answer, HttpAgent, request};
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::{Value, json};

const PROJECT: &str = "
version: 1
agents:
  clock: {runner: process, command: [none], subscribe: [tick.>], publish: [tick.>]}
  other: {runner: process, command: [none], subscribe: [note.>], publish: [note.>]}
";

pub const GRACE: Duration = Duration::from_secs(5);

pub struct World {
    pub broker: Broker,
    pub control: Option<ControlPlane>,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(Sizes::within(256 * 1024 * 1024)).await
    }

    pub async fn start_with(sizes: Sizes) -> Self {
        let broker = Broker::start_with(sizes).await;
        let control = control(&broker, sizes).await;
        Self { broker, control: Some(control) }
    }

    /// An agent of the project beside its sidecar.
    pub async fn agent(&self, name: &str) -> (SidecarProcess, HttpAgent) {
        let own = if name == "clock" { "tick.>" } else { "note.>" };
        let groups = [group(name, &[own])];
        let member = Member { agent: name, groups: &groups, publish: &[own], ..Member::default() };
        let sidecar = SidecarProcess::start(&self.broker, member).await;
        let agent = HttpAgent::of(&sidecar);
        (sidecar, agent)
    }

    /// The person's sidecar: it may publish anywhere.
    pub async fn person(&self) -> (SidecarProcess, HttpAgent) {
        let member = Member { agent: "me", publish: &[">"], ..Member::default() };
        let sidecar = SidecarProcess::start(&self.broker, member).await;
        let agent = HttpAgent::of(&sidecar);
        (sidecar, agent)
    }

    pub async fn stop_control(&mut self) {
        self.control.take().expect("runs").stop(GRACE).await;
    }

    /// Messages in the stream of schedules: schedules, and what they fired that the events stream does not have yet.
    pub async fn waiting(&self) -> u64 {
        self.broker.count(&self.broker.names.schedules()).await
    }
}

async fn control(broker: &Broker, sizes: Sizes) -> ControlPlane {
    let keys = broker.authority.to_json().expect("keys");
    let started = ControlPlane::start(Options {
        project: Project::parse(PROJECT, "agentbus.yaml").expect("a project"),
        project_dir: broker.dir.path().to_owned(),
        state_dir: broker.dir.path().to_owned(),
        servers: vec![broker.url()],
        authority: Arc::new(Authority::from_json(&keys).expect("keys")),
        sizes,
        event_bytes_max: EVENT_BYTES_MAX,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        api_token: "token-of-the-test".to_owned(),
        executable: agentbus_tests::binary::agentbus().clone(),
        otlp: None,
        person: true,
        spawn: false,
    });
    started.await.expect("the control plane starts")
}

/// Schedules and expects success: (id, next).
pub async fn schedule(agent: &HttpAgent, body: Value) -> (String, String) {
    let answer = agent.post("/v1/schedules", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let text = |key: &str| answer.body[key].as_str().expect("text").to_owned();
    (text("id"), text("next"))
}

pub async fn call(agent: &HttpAgent, method: &str, path: &str) -> Answer {
    let headers = [("authorization", format!("Bearer {}", agent.token))];
    request(&agent.address, method, path, &headers, "".into()).await.expect("an answer")
}

pub async fn list(agent: &HttpAgent) -> Vec<Value> {
    let answer = call(agent, "GET", "/v1/schedules").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["schedules"].as_array().expect("a list").clone()
}

pub async fn cancel(agent: &HttpAgent, id: &str) -> bool {
    let answer = call(agent, "DELETE", &format!("/v1/schedules/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["cancelled"] == json!(true)
}

/// Takes and acks the next delivery: its event.
pub async fn take(agent: &HttpAgent) -> Value {
    let delivery = agent.receive_one("30s").await;
    agent.ack(&delivery).await;
    delivery["event"].clone()
}

/// A string of an event.
pub fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {event}"))
}

/// Seconds since the epoch of a time as it is written.
pub fn seconds(text: &str) -> f64 {
    let time = agentbus_proto::timestamp::parse(text).expect("a time");
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}
