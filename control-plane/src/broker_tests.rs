//! The control plane on a real nats-server: what sidecars ask it, and what it does when the broker changes under it.
//!
//! The server is the one `find_or_obtain` gives on this machine. Each test has its own, with its own store and keys.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::bus::JetStream;
use agentbus_nats::connect::{self, Identity, Link};
use agentbus_nats::grant::{ControlReply, ControlRequest, Grant, GroupGrant};
use agentbus_nats::identity::{Authority, Layout, UserSpec};
use agentbus_nats::names::Names;
use agentbus_nats::server::{self, ConfigOptions, OperatorMode, Server};
use agentbus_nats::topology::Sizes;
use agentbus_nats::{consumers, plan, subject};
use async_nats::jetstream;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;
use crate::spec::Project;
use crate::status::{InstanceState, InstanceStatus};
use crate::{ControlPlane, Options, grants};

const WAIT: Duration = Duration::from_secs(20);
const PROJECT: &str = "version: 1\nagents:\n  \
    report: {runner: process, command: [r], subscribe: [file.checked], publish: [done]}\n  \
    other: {runner: process, command: [o], publish: [notes.>]}\n";

struct Scene {
    folder: tempfile::TempDir,
    authority: Arc<Authority>,
    server: Server,
    control: Option<ControlPlane>,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let say = |words: &str| eprintln!("{words}");
        let binary = server::find_or_obtain(&server::Options::from_env(None), &say).await.unwrap();
        let authority = Arc::new(Authority::generate("default"));
        let now = grants::now();
        let operator = OperatorMode::of(&authority, now).unwrap();
        let config = ConfigOptions {
            store_dir: folder.path().join("store"),
            operator: Some(operator),
            ..ConfigOptions::default()
        };
        let server = Server::start(&binary.path, &folder.path().join("nats"), config, None).await.unwrap();
        let mut scene = Self { folder, authority, server, control: None };
        scene.start_control().await;
        scene
    }

    async fn start_control(&mut self) {
        let control = ControlPlane::start(Options {
            project: Project::parse(PROJECT, "t").unwrap(),
            project_dir: self.folder.path().to_owned(),
            state_dir: self.folder.path().to_owned(),
            servers: vec![self.server.url()],
            authority: Arc::clone(&self.authority),
            sizes: Sizes::within(64 << 20),
            event_bytes_max: usize::MAX,
            listen: "127.0.0.1:0".parse().unwrap(),
            api_token: "secret".into(),
            executable: "/nonexistent".into(),
            otlp: None,
            person: true,
            spawn: false,
        });
        self.control = Some(control.await.unwrap());
    }

    /// A connection with the rights of an agent's sidecar.
    async fn sidecar(&self, agent: &str) -> Link {
        let identity = Identity::new_user();
        let public_key = identity.public_key();
        let spec = UserSpec { agent, public_key: &public_key, groups: &[], consumers: &[], publish: &[] };
        identity.renew(self.authority.sidecar(&spec, grants::now()).unwrap().0);
        self.connect(agent, identity).await
    }

    async fn admin(&self) -> Link {
        let credentials = self.authority.control_plane(grants::now()).unwrap();
        self.connect("test", Identity::from_credentials(&credentials).unwrap()).await
    }

    async fn connect(&self, agent: &str, identity: Identity) -> Link {
        let options = connect::Options {
            servers: vec![self.server.url()],
            name: agent.to_owned(),
            inbox: subject::inbox(agent),
            layout: Layout::Plain,
            identity,
        };
        Link::connect(options).await.unwrap()
    }
}

fn request(link: &Link, instance: &str, group: Option<GroupGrant>) -> Vec<u8> {
    let request = ControlRequest { public_key: link.identity().public_key(), instance: instance.to_owned(), group };
    serde_json::to_vec(&request).unwrap()
}

async fn ask(link: &Link, agent: &str, verb: &str, group: Option<GroupGrant>) -> Result<Grant, String> {
    let payload = request(link, agent, group);
    let answer = link.client.request(subject::control("default", agent, verb), payload.into());
    let answer = tokio::time::timeout(WAIT, answer).await.unwrap().map_err(|error| error.to_string())?;
    match serde_json::from_slice(&answer.payload).unwrap() {
        ControlReply::Grant(grant) => Ok(*grant),
        ControlReply::Answer(value) => Err(format!("no grant: {value}")),
        ControlReply::Error { code, message } => Err(format!("{code}: {message}")),
    }
}

fn group(name: &str, pattern: &str) -> GroupGrant {
    serde_json::from_value(serde_json::json!({"name": name, "patterns": [pattern]})).unwrap()
}

/// The groups that were joined: not the agent's own address and channels, which it always has.
fn names(grant: &Grant) -> Vec<&str> {
    let own = [Names::inbox_group(&grant.agent), Names::channels_group(&grant.agent)];
    assert!(own.iter().all(|own| grant.groups.iter().any(|group| group.name == *own)), "{:?}", grant.groups);
    grant.groups.iter().map(|group| group.name.as_str()).filter(|name| !own.iter().any(|own| own == name)).collect()
}

