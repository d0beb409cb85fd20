//! What answers can reach. nats-server does not check the *reply* subjects that a client names, and answers its API on any of
//! them: so every right of a sidecar is used here with every kind of reply subject, and then everybody else is looked at.
//!
//! Behind the wall nothing may have changed. Without it, much does: what `docs/guide/wall.md` says that the holder of a sidecar's
//! credentials can do is done here, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentbus_nats::identity::Layout;
use agentbus_nats::subject;
use agentbus_tests::Broker;
use agentbus_tests::wait::PATIENCE;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::{Caller, round_trip};

const EVENTS: &str = "AB_default_EVENTS";
const RETRY: &str = "AB_default_RETRY";
const OWN_EVENT: &str = "ab.default.n.a.topic.-.notes.created";

/// After the last sign of anything, answers have all come.
const QUIET: Duration = Duration::from_millis(300);

/// The victim `b` with group `gb`, and the attacker `a` with group `ga`, which has events to read, and `gc`, which has none.
struct World {
    broker: Broker,
    a: Caller,
    b: Caller,
    /// All that moves in the account of the streams.
    listener: Subscriber,
    shots: Vec<Shot>,
}

/// One use of a right to publish.
#[derive(Clone)]
struct Shot {
    what: &'static str,
    subject: String,
    payload: &'static str,
    headers: Option<(&'static str, &'static str)>,
}

fn shot(what: &'static str, subject: impl Into<String>, payload: &'static str) -> Shot {
    Shot { what, subject: subject.into(), payload, headers: None }
}

