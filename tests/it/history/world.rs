//! A broker with a small events stream, the control plane on it, and sidecars of declared agents.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agentbus::control::Api;
use agentbus_control_plane::grants::{Common, Grants};
use agentbus_control_plane::groups::Groups;
use agentbus_control_plane::spec::Project;
use agentbus_control_plane::{ControlPlane, Options};
use agentbus_nats::bus::Bus;
use agentbus_nats::grant::{AgentLimits, GroupGrant};
use agentbus_nats::identity::Authority;
use agentbus_nats::topology::Sizes;
use agentbus_nats::{headers, read};
use agentbus_proto::event::v1::Event;
use agentbus_tests::broker::{EVENT_BYTES_MAX, group};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use prost::Message;
use serde_json::{Value, json};

const TOKEN: &str = "token-of-the-test";
const MIB: i64 = 1 << 20;

/// The agents of every world: `writer` publishes, `live` and `dead` read notes, `wild` has its own topic, `quiet` reads what
/// nobody sends.
pub const AGENTS: &str = "
agents:
  writer: {runner: process, command: [none], publish: ['>']}
  live: {runner: process, command: [none], subscribe: [note.>]}
  dead: {runner: process, command: [none], subscribe: [note.>]}
  strict: {runner: process, command: [none], subscribe: [strict.>], ordered: true}
  wild: {runner: process, command: [none], subscribe: [wild.>], publish: [wild.>]}
  quiet: {runner: process, command: [none], subscribe: [nothing.>]}
";

pub struct World {
    pub broker: Broker,
    control: Option<ControlPlane>,
    project: String,
    sizes: Sizes,
    pub api: Api,
}

/// 2 MiB of events, and room for many times that in dead letters.
pub fn small() -> Sizes {
    Sizes { events_bytes_max: 2 * MIB, dead_letter_bytes_max: 64 * MIB, ..Sizes::within(64 * MIB) }
}

impl World {
    /// `keys` go before the agents: `retention: …`.
    pub async fn start(keys: &str, sizes: Sizes) -> Self {
        let broker = Broker::start_with(sizes).await;
        let project = format!("version: 1\n{keys}{AGENTS}");
        let (control, api) = control(&broker, &project, sizes).await;
        Self { broker, control: Some(control), api, project, sizes }
    }

    /// Ends the control plane where it stands, and starts another one.
    pub async fn restart_control(&mut self) {
        drop(self.control.take());
        let (control, api) = control(&self.broker, &self.project, self.sizes).await;
        (self.control, self.api) = (Some(control), api);
    }

    /// The sidecar of a declared agent, and the agent beside it.
    pub async fn agent(&self, name: &str) -> (SidecarProcess, HttpAgent) {
        let mut limits = AgentLimits::default();
        let (groups, publish): (Vec<_>, &[&str]) = match name {
            "wild" => {
                limits = self.default_limits(name);
                (vec![group(name, &["wild.>"])], &["wild.>"])
            }
            "writer" => (vec![], &[">"]),
            "strict" => (vec![GroupGrant { ordered: true, ..group(name, &["strict.>"]) }], &[]),
            reader => (vec![group(reader, &["note.>"])], &[]),
        };
        let sidecar = SidecarProcess::start(
            &self.broker,
            Member { agent: name, groups: &groups, publish, limits, ..Member::default() },
        )
        .await;
        let agent = HttpAgent::of(&sidecar);
        (sidecar, agent)
    }

    /// What the control plane would grant an agent.
    fn default_limits(&self, agent: &str) -> AgentLimits {
        let project = Project::parse(&self.project, "agentbus.yaml").expect("a project");
        let common = Common { namespace: "default".into(), servers: Vec::new(), event_bytes_max: EVENT_BYTES_MAX };
        let grants = Grants::new(Arc::new(Authority::generate("default")), common, Groups::default());
        grants.bounded(&project, &self.sizes).bounds(agent).limits
    }

