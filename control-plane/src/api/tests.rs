//! The API over a real socket against a real nats-server.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use agentbus_nats::bus::{Bus, JetStream};
use agentbus_nats::connect::{self, Identity};
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::identity::{Authority, Layout};
use agentbus_nats::moves::{self, Class, Mover};
use agentbus_nats::names::Names;
use agentbus_nats::server::{self, ConfigOptions, OperatorMode, Server};
use agentbus_nats::topology::Sizes;
use agentbus_nats::{consumers, headers, plan};
use agentbus_proto::Address;
use agentbus_proto::event::v1::Event;
use agentbus_runtime::serve::serve_tcp;
use async_nats::jetstream::{self, message::StreamMessage};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::audit::Audit;
use crate::dead_letters::{Causes, DeadLetters, Outcome, Page, Refusal, Report, Shares, Shown};
use crate::elsewhere::Elsewhere;
use crate::events::Events;
use crate::grants::{Common, Grants};
use crate::groups::Groups;
use crate::replay::Replays;
use crate::status::{InstanceState, InstanceStatus, SystemStatus};

mod facts;

const ORIGIN: &str = "ab.default.n.list.topic.-.notes.created";

struct Bench {
    bus: Arc<dyn Bus>,
    context: jetstream::Context,
    names: Names,
    _server: Server,
    _dir: tempfile::TempDir,
}

struct Api {
    address: SocketAddr,
    _stop: DropGuard,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

impl Bench {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::generate("default");
        let operator = OperatorMode::of(&authority, now()).unwrap();
        let store_dir = dir.path().join("store");
        let config = ConfigOptions { store_dir, operator: Some(operator), ..ConfigOptions::default() };
        let say = |line: &str| eprintln!("{line}");
        let binary = server::find_or_obtain(&server::Options::from_env(None), &say).await.unwrap();
        let server = Server::start(&binary.path, dir.path(), config, None).await.unwrap();
        let identity = Identity::from_credentials(&authority.control_plane(now()).unwrap()).unwrap();
        let (name, inbox) = ("test".to_owned(), "_INBOX.test".to_owned());
        let options = connect::Options { servers: vec![server.url()], name, inbox, identity, layout: Layout::Plain };
        let bus = JetStream::connect(options).await.unwrap();
        let context = bus.context().clone();
        let names = Names::new("default");
        plan::apply(&*bus, &names, &sizes()).await.unwrap();
        let readers: GroupGrant = serde_json::from_value(json!({"name": "readers", "patterns": ["notes.>"]})).unwrap();
        consumers::ensure(&*bus, &names, &readers).await.unwrap();
        Self { bus, context, names, _server: server, _dir: dir }
    }