async fn bus(link: &Link) -> Arc<JetStream> {
    JetStream::on(link.clone()).await.unwrap()
}

async fn exists(link: &Link, group: &str) -> bool {
    consumers::states(&*bus(link).await, &Names::new("default"), &[group.to_owned()]).await.is_ok()
}

#[tokio::test]
async fn a_sidecar_renews_joins_and_is_known_after_a_restart() {
    let mut scene = Scene::new().await;
    let admin = scene.admin().await;
    assert!(exists(&admin, "report").await, "declared groups have their consumers from the start");
    let other = scene.sidecar("other").await;
    let grant = ask(&other, "other", "renew", None).await.unwrap();
    assert_eq!((names(&grant).len(), grant.publish.as_slice()), (0, &["notes.>".to_owned()][..]));
    assert_eq!(grant.event_bytes_max, 1024 * 1024 - 16 * 1024);

    let grant = ask(&other, "other", "subscribe", Some(group("readers", "notes.>"))).await.unwrap();
    assert_eq!(names(&grant), ["readers"]);
    assert!(exists(&admin, "readers").await);
    // The new token opens the new group's consumer.
    other.renew(grant.jwt.clone()).await.unwrap();
    let info = format!("$JS.API.CONSUMER.INFO.{}.readers", Names::new("default").events());
    let answer = other.client.request(info, "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("readers"), "{answer:?}");

    scene.control.take().unwrap().stop(WAIT).await;
    scene.start_control().await;
    let grant = ask(&other, "other", "renew", None).await.unwrap();
    assert_eq!(names(&grant), ["readers"]);
}

#[tokio::test]
async fn wishes_beyond_the_rights_are_refused_with_their_reason() {
    let scene = Scene::new().await;
    let other = scene.sidecar("other").await;
    let check = async |verb: &str, wish: Option<GroupGrant>, expected: &str| {
        let refused = ask(&other, "other", verb, wish).await.unwrap_err();
        assert!(refused.contains(expected), "{verb}: {refused}");
    };
    check("subscribe", Some(group("report", "everything.>")), "SCOPE_DENIED: group `report` is declared").await;
    check("subscribe", Some(group("report", "file.checked")), "SCOPE_DENIED: group `report` is declared").await;
    check("subscribe", Some(group("readers", "@me")), "SCOPE_DENIED: `@me` cannot be subscribed").await;
    check("subscribe", None, "`group` is missing").await;
    ask(&other, "other", "subscribe", Some(group("readers", "notes.>"))).await.unwrap();
    check("subscribe", Some(group("readers", "more.>")), "INVALID_ADDRESS: group `readers` was joined before").await;
    ask(&other, "other", "subscribe", Some(group("readers", "notes.>"))).await.unwrap();
    check("explode", None, "does not know the verb `explode`").await;
    let stranger = scene.sidecar("stranger").await;
    let refused = ask(&stranger, "stranger", "renew", None).await.unwrap_err();
    assert!(refused.contains("SCOPE_DENIED"), "{refused}");
}

#[tokio::test]
async fn one_agent_that_asks_too_much_hears_so_and_holds_up_nobody() {
    let scene = Scene::new().await;
    let (report, other) = (scene.sidecar("report").await, scene.sidecar("other").await);
    let mut answers = other.client.subscribe("_INBOX.other.flood").await.unwrap();
    let control = subject::control("default", "other", "subscribe");
    for number in 0..200 {
        let payload = request(&other, "other", Some(group(&format!("g{}", number % 50), "notes.>")));
        other.client.publish_with_reply(control.clone(), "_INBOX.other.flood", payload.into()).await.unwrap();
    }
    other.client.flush().await.unwrap();
    let asked = std::time::Instant::now();
    ask(&report, "report", "renew", None).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let mut limited = 0;
    for _ in 0..200 {
        let answer = tokio::time::timeout(WAIT, answers.next()).await.unwrap().unwrap();
        match serde_json::from_slice(&answer.payload).unwrap() {
            ControlReply::Error { code, .. } if code == "RATE_LIMITED" => limited += 1,
            ControlReply::Error { code, message } => panic!("{code}: {message}"),
            ControlReply::Grant(_) | ControlReply::Answer(_) => {}
        }
    }
    assert!((1..200).contains(&limited), "{limited}");
    let huge = vec![b' '; 64 * 1024 + 1];
    let control = subject::control("default", "other", "renew");
    let refused = other.client.request(control, huge.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&refused.payload).contains("TOO_LARGE"), "{refused:?}");
    ask(&other, "other", "renew", None).await.unwrap();
}

#[tokio::test]
async fn nobody_else_gets_an_answer() {
    let scene = Scene::new().await;
    let (admin, other) = (scene.admin().await, scene.sidecar("other").await);
    let mut victim = admin.client.subscribe("_INBOX.report.x").await.unwrap();
    admin.client.flush().await.unwrap();
    let control = subject::control("default", "other", "renew");
    let payload = request(&other, "other", None);
    other.client.publish_with_reply(control, "_INBOX.report.x", payload.into()).await.unwrap();
    // Requests are answered in order: when this one was, the one before would have been.
    ask(&other, "other", "renew", None).await.unwrap();
    admin.client.flush().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), victim.next()).await.is_err());
}