    pub async fn get(&self, path: &str) -> Value {
        self.api.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.api.post(path, &body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What the control plane has noted of one kind.
    pub async fn facts(&self, name: &str) -> Vec<Value> {
        let all = self.read(&self.broker.names.audit()).await;
        let subject = format!("aba.default.{name}");
        let ours = all.iter().filter(|record| record.subject == subject);
        ours.map(|record| serde_json::from_slice(&record.payload).expect("JSON")).collect()
    }

    /// All that a stream holds.
    pub async fn read(&self, stream: &str) -> Vec<read::Record> {
        read_all(&*self.broker.bus, stream).await
    }

    /// Dead letters of a group: id of the event → (letter, event). No event has two.
    pub async fn letters(&self, group: &str) -> BTreeMap<String, (read::Record, Event)> {
        let mut letters = BTreeMap::new();
        for record in self.read(&self.broker.names.dead_letters()).await {
            if headers::get(Some(&record.headers), headers::GROUP) == Some(group) {
                let event = Event::decode(record.payload.clone()).expect("an event");
                let before = letters.insert(event.id.clone(), (record, event));
                assert!(before.is_none(), "two letters: {before:?}");
            }
        }
        letters
    }

    /// Share of the events stream that is used, in per cent.
    pub async fn used_percent(&self) -> u64 {
        let info = self.broker.bus.stream(&self.broker.names.events()).await.expect("read").expect("there");
        info.bytes * 100 / info.config.max_bytes.cast_unsigned()
    }
}

/// All that a stream holds.
pub async fn read_all(bus: &dyn Bus, stream: &str) -> Vec<read::Record> {
    let mut query = read::Query::all();
    let mut records = Vec::new();
    loop {
        let page = bus.read(stream, &query).await.expect("a page");
        records.extend(page.records);
        match page.next {
            Some(next) => query.from = read::From::Seq(next),
            None => return records,
        }
    }
}

async fn control(broker: &Broker, project: &str, sizes: Sizes) -> (ControlPlane, Api) {
    let seeds = broker.authority.to_json().expect("keys");
    let control = ControlPlane::start(Options {
        project: Project::parse(project, "agentbus.yaml").unwrap_or_else(|error| panic!("{error}")),
        project_dir: broker.dir.path().to_owned(),
        state_dir: broker.dir.path().to_owned(),
        servers: vec![broker.url()],
        authority: Arc::new(Authority::from_json(&seeds).expect("keys")),
        sizes,
        event_bytes_max: EVENT_BYTES_MAX,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        api_token: TOKEN.to_owned(),
        executable: agentbus_tests::binary::agentbus().clone(),
        otlp: None,
        person: false,
        spawn: false,
    });
    let control = control.await.expect("the control plane starts");
    let api = Api::new("the control plane", control.api_url(), TOKEN);
    (control, api)
}

pub const FILLER_BYTES: usize = 4000;

/// Event number `n` of a test, to `to`.
pub fn event(n: u64, to: &str) -> Value {
    json!({"id": format!("n-{n:05}"), "to": to, "data": {"n": n, "filler": "x".repeat(FILLER_BYTES)}})
}

/// Publishes events `from..to`; a full stream is waited for as its answer says. Tells how often it was full.
pub async fn publish(writer: &HttpAgent, numbers: std::ops::Range<u64>, to: &str) -> u64 {
    let mut full = 0;
    let end = std::time::Instant::now() + Duration::from_secs(120);
    for n in numbers {
        loop {
            let answer = writer.post("/v1/publish", &event(n, to)).await;
            if answer.status == 200 {
                break;
            }
            assert_eq!(answer.body["code"], "STREAM_FULL", "{}", answer.body);
            assert!(std::time::Instant::now() < end, "the stream stays full: {}", answer.body);
            full += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    full
}

/// Takes and acks until `enough` have come or nothing comes any more; gives back the ids in the order in which they came.
/// What somebody else had when it vanished comes only after its ack wait and its pin: nothing means longer than that.
pub async fn take(reader: &HttpAgent, enough: usize) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    while ids.len() < enough {
        let deliveries = reader.receive(32, "20s").await;
        if deliveries.is_empty() {
            break;
        }
        for delivery in deliveries {
            ids.push(delivery["event"]["id"].as_str().expect("an id").to_owned());
            reader.ack(&delivery).await;
        }
    }
    ids
}