    /// Gives an event up, as a sidecar does.
    async fn give_up(&self, seq: u64, group: &str, class: Class, cause: &str, redrives: u32, payload: &'static [u8]) {
        let mut incoming = moves::example("AB_default_EVENTS", seq, ORIGIN, payload);
        incoming.headers.insert(headers::TYPE, "notes.created.v1");
        incoming.headers.insert(headers::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        incoming.headers.insert(headers::REDRIVE, redrives.to_string());
        let mover = Mover { namespace: "default", group, agent: "check", secret: "s" };
        self.bus.store(moves::dead_letter(mover, &incoming, 4, class, cause, None)).await.unwrap();
    }

    /// Stores an event, as its sender's sidecar does.
    async fn event(&self, subject: &str, payload: &'static [u8]) {
        self.context.publish(subject.to_owned(), payload.into()).await.unwrap().await.unwrap();
    }

    /// The API as after a fresh start: nothing is remembered.
    async fn serve(&self) -> Api {
        let running = InstanceStatus { agent: "check".into(), state: InstanceState::Running, ..Default::default() };
        let (_, instances) = watch::channel(vec![running]);
        let letters = Arc::new(DeadLetters::new(self.bus.clone(), self.names.clone(), "redrive".into()));
        let state = ApiState {
            bus: self.bus.clone(),
            names: self.names.clone(),
            layout: Layout::Plain,
            sizes: sizes(),
            token: "secret".into(),
            events: Arc::new(Events::new(self.bus.clone(), self.names.clone(), grants(), sizes(), letters.clone())),
            letters,
            shares: Arc::new(Shares::new(self.bus.clone(), self.names.clone(), grants())),
            instances,
            replays: replays(&self.bus, &self.names),
            alarms: watch::channel(Vec::new()).1,
            groups: Arc::new(|| vec!["readers".into(), "missing".into()]),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve_tcp(listener, router(state), stop.clone()));
        Api { address, _stop: stop.drop_guard() }
    }

    /// Makes a stream as small as this.
    async fn bound(&self, stream: &str, bytes: i64) {
        let config = self.context.get_stream(stream).await.unwrap().cached_info().config.clone();
        let config = jetstream::stream::Config { max_bytes: bytes, ..config };
        self.context.update_stream(config).await.unwrap();
    }

    /// Stores until the stream of this subject takes no more.
    async fn fill(&self, subject: &'static str) {
        while self.context.publish(subject, "{}".into()).await.unwrap().await.is_ok() {}
    }

    async fn state(&self, stream: &str) -> jetstream::stream::State {
        self.context.get_stream(stream).await.unwrap().cached_info().state.clone()
    }

    async fn message(&self, stream: &str, seq: u64) -> StreamMessage {
        self.context.get_stream(stream).await.unwrap().get_raw_message(seq).await.unwrap()
    }
}

/// Nobody is declared.
fn grants() -> Arc<Grants> {
    let common = Common { namespace: "default".into(), servers: vec![], event_bytes_max: 1000 };
    Arc::new(Grants::new(Arc::new(Authority::generate("default")), common, Groups::default()))
}

fn replays(bus: &Arc<dyn Bus>, names: &Names) -> Replays {
    let (audit, authority) = (Audit::new("default").0, Authority::generate("default"));
    Replays::new(bus.clone(), names.clone(), grants(), &authority, audit, Elsewhere::Here(bus.clone())).unwrap()
}

fn sizes() -> Sizes {
    Sizes::within(64 << 20)
}

fn event() -> &'static [u8] {
    let to = Some(Address::Topic("notes.created".into()).into());
    let data = r#"{"n":1}"#.into();
    let content_type = "application/json".into();
    Event { id: "e-1".into(), source: "list".into(), to, data, content_type, ..Event::default() }.encode_to_vec().leak()
}

