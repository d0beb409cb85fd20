//! One broker, one control plane that spawns nothing, and the sidecars of `asker`, `helper` and `other`, the latter two
//! in the pool `crew` and both readers of `work.>` in groups of their own.

use std::path::Path;
use std::sync::Arc;

use agentbus_control_plane::groups::Groups;
use agentbus_control_plane::spec::Project;
use agentbus_control_plane::{ControlPlane, Options};
use agentbus_nats::identity::Authority;
use agentbus_nats::topology::Sizes;
use agentbus_tests::http::{Answer, HttpAgent};
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const PROJECT: &str = "version: 1\ndefaults: {retry: {initial: 100ms, max: 200ms}}\nagents:\n  \
     asker: {runner: process, command: [x], publish: ['@*', 'work.>', 'noise.>'], subscribe: [noise.>]}\n  \
     helper: {runner: process, command: [x], pools: [crew], subscribe: [work.>]}\n  \
     other: {runner: process, command: [x], pools: [crew], subscribe: [work.>]}\n";

/// Most bytes of the streams together.
const STORE_BYTES: i64 = 256 << 20;

pub struct World {
    pub broker: Broker,
    pub control: Option<ControlPlane>,
    groups: Groups,
}

impl World {
    pub async fn start() -> Self {
        let mut world = Self::headless().await;
        world.start_control().await;
        world
    }

    /// Without a control plane, but with the consumers that it would have made.
    pub async fn headless() -> Self {
        let project = Project::parse(PROJECT, "agentbus.yaml").expect("a project");
        let world = Self { broker: Broker::start().await, control: None, groups: Groups::declared(&project, false) };
        for group in world.groups.all() {
            world.broker.group_with(group).await;
        }
        world
    }

    pub async fn start_control(&mut self) {
        let folder: &Path = self.broker.dir.path();
        let authority = Authority::from_json(&self.broker.authority.to_json().expect("written")).expect("read");
        let control = ControlPlane::start(Options {
            project: Project::parse(PROJECT, "agentbus.yaml").expect("a project"),
            project_dir: folder.to_owned(),
            state_dir: folder.to_owned(),
            servers: vec![self.broker.url()],
            authority: Arc::new(authority),
            sizes: Sizes::within(STORE_BYTES),
            event_bytes_max: usize::MAX,
            listen: "127.0.0.1:0".parse().expect("an address"),
            api_token: "secret".into(),
            executable: "/nonexistent".into(),
            otlp: None,
            person: false,
            spawn: false,
        });
        self.control = Some(control.await.expect("a control plane"));
    }

    /// The sidecar of an agent.
    pub async fn sidecar(&self, agent: &str) -> SidecarProcess {
        self.sidecar_with(agent, None, None).await
    }

    /// The same, at another broker address (a proxy's), with traces.
    pub async fn sidecar_with(&self, agent: &str, server: Option<&str>, otlp: Option<&str>) -> SidecarProcess {
        let groups = self.groups.of(agent);
        let publish: Vec<&str> = self.groups.publish(agent).iter().map(String::as_str).collect();
        let directory = self.groups.directory().clone();
        let member = Member { agent, groups: &groups, publish: &publish, directory, server, otlp, ..Member::default() };
        SidecarProcess::start(&self.broker, member).await
    }

    /// All replies that are stored.
    pub async fn stored_replies(&self) -> Vec<Value> {
        let messages = self.broker.messages(&self.broker.names.events()).await;
        let replies = messages.into_iter().filter(|message| message.subject.contains(".reply."));
        replies
            .map(|message| {
                use prost::Message;
                let event = agentbus_proto::event::v1::Event::decode(message.payload).expect("an event");
                agentbus_proto::json::event_to_json(&event)
            })
            .collect()
    }
}

/// Asks in the background.
pub fn asking(agent: &HttpAgent, body: Value) -> JoinHandle<Answer> {
    let agent = agent.clone();
    tokio::spawn(async move { agent.post("/v1/ask", &body).await })
}

/// The next ask that an agent is given, whatever else comes: that is acked.
pub async fn next_ask(agent: &HttpAgent) -> Value {
    next_ask_of(agent, 1).await
}

/// The same with polls for so many, of which one comes.
async fn next_ask_of(agent: &HttpAgent, max: usize) -> Value {
    until("an ask", || async {
        let delivery = agent.receive(max, "5s").await.pop().ok_or("nothing")?;
        if delivery["event"]["reply_by"].is_string() {
            return Ok(delivery);
        }
        agent.ack(&delivery).await;
        Err("another event")
    })
    .await
}

/// Begins to wait for the next one, beside whatever the test does meanwhile.
pub fn taking(agent: &HttpAgent) -> JoinHandle<Value> {
    let agent = agent.clone();
    tokio::spawn(async move { next_ask(&agent).await })
}

/// Replies and expects success.
pub async fn reply(agent: &HttpAgent, delivery: &Value, body: Value) -> Value {
    let answer = agent.settle(delivery, "reply", body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// Somebody who answers each ask with its own data, until dropped.
pub struct Echo(JoinHandle<()>);

impl Echo {
    /// Starts answering; waits until it listens at the broker, so that asks find somebody.
    pub async fn start(world: &World, agent: &HttpAgent, group: &str) -> Self {
        Self::start_with(world, agent, group, 1).await
    }

    /// The same with polls for so many, where one ask is under way at a time.
    pub async fn start_with(world: &World, agent: &HttpAgent, group: &str, max: usize) -> Self {
        let voice = agent.clone();
        let task = tokio::spawn(async move {
            loop {
                let delivery = next_ask_of(&voice, max).await;
                reply(&voice, &delivery, json!({"data": {"echo": delivery["event"]["data"]}})).await;
            }
        });
        listens(world, group).await;
        Self(task)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until somebody of this group asks the broker for events.
pub async fn listens(world: &World, group: &str) {
    until("a listener", || async {
        let state = world.broker.state(group).await;
        if state.waiting > 0 { Ok(()) } else { Err(state) }
    })
    .await;
}