#[tokio::test]
async fn what_the_broker_lost_is_made_again_and_a_broker_restart_kills_nothing() {
    let mut scene = Scene::new().await;
    let admin = scene.admin().await;
    let context = jetstream::new(admin.client.clone());
    context.delete_consumer_from_stream("report", Names::new("default").events()).await.unwrap();
    scene.control.as_ref().unwrap().poke();
    until(async || exists(&admin, "report").await).await;

    scene.server.restart().await.unwrap();
    let other = scene.sidecar("other").await;
    // Its subscription comes back with its connection, which is not ours.
    until(async || ask(&other, "other", "renew", None).await.is_ok()).await;
    let mut health = scene.control.as_ref().unwrap().health();
    tokio::time::timeout(WAIT, health.wait_for(Option::is_none)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_consumer_made_again_reads_what_came_meanwhile() {
    let scene = Scene::new().await;
    let admin = scene.admin().await;
    let (bus, names) = (bus(&admin).await, Names::new("default"));
    let context = bus.context();
    let store = async |text: &'static str| {
        let sent = context.publish("ab.default.n.other.topic.-.file.checked", text.into()).await.unwrap();
        sent.await.unwrap().sequence
    };
    let lag = async || {
        let states = consumers::states(&*bus, &names, &["report".to_owned()]).await;
        states.map_or(u64::MAX, |states| states[0].lag)
    };
    let poked = || scene.control.as_ref().unwrap().poke();
    store("one").await;
    context.delete_consumer_from_stream("report", names.events()).await.unwrap();
    store("two").await;
    poked();
    until(async || lag().await == 2).await;
    // A store that was lost: what is sent again before the group is back has low numbers and is read all the same.
    for stream in [names.events(), names.retry(), names.dead_letters()] {
        context.delete_stream(stream).await.unwrap();
    }
    plan::apply(&*bus, &names, &Sizes::within(64 << 20)).await.unwrap();
    assert_eq!(store("again").await, 1);
    poked();
    until(async || lag().await == 1).await;
    // A group that is new reads only what comes.
    let other = scene.sidecar("other").await;
    ask(&other, "other", "subscribe", Some(group("readers", "file.>"))).await.unwrap();
    let states = consumers::states(&*bus, &names, &["readers".to_owned()]).await.unwrap();
    assert_eq!(states[0].lag, 0);
}

#[tokio::test]
async fn the_broker_takes_no_event_that_cannot_be_moved() {
    let scene = Scene::new().await;
    let admin = scene.admin().await;
    let context = jetstream::new(admin.client.clone());
    let limit = 1024 * 1024 - 8 * 1024;
    for (bytes, fits) in [(limit, true), (limit + 1, false), (1024 * 1024, false)] {
        let stored = async {
            context.publish("ab.default.n.other.topic.-.file.checked", vec![0; bytes].into()).await.unwrap().await
        };
        assert_eq!(stored.await.is_ok(), fits, "{bytes}");
    }
    // Headers count.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Ab-Type", "x");
    let subject = "ab.default.n.other.topic.-.file.checked";
    let sent = context.publish_with_headers(subject, headers, vec![0; limit].into()).await.unwrap();
    assert!(sent.await.is_err());
    // A batch is no way round.
    for (bytes, fits) in [(10, true), (limit, false)] {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "1"), ("Nats-Batch-Commit", "1")] {
            headers.insert(name, value);
        }
        let sent = context.publish_with_headers(subject, headers, vec![0; bytes].into()).await.unwrap();
        assert_eq!(sent.await.is_ok(), fits, "{bytes}");
    }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let reached = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, reached).await.expect("condition not reached");
}

#[tokio::test]
async fn states_and_facts_are_written_down() {
    let scene = Scene::new().await;
    let admin = scene.admin().await;
    let (bus, names) = (bus(&admin).await, Names::new("default"));
    let context = bus.context();
    let status = |state| InstanceStatus { instance: "report".into(), state, ..InstanceStatus::default() };
    let (board, instances) = watch::channel(vec![status(InstanceState::Spawning)]);
    let stop = CancellationToken::new();
    let registry = Registry::new(bus.clone(), &names);
    let following = tokio::spawn(registry.follow(instances, stop.clone()));
    board.send_replace(vec![status(InstanceState::Running)]);
    let store = context.get_key_value(names.registry()).await.unwrap();
    until(async || match store.get("agents.report").await.unwrap() {
        Some(bytes) => serde_json::from_slice::<InstanceStatus>(&bytes).unwrap().state == InstanceState::Running,
        None => false,
    })
    .await;
    board.send_replace(vec![status(InstanceState::Stopped)]);
    stop.cancel();
    following.await.unwrap();
    let last = store.get("agents.report").await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&last).contains("stopped"), "the last state is written even when everything stops");

    let subject = subject::audit("default", "topology.applied.v1");
    let audit = context.get_stream(names.audit()).await.unwrap();
    until(async || audit.get_last_raw_message_by_subject(&subject).await.is_ok()).await;
}