/// Every right in the template of a sidecar, used so that something answers. `acks`: ack subjects of an event and of a retry
/// that were delivered to it.
fn shots(acks: &[String; 2]) -> Vec<Shot> {
    let [ack, ack_of_retry] = acks;
    let api = |verb: &str, stream: &str, consumer: &str| format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}");
    vec![
        shot("404 of an empty consumer", api("MSG.NEXT", EVENTS, "gc"), r#"{"batch":1,"no_wait":true}"#),
        shot("404 of an empty retry consumer", api("MSG.NEXT", RETRY, "gc-retry"), r#"{"batch":1,"no_wait":true}"#),
        shot("408 of an ended pull", api("MSG.NEXT", EVENTS, "gc"), r#"{"batch":1,"expires":1000000}"#),
        shot("a delivery", api("MSG.NEXT", EVENTS, "ga"), r#"{"batch":1,"no_wait":true}"#),
        shot("a delivery of a retry", api("MSG.NEXT", RETRY, "ga-retry"), r#"{"batch":1,"no_wait":true}"#),
        shot("an error of a pull", api("MSG.NEXT", EVENTS, "gc"), "no json"),
        shot("PubAck of an event", OWN_EVENT, "x"),
        shot("PubAck of a reply", subject::reply("default", "a", "b", "q"), "x"),
        shot("PubAck of a retry", "abr.default.ga.a", "x"),
        shot("PubAck of a dead letter", "abd.default.ga.a.REJECTED", "x"),
        shot("PubAck of a receipt", "abt.default.ga.a.1", "x"),
        shot("a confirmed ack", ack, "+ACK"),
        shot("a confirmed ack of a retry", ack_of_retry, "+ACK"),
        shot("next after an ack", ack, r#"+NXT {"batch":1,"no_wait":true}"#),
        shot("a confirmed extension", ack, "+WPI"),
        shot("INFO", api("INFO", EVENTS, "ga"), ""),
        shot("INFO of retries", api("INFO", RETRY, "ga-retry"), ""),
        shot("UNPIN", api("UNPIN", EVENTS, "ga"), r#"{"group":"members"}"#),
        shot("an answer of the control plane", "abc.default.a.renew", "{}"),
        Shot { headers: Some(("Nats-Trace-Dest", "")), ..shot("a trace", OWN_EVENT, "x") },
        Shot { headers: Some(("Nats-Batch-Id", "b1")), ..shot("an open batch", OWN_EVENT, "x") },
        Shot {
            headers: Some(("Nats-Request-Info", r#"{"acc":"X","rply":"ab.default.n.b.topic.-.notes.created"}"#)),
            ..shot("a forged request", OWN_EVENT, "x")
        },
    ]
}

/// Reply subjects of every kind at which an answer would do something to somebody.
fn targets() -> Vec<String> {
    let streams = ["EVENTS", "RETRY", "DLQ", "SCHEDULES", "AUDIT", "RECEIPTS"].map(|kind| format!("AB_default_{kind}"));
    let streams = streams.into_iter().chain(["KV_AB_default_REGISTRY".to_owned()]);
    let of_streams = streams.flat_map(|stream| {
        ["PURGE", "DELETE", "INFO", "UPDATE", "MSG.DELETE"].map(|verb| format!("$JS.API.STREAM.{verb}.{stream}"))
    });
    let of_consumers = [(EVENTS, "gb"), (RETRY, "gb-retry"), (EVENTS, "ga")].into_iter().flat_map(|(stream, name)| {
        let verbs = ["DELETE", "PAUSE", "RESET", "CREATE", "DURABLE.CREATE"];
        verbs.map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.{name}"))
    });
    let others = [
        // The victim's work.
        "$JS.API.CONSUMER.MSG.NEXT.AB_default_EVENTS.gb",
        "$JS.API.CONSUMER.MSG.NEXT.AB_default_RETRY.gb-retry",
        "$JS.API.CONSUMER.UNPIN.AB_default_EVENTS.gb",
        "$JS.ACK.AB_default_EVENTS.gb.1.1.1.1.0",
        "$JS.ACK.AB_default_RETRY.gb-retry.1.1.1.1.0",
        // Somebody else's name, or none.
        "ab.default.n.b.topic.-.notes.created",
        "ab.default.n.b.agent.-.b",
        "ab.default.n.b.reply.-.b.q",
        "ab.default.n.control-plane.topic.-.notes.created",
        "abr.default.gb.b",
        "abd.default.gb.b.REJECTED",
        "abt.default.gb.b.1",
        // What only the control plane writes.
        "abs.default.s.b.1",
        "abs.default.due.1.n.b.topic.-.notes.created",
        "aba.default.agent.exited.v1",
        "$KV.AB_default_REGISTRY.agents.b",
        // In another's name to the control plane, and in its name to another.
        "abc.default.b.renew",
        "abq.default.b",
        // Inboxes as they can be guessed.
        "_INBOX.b.b.1",
        "_INBOX.b.questions",
        "_INBOX.control-plane.1.1",
        // The rest of the API, and the broker itself.
        "$JS.API.STREAM.CREATE.evil",
        "$JS.API.STREAM.NAMES",
        "$JS.API.INFO",
        "$JS.API.ACCOUNT.PURGE.x",
        "$JS.FC.AB_default_EVENTS.gb.x",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.USER.INFO",
        "_R_.a.b",
        "_GR_.a.b",
    ];
    of_streams.chain(of_consumers).chain(others.map(str::to_owned)).collect()
}

/// All that must stay as it is when `a` does what it wants.
#[derive(Debug, PartialEq, Eq)]
struct State {
    /// When each stream was made, and its first message.
    streams: BTreeMap<String, (String, u64)>,
    /// The subjects on which there is something that is not the attacker's own, and how much.
    others: BTreeMap<String, usize>,
    /// When the victim's consumers were made, and what they have delivered and settled.
    consumers: BTreeMap<String, (String, u64, u64)>,
}

impl World {
    async fn start(layout: Layout) -> Self {
        let broker = Broker::start_in(layout).await;
        for (group, pattern) in [("ga", "notes.>"), ("gb", "notes.>"), ("gc", "quiet.>")] {
            broker.group(group, &[pattern]).await;
        }
        for subject in ["ab.default.n.b.topic.-.notes.old", "abr.default.gb.b", "abd.default.gb.b.REJECTED"] {
            broker.store(subject, "the victim's").await;
        }
        let registry = broker.context.get_key_value(broker.names.registry()).await.expect("a bucket");
        registry.put("agents.b", "alive".into()).await.expect("written");
        let a = Caller::agent(&broker, "a", &["ga", "gc"], &["notes.>"]).await;
        let b = Caller::agent(&broker, "b", &["gb"], &["notes.>"]).await;
        answer_as_the_control_plane(&broker, layout).await;
        let mut acks = [String::new(), String::new()];
        let stored = [(OWN_EVENT, EVENTS, "ga"), ("abr.default.ga.a", RETRY, "ga-retry")];
        for (ack, (subject, stream, consumer)) in acks.iter_mut().zip(stored) {
            a.ask(subject, "text of the attacker").await;
            let inbox = a.link.new_inbox();
            let mut pulled = a.link.client.subscribe(inbox.clone()).await.expect("sent");
            let next = a.spell(&format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"));
            a.link.client.publish_with_reply(next, inbox, r#"{"batch":1}"#.into()).await.expect("sent");
            let delivered = timeout(PATIENCE, pulled.next()).await.expect("in time").expect("a delivery");
            *ack = delivered.reply.expect("an ack subject").to_string();
        }
        let listener = broker.link.client.subscribe(">").await.expect("sent");
        round_trip(&broker.link).await;
        Self { broker, a, b, listener, shots: shots(&acks) }
    }

    /// What the victim's sidecar listens on.
    async fn ears(&self) -> Vec<Subscriber> {
        let layout = self.b.link.layout();
        let replies = layout.spell(&subject::replies("default", "b")).into_owned();
        let questions = layout.spell(&subject::questions("default", "b")).into_owned();
        let mut ears = Vec::new();
        for subject in [replies, questions, format!("{}.>", subject::inbox("b"))] {
            ears.push(self.b.link.client.subscribe(subject).await.expect("sent"));
        }
        round_trip(&self.b.link).await;
        ears
    }

    /// The use of a right by its name.
    fn shot(&self, what: &str) -> Shot {
        self.shots.iter().find(|shot| shot.what == what).expect("a shot").clone()
    }

    /// Uses the right of `shot` with each of these reply subjects; tells on which of them something moved.
    async fn fire(&mut self, shot: &Shot, targets: &[String]) -> BTreeSet<String> {
        // What the test itself asked before.
        round_trip(&self.broker.link).await;
        while self.listener.next().now_or_never().is_some() {}
        let client = &self.a.link.client;
        let spelled = self.a.spell(&shot.subject);
        for target in targets {
            // So that there is something to deliver.
            client.publish(self.a.spell(OWN_EVENT), "text of the attacker".into()).await.expect("sent");
            client.publish(self.a.spell("abr.default.ga.a"), "text of the attacker".into()).await.expect("sent");
            let headers = shot.headers.map(|(name, value)| {
                let value = if value.is_empty() { target } else { value };
                HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))])
            });
            let (target, payload) = (target.clone(), Bytes::from_static(shot.payload.as_bytes()));
            let sent = match headers {
                Some(headers) => client.publish_with_reply_and_headers(spelled.clone(), target, headers, payload).await,
                None => client.publish_with_reply(spelled.clone(), target, payload).await,
            };
            sent.expect("sent");
        }
        round_trip(&self.a.link).await;
        let mut moved = BTreeSet::new();
        while let Ok(Some(message)) = timeout(QUIET, self.listener.next()).await {
            moved.insert(message.subject.to_string());
        }
        targets.iter().filter(|target| moved.contains(*target)).cloned().collect()
    }

    async fn state(&self) -> State {
        let mut streams = BTreeMap::new();
        let mut others = BTreeMap::new();
        let names: Vec<String> = self.broker.context.stream_names().try_collect().await.expect("names");
        for name in names {
            let stream = self.broker.context.get_stream(&name).await.expect("there");
            let info = stream.cached_info();
            streams.insert(name, (info.created.to_string(), info.state.first_sequence));
            let subjects: Vec<(String, usize)> =
                stream.info_with_subjects(">").await.expect("subjects").try_collect().await.expect("subjects");
            others.extend(subjects.into_iter().filter(|(subject, _)| !is_the_attackers(subject)));
        }
        let mut consumers = BTreeMap::new();
        for (stream, name) in [(EVENTS, "gb"), (RETRY, "gb-retry")] {
            let consumer: PullConsumer =
                self.broker.context.get_consumer_from_stream(name, stream).await.expect("there");
            let info = consumer.cached_info();
            let counts = (info.delivered.stream_sequence, info.ack_floor.stream_sequence);
            consumers.insert(name.to_owned(), (info.created.to_string(), counts.0, counts.1));
        }
        State { streams, others, consumers }
    }
}

fn is_the_attackers(subject: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    matches!(tokens[..], ["ab", _, _, "a", ..] | ["abr" | "abd" | "abt", _, "ga", "a", ..])
}

/// Answers as the control plane does: on whatever reply subject its rule lets it.
async fn answer_as_the_control_plane(broker: &Broker, layout: Layout) {
    let client = broker.link.client.clone();
    let mut requests = client.subscribe("abc.default.>").await.expect("sent");
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let agent = request.subject.split('.').nth(2).unwrap_or_default().to_owned();
            if let Some(reply) = request.reply.filter(|reply| layout.may_answer(&agent, reply)) {
                client.publish(reply, "{}".into()).await.expect("sent");
            }
        }
    });
}

#[tokio::test]
async fn behind_the_wall_no_answer_changes_or_reaches_anything() {
    let mut world = World::start(Layout::Wall).await;
    let mut ears = world.ears().await;
    let before = world.state().await;
    let bare = targets();
    let prefixed: Vec<String> = bare.iter().map(|target| Layout::Wall.spell(target).into_owned()).collect();
    let targets = [bare, prefixed].concat();
    for shot in world.shots.clone() {
        let hit = world.fire(&shot, &targets).await;
        assert!(hit.is_empty(), "{}: {hit:?}", shot.what);
        assert_eq!(world.state().await, before, "{}", shot.what);
    }
    for ear in &mut ears {
        let heard = ear.next().now_or_never().flatten();
        // Its own name stands in the subject: a reply of `a` to `b` is what `a` may send.
        let heard = heard.filter(|message| !message.subject.contains("ab.default.n.a.reply.-.b."));
        assert!(heard.is_none(), "{heard:?}");
    }
}

#[tokio::test]
async fn without_the_wall_answers_reach_what_the_guide_says() {
    // Reply subjects that do harm are used after this.
    let harmless = |target: &String| {
        !["PURGE", "DELETE", "UPDATE", "CREATE", "PAUSE", "RESET"].iter().any(|verb| target.contains(verb))
    };
    let mut world = World::start(Layout::Plain).await;
    let reachable: Vec<String> = targets().into_iter().filter(harmless).collect();
    let mut reached = 0;
    for shot in world.shots.clone() {
        reached += world.fire(&shot, &reachable).await.len();
    }
    // Shows, too, that the test above would see it.
    assert!(reached > 200, "{reached} pairs of a right and a reply subject");

    let mut world = World::start(Layout::Plain).await;
    let mut ears = world.ears().await;
    let [empty, ack, stored] =
        ["404 of an empty consumer", "a confirmed ack", "PubAck of an event"].map(|what| world.shot(what));

    // Writes an entry of the registry, and an event in another's name: the text is the broker's.
    for target in ["$KV.AB_default_REGISTRY.agents.b", "ab.default.n.b.topic.-.notes.created"] {
        assert_eq!(world.fire(&stored, &[target.to_owned()]).await.len(), 1, "{target}");
    }
    let registry = world.broker.context.get_key_value(world.broker.names.registry()).await.expect("a bucket");
    let entry = registry.get("agents.b").await.expect("read").expect("there");
    assert!(String::from_utf8_lossy(&entry).contains(r#""stream":"AB_default_EVENTS""#), "{entry:?}");
    assert_eq!(world.state().await.others.get("ab.default.n.b.topic.-.notes.created"), Some(&1));

    // Purges a stream, deletes a consumer.
    world.fire(&empty, &["$JS.API.STREAM.PURGE.AB_default_DLQ".to_owned()]).await;
    assert_eq!(world.broker.count(&world.broker.names.dead_letters()).await, 0);
    world.fire(&empty, &[format!("$JS.API.CONSUMER.DELETE.{EVENTS}.gb")]).await;
    let gone = world
        .broker
        .context
        .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>("gb", EVENTS);
    assert!(gone.await.is_err(), "the consumer is gone");
    // Speaks on an inbox that it knows; the victim's has 128 random bits.
    let known = format!("{}.1", subject::inbox("b"));
    let mut heard = world.b.link.client.subscribe(known.clone()).await.expect("sent");
    round_trip(&world.b.link).await;
    world.fire(&empty, &[known]).await;
    assert!(heard.next().now_or_never().flatten().is_some(), "an inbox that is known");
    world.fire(&empty, &["_INBOX.b.b.1".to_owned(), "_INBOX.b.questions".to_owned()]).await;
    assert!(ears.iter_mut().all(|ear| ear.next().now_or_never().flatten().is_none()), "inboxes that are guessed");

    // Deletes the stream with everybody's events.
    world.fire(&ack, &[format!("$JS.API.STREAM.DELETE.{EVENTS}")]).await;
    assert!(world.broker.context.get_stream(EVENTS).await.is_err(), "the stream is gone");
}