impl Api {
    async fn text(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let text = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn raw(&self, head: &str, body: &str) -> (u16, Value) {
        let answer = self.text(head, body).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    async fn ask(&self, line: &str, body: &str) -> (u16, Value) {
        let address = self.address;
        self.raw(&format!("{line} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer secret"), body).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask(&format!("GET {path}"), "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_value(body).unwrap()
    }

    async fn redrive(&self, request: Value) -> Report {
        let (status, body) = self.ask("POST /v1/dead-letters/redrive", &request.to_string()).await;
        assert_eq!(status, 200, "{request}: {body}");
        serde_json::from_value(body).unwrap()
    }

    async fn refused(&self, line: &str, body: &str, status: u16, code: &str) {
        let (got, problem) = self.ask(line, body).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{line}: {problem}");
    }
}

fn seqs(page: &Page) -> Vec<u64> {
    page.letters.iter().map(|letter| letter.seq).collect()
}

fn reason(report: &Report, at: usize) -> Option<Refusal> {
    match report.letters[at].outcome {
        Outcome::Refused { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn strangers_stay_outside_and_mistakes_are_named() {
    let bench = Bench::start().await;
    let api = bench.serve().await;
    let (status, body) = api.raw("GET /livez HTTP/1.1\r\nHost: x", "").await;
    assert_eq!((status, body), (200, json!("ok\n")));
    let (status, problem) = api.raw("GET /v1/status HTTP/1.1\r\nHost: localhost", "").await;
    assert_eq!((status, &problem["code"], &problem["status"]), (401, &json!("UNAUTHENTICATED"), &json!(401)));
    let rebound = "GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer secret";
    assert_eq!(api.raw(rebound, "").await.0, 403);
    let (status, problem) = api.raw("GET /nothing HTTP/1.1\r\nHost: localhost", "").await;
    assert_eq!((status, &problem["code"]), (401, &json!("UNAUTHENTICATED")), "even what is not there needs the token");
    api.refused("GET /nothing", "", 404, "NOT_FOUND").await;
    api.refused("GET /v1/dead-letters?what=1", "", 400, "INVALID_EVENT").await;
    api.refused("GET /v1/dead-letters?class=LOST", "", 400, "INVALID_EVENT").await;
    api.refused("GET /v1/dead-letters/x", "", 400, "INVALID_EVENT").await;
    api.refused("GET /v1/dead-letters/77", "", 404, "UNKNOWN_DELIVERY").await;
    api.refused("GET /v1/dead-letters/0", "", 404, "UNKNOWN_DELIVERY").await;
    api.refused("POST /v1/dead-letters/redrive", "{", 400, "INVALID_EVENT").await;
    api.refused("POST /v1/dead-letters/redrive", r#"{"all":true,"what":1}"#, 400, "INVALID_EVENT").await;
    api.refused("POST /v1/dead-letters/redrive", "{}", 400, "INVALID_EVENT").await;
    api.refused("POST /v1/dead-letters/redrive", r#"{"filter":[]}"#, 400, "INVALID_EVENT").await;
    api.refused("POST /v1/dead-letters/redrive", &" ".repeat(300_000), 413, "TOO_LARGE").await;
}

/// The routes as the router declares them: path and method.
fn routes() -> impl Iterator<Item = (String, String)> {
    include_str!("router.rs").split(".route(\"").skip(1).filter_map(|call| {
        let (path, rest) = call.split_once("\", ")?;
        let method = rest.split('(').next()?.to_uppercase();
        Some((path.replace("{seq}", "7").replace("{*id}", "x"), method))
    })
}

#[tokio::test]
async fn every_route_refuses_what_it_would_ignore_or_cannot_read_and_says_why() {
    let bench = Bench::start().await;
    let api = bench.serve().await;
    let refused = async |line: String, body: &str, status: u16, code: &str, wanted: &str| {
        let (got, problem) = api.ask(&line, body).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{line} {body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(wanted), "{line} {body}: {problem}");
    };
    let bad = "INVALID_EVENT";
    let mut seen = 0;
    for (path, method) in routes() {
        seen += 1;
        refused(format!("PATCH {path}"), "", 405, "NOT_FOUND", "takes no PATCH").await;
        refused(format!("{method} {path}?nonsense=1"), "", 400, bad, "nonsense").await;
        refused(format!("{method} {path}?limit=%zz"), "", 400, bad, "%zz").await;
        refused(format!("{method} {path}%ff"), "", 400, bad, "%FF").await;
        if method == "GET" {
            refused(format!("GET {path}"), "{}", 400, bad, "GET takes no body").await;
        } else {
            refused(format!("{method} {path}"), r#"{"nonsense":1}"#, 400, bad, "unknown field `nonsense`").await;
            refused(format!("{method} {path}"), "{", 400, bad, "line 1").await;
            refused(format!("{method} {path}"), "[]", 400, bad, "expected an object").await;
        }
    }
    assert_eq!(seen, 13);
    let head = format!("PATCH /v1/dead-letters HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer secret", api.address);
    assert!(api.text(&head, "").await.to_lowercase().contains("\r\nallow: get"), "what is allowed is said");
}

#[tokio::test]
async fn status_and_plan_tell_what_is_there() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    let status: SystemStatus = api.get("/v1/status").await;
    assert_eq!(status.groups.len(), 2);
    assert!(status.broker.connected && status.broker.problem.is_none(), "{:?}", status.broker);
    assert_eq!(status.streams.iter().map(|stream| stream.messages).sum::<u64>(), 1);
    assert_eq!((status.groups[0].dead_letters, &status.groups[0].problem), (1, &None));
    assert!(status.groups[1].group == "missing" && status.groups[1].problem.is_some());
    assert_eq!(status.agents[0].state, InstanceState::Running);
    let agents: Agents = api.get("/v1/agents").await;
    assert_eq!(agents.agents, status.agents);

    let planned: Streams = api.get("/v1/streams/plan").await;
    assert!(!planned.steps.iter().any(Step::changes_something), "{:?}", planned.steps);
    // Events, schedules, retries, dead letters, audit.
    assert_eq!(planned.table.len(), 5);
    bench.context.delete_stream(bench.names.audit()).await.unwrap();
    let planned: Streams = api.get("/v1/streams/plan").await;
    let missing: Vec<&str> =
        planned.steps.iter().filter(|step| step.changes_something()).map(|step| step.name.as_str()).collect();
    assert_eq!(missing, ["AB_default_AUDIT"]);
    let (code, applied) = api.ask("POST /v1/streams/apply", "").await;
    assert_eq!(code, 200, "{applied}");
    let planned: Streams = api.get("/v1/streams/plan").await;
    assert!(!planned.steps.iter().any(Step::changes_something));
    assert_eq!(bench.message("AB_default_AUDIT", 1).await.subject.as_str(), "aba.default.topology.applied.v1");
}

#[tokio::test]
async fn a_group_that_nobody_is_in_is_shown_with_what_waits_for_it() {
    let bench = Bench::start().await;
    let left: GroupGrant = serde_json::from_value(json!({"name": "left", "patterns": ["notes.>"]})).unwrap();
    consumers::ensure(&*bench.bus, &bench.names, &left).await.unwrap();
    let foreign = jetstream::consumer::pull::Config { durable_name: Some("foreign".into()), ..Default::default() };
    bench.context.create_consumer_on_stream(foreign, bench.names.events()).await.unwrap();
    bench.event(ORIGIN, event()).await;
    bench.give_up(1, "left", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    let status: SystemStatus = api.get("/v1/status").await;
    let names: Vec<&str> = status.groups.iter().map(|group| group.group.as_str()).collect();
    assert_eq!((names, status.broker.problem), (vec!["readers", "missing", "left"], None));
    let left = &status.groups[2];
    assert_eq!((left.lag, left.dead_letters), (1, 1));
    assert_eq!(left.problem.as_deref(), Some("no agent in this group any more"));
    assert_eq!(status.groups[0].problem, None);
}

#[tokio::test]
async fn dead_letters_are_listed_counted_and_shown() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    bench.give_up(2, "auditors", Class::Rejected, "no such thing", 0, event()).await;
    bench.give_up(3, "readers", Class::Undecodable, "no event", 0, b"\xff\xfe").await;
    bench.give_up(4, "readers", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    for (query, wanted) in [
        ("", vec![1, 2, 3, 4]),
        ("?group=readers", vec![1, 3, 4]),
        ("?class=rejected", vec![2]),
        ("?group=readers&class=EXHAUSTED&after=1", vec![4]),
        ("?type=notes.*", vec![]),
        ("?type=notes.%3E&cause=SUCH", vec![2]),
    ] {
        let page: Page = api.get(&format!("/v1/dead-letters{query}")).await;
        assert_eq!((seqs(&page), page.next), (wanted, None), "{query}");
    }
    let first: Page = api.get("/v1/dead-letters?limit=3").await;
    assert_eq!((seqs(&first), first.next), (vec![1, 2, 3], Some(3)));

    let causes: Causes = api.get("/v1/dead-letters/groups").await;
    assert_eq!((causes.causes[0].cause.as_str(), causes.causes[0].open, causes.truncated), ("boom", 2, false));
    assert_eq!(causes.causes.len(), 3);

    let shown: Shown = api.get("/v1/dead-letters/1").await;
    assert_eq!(shown.event.unwrap()["data"], json!({"n": 1}));
    assert_eq!(shown.headers["Ab-Class"], "EXHAUSTED");
    assert!(!shown.headers.contains_key("Nats-Sequence"));
    let shown: Shown = api.get("/v1/dead-letters/3").await;
    assert_eq!((shown.event, shown.payload_base64.as_str(), shown.letter.undecodable), (None, "//4=", true));
}

#[tokio::test]
async fn a_redrive_is_stored_once_per_decision_and_guarded() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    bench.give_up(2, "readers", Class::Undecodable, "no event", 1, b"\xff\xfe").await;
    bench.give_up(3, "readers", Class::Exhausted, "boom", 3, event()).await;
    bench.give_up(4, "auditors", Class::Rejected, "no", 0, event()).await;
    let api = bench.serve().await;

    let dry = api.redrive(json!({"all": true, "dry_run": true})).await;
    assert_eq!((dry.letters.len(), dry.until, dry.next), (4, Some(4), None));
    assert_eq!(bench.context.get_stream("AB_default_RETRY").await.unwrap().cached_info().state.messages, 0);

    let report = api.redrive(json!({"all": true})).await;
    let reasons: Vec<_> = (0..4).map(|at| reason(&report, at)).collect();
    assert_eq!(reasons, [None, None, Some(Refusal::LoopGuard), Some(Refusal::NoGroup)]);
    let copy = bench.message("AB_default_RETRY", 1).await;
    let original = bench.message("AB_default_DLQ", 1).await;
    assert_eq!((copy.payload, copy.subject.as_str()), (original.payload, "abr.default.readers.check"));
    for (name, wanted) in [(headers::REDRIVE, "1"), (headers::ATTEMPT, "1"), (headers::GROUP, "readers")] {
        assert_eq!(headers::get(Some(&copy.headers), name), Some(wanted), "{name}");
    }
    assert_eq!(bench.message("AB_default_RETRY", 2).await.payload.as_ref(), b"\xff\xfe");

    // After a restart the facts say the same.
    let api = bench.serve().await;
    assert_eq!(seqs(&api.get::<Page>("/v1/dead-letters").await), [3, 4]);
    let page: Page = api.get("/v1/dead-letters?all=true").await;
    assert_eq!(page.letters[0].redriven.as_ref().map(|last| (last.count, last.new_seq)), Some((1, 1)));

    let again = api.redrive(json!({"seqs": [1, 99]})).await;
    assert_eq!(reason(&again, 0), Some(Refusal::AlreadyRedriven));
    assert!(matches!(&again.letters[1].outcome, Outcome::Failed { code, .. } if code == "UNKNOWN_DELIVERY"));
    // Within the dedupe window, and yet really stored.
    let forced = api.redrive(json!({"seqs": [1, 3], "force": true})).await;
    let new: HashSet<u64> = forced
        .letters
        .iter()
        .filter_map(|letter| match letter.outcome {
            Outcome::Redriven { new_seq, recorded: true, .. } => Some(new_seq),
            _ => None,
        })
        .collect();
    assert_eq!(new, HashSet::from([3, 4]), "{forced:?}");
}

#[tokio::test]
async fn letters_of_a_stream_that_was_made_again_are_open_and_can_be_redriven() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    api.redrive(json!({"all": true})).await;
    assert!(seqs(&api.get::<Page>("/v1/dead-letters").await).is_empty());
    bench.context.delete_stream(bench.names.dead_letters()).await.unwrap();
    plan::apply(&*bench.bus, &bench.names, &sizes()).await.unwrap();
    bench.give_up(2, "readers", Class::Exhausted, "boom", 0, event()).await;
    for api in [api, bench.serve().await] {
        assert_eq!(seqs(&api.get::<Page>("/v1/dead-letters").await), [1]);
    }
    // Within the dedupe window of the first one, and yet really stored.
    let report = bench.serve().await.redrive(json!({"all": true})).await;
    assert!(matches!(report.letters[0].outcome, Outcome::Redriven { new_seq: 2, .. }), "{report:?}");
    assert!(seqs(&bench.serve().await.get::<Page>("/v1/dead-letters").await).is_empty());
}

#[tokio::test]
async fn to_the_origin_it_is_the_same_event_again() {
    let bench = Bench::start().await;
    bench.event(ORIGIN, event()).await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    bench.give_up(2, "readers", Class::Undecodable, "no event", 0, b"\xff\xfe").await;
    let api = bench.serve().await;
    let report = api.redrive(json!({"filter": {"group": "readers"}, "to": "origin", "force": true})).await;
    assert_eq!((reason(&report, 0), reason(&report, 1)), (None, Some(Refusal::Undecodable)));
    let copy = bench.message("AB_default_EVENTS", 2).await;
    assert_eq!((copy.subject.as_str(), copy.payload.as_ref()), (ORIGIN, event()));
    assert_eq!(headers::get(Some(&copy.headers), headers::GROUP), None);
}

#[tokio::test]
async fn an_origin_that_is_only_claimed_is_refused_even_with_force() {
    let bench = Bench::start().await;
    // A member of the group writes letters that name events of somebody else as their origin.
    bench.event("ab.default.n.boss.topic.-.orders", event()).await;
    bench.event(ORIGIN, b"other content").await;
    bench.event(ORIGIN, event()).await;
    for seq in 1..=4 {
        bench.give_up(seq, "readers", Class::Exhausted, "boom", 0, event()).await;
    }
    bench.context.get_stream("AB_default_EVENTS").await.unwrap().delete_message(3).await.unwrap();
    let api = bench.serve().await;
    for force in [false, true] {
        let report = api.redrive(json!({"all": true, "to": "origin", "force": force})).await;
        let reasons: Vec<_> = (0..4).map(|at| reason(&report, at)).collect();
        let (differs, gone) = (Some(Refusal::OriginDiffers), Some(Refusal::OriginGone));
        assert_eq!(reasons, [differs, differs, gone, gone], "{force}");
    }
    let info = bench.context.get_stream("AB_default_EVENTS").await.unwrap().cached_info().state.clone();
    assert_eq!(info.last_sequence, 3, "nothing was sent");
}

#[tokio::test]
async fn an_id_claimed_in_advance_swallows_no_redrive() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    let mut claim = async_nats::HeaderMap::new();
    claim.insert(headers::MSG_ID, "AB_default_DLQ/1/redrive/group/1");
    let claimed = bench.context.publish_with_headers("abr.default.readers.evil", claim, "junk".into()).await.unwrap();
    assert_eq!(claimed.await.unwrap().sequence, 1);
    let report = api.redrive(json!({"seqs": [1]})).await;
    assert!(matches!(report.letters[0].outcome, Outcome::Redriven { new_seq: 2, .. }), "{report:?}");
    assert_eq!(bench.message("AB_default_RETRY", 2).await.payload.as_ref(), event());
}

#[tokio::test]
async fn two_requests_at_once_redrive_a_letter_once() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    let (one, other) = tokio::join!(api.redrive(json!({"seqs": [1]})), api.redrive(json!({"seqs": [1]})));
    let refusals = [reason(&one, 0), reason(&other, 0)];
    assert!(refusals.contains(&None) && refusals.contains(&Some(Refusal::AlreadyRedriven)), "{refusals:?}");
}
