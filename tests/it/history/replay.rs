//! Stored events once more: to oneself, to one group, into a sandbox.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentbus_nats::bus::Bus;
use agentbus_nats::names::Names;
use agentbus_nats::{accounts, consumers, headers, subject};
use agentbus_proto::event::v1::Event;
use agentbus_tests::broker::{group, now};
use agentbus_tests::http::{HttpAgent, request};
use agentbus_tests::wait::until;
use prost::Message;
use serde_json::{Value, json};

use super::world::{World, publish, read_all, small, take};

/// The lines of an answer, each an object.
async fn lines(agent: &HttpAgent, body: Value) -> Vec<Value> {
    let answer = agent.post("/v1/replay", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    match answer.body {
        Value::String(text) => text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
        // A single line is read as JSON already.
        one => vec![one],
    }
}

fn ids(found: &[Value]) -> Vec<&str> {
    found.iter().map(|one| one["event"]["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn an_agent_reads_history_by_number_time_and_address() {
    let world = World::start("", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..3, "note.made").await;
    publish(&writer, 3..4, "file.found").await;
    publish(&writer, 4..6, "note.made").await;
    world.broker.store("ab.default.n.writer.agent.-.quiet.t.v1", "").await;

    let notes = lines(&live, json!({"patterns": ["note.>"]})).await;
    assert_eq!(ids(&notes), ["n-00000", "n-00001", "n-00002", "n-00004", "n-00005"]);
    assert_eq!((&notes[3]["stream"], &notes[3]["seq"]), (&json!("AB_default_EVENTS"), &json!(5)));
    assert_eq!((&notes[0]["event"]["data"]["n"], &notes[0]["event"]["replay_of"]), (&json!(0), &Value::Null));
    let both = lines(&live, json!({"patterns": ["file.*", "note.>"], "from_seq": 3, "to_seq": 5})).await;
    assert_eq!(ids(&both), ["n-00002", "n-00003", "n-00004"]);
    let since = notes[3]["stored_at"].clone();
    assert_eq!(ids(&lines(&live, json!({"patterns": ["note.>"], "since": since})).await), ["n-00004", "n-00005"]);
    let until = notes[1]["stored_at"].clone();
    assert_eq!(ids(&lines(&live, json!({"patterns": ["note.>"], "until": until})).await), ["n-00000", "n-00001"]);
    assert_eq!(lines(&live, json!({"patterns": ["note.>"], "last": "1h"})).await.len(), 5);

    let events = [("authorization", format!("Bearer {}", live.token)), ("accept", "text/event-stream".to_owned())];
    let body = json!({"patterns": ["file.>"]}).to_string();
    let sent = request(&live.address, "POST", "/v1/replay", &events, body.into()).await.expect("an answer");
    let text = sent.body.as_str().expect("text");
    assert!(text.starts_with("data: {") && text.contains("n-00003"), "{text}");

    for (pattern, code) in [("@quiet", "SCOPE_DENIED"), ("@*", "SCOPE_DENIED"), ("a..b", "INVALID_ADDRESS")] {
        let refused = live.post("/v1/replay", &json!({"patterns": [pattern]})).await;
        assert_eq!(refused.body["code"], code, "{pattern}: {}", refused.body);
    }
    let none = live.post("/v1/replay", &json!({})).await;
    assert_eq!((none.status, &none.body["code"]), (400, &json!("INVALID_ADDRESS")), "{}", none.body);
    // Nothing was taken from anybody.
    assert_eq!(take(&live, 5).await.len(), 5);
}

#[tokio::test]
async fn many_and_large_events_come_whole_and_in_order() {
    let world = World::start("retention: {bytes: 20MiB}\n", agentbus_nats::topology::Sizes::within(256 << 20)).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..300, "note.made").await;
    let large = "x".repeat(1_000_000);
    writer.publish(json!({"id": "large", "to": "note.made", "data": large})).await;
    publish(&writer, 300..301, "note.made").await;
    let found = lines(&live, json!({"patterns": ["note.>"]})).await;
    let wanted: Vec<String> = (0..300).map(|n| format!("n-{n:05}")).chain(["large".into(), "n-00300".into()]).collect();
    assert_eq!(ids(&found), wanted);
    assert_eq!(found[300]["event"]["data"].as_str().map(str::len), Some(1_000_000));
}

#[tokio::test]
async fn the_pace_is_the_original_one_divided_by_the_speed() {
    let world = World::start("", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..1, "note.made").await;
    // The gap that is replayed.
    tokio::time::sleep(Duration::from_millis(800)).await;
    publish(&writer, 1..2, "note.made").await;
    let timed = async |speed: f64| {
        let began = Instant::now();
        assert_eq!(lines(&live, json!({"patterns": ["note.>"], "speed": speed})).await.len(), 2);
        began.elapsed()
    };
    assert!(timed(0.5).await >= Duration::from_millis(1600));
    assert!(timed(1.0).await >= Duration::from_millis(800));
    let began = Instant::now();
    world.post("/v1/replay", json!({"patterns": ["note.>"], "to_group": "live", "speed": 1.0})).await;
    assert!(began.elapsed() >= Duration::from_millis(800));
}

#[tokio::test]
async fn a_group_gets_copies_that_say_what_they_are_and_nobody_else_does() {
    let world = World::start("", small()).await;
    let (_w, writer) = world.agent("writer").await;
    let ((_l, live), (_d, dead)) = (world.agent("live").await, world.agent("dead").await);
    publish(&writer, 0..3, "note.made").await;
    publish(&writer, 3..4, "file.found").await;
    assert_eq!((take(&live, 3).await.len(), take(&dead, 3).await.len()), (3, 3));
    let stored = world.broker.count(&world.broker.names.events()).await;

    let dry = world.post("/v1/replay", json!({"patterns": [">"], "to_group": "live", "dry_run": true})).await;
    assert_eq!((&dry["copied"], &dry["skipped"]), (&json!(3), &json!({"not_read": 1})), "{dry}");
    assert_eq!(world.broker.state("live").await.retrying, 0);

    let ask = json!({"patterns": [">"], "to_group": "live", "from_seq": 2});
    let report = world.post("/v1/replay", ask.clone()).await;
    assert_eq!((&report["copied"], &report["next"]), (&json!(2), &Value::Null), "{report}");
    let run = report["run"].as_str().expect("a run").to_owned();
    // The same part of the same run once more is stored once.
    let mut again = ask.clone();
    again["run"] = json!(run);
    world.post("/v1/replay", again).await;
    let mut got = Vec::new();
    for _ in 0..2 {
        let delivery = live.receive_one("20s").await;
        assert_eq!(delivery["attempt"], 1, "{delivery}");
        let event = &delivery["event"];
        let original = event["replay_of"].as_str().expect("the original").to_owned();
        assert_eq!(event["id"].as_str(), Some(format!("{run}.{}", event["data"]["n"].as_u64().unwrap() + 1).as_str()));
        assert_eq!((&event["source"], &event["to"]), (&json!("writer"), &json!("note.made")));
        live.ack(&delivery).await;
        got.push(original);
    }
    got.sort();
    assert_eq!(got, ["n-00001", "n-00002"]);
    assert!(live.receive(1, "1500ms").await.is_empty() && dead.receive(1, "0s").await.is_empty());
    assert_eq!(world.broker.count(&world.broker.names.events()).await, stored);

    // Another run is another decision; what fails in it goes the usual way.
    world.post("/v1/replay", json!({"patterns": ["note.>"], "to_group": "live", "to_seq": 1})).await;
    let delivery = live.receive_one("20s").await;
    assert_eq!(live.settle(&delivery, "reject", json!({"reason": "no"})).await.status, 200);
    let letter = world.broker.dead_letters(1).await.remove(0);
    let origin = headers::get(Some(&letter.headers), headers::ORIGIN).expect("an origin");
    assert!(origin.starts_with("AB_default_EVENTS/1/"), "{origin}");

    let facts = until("facts", || async {
        let facts = world.facts("replay.copied.v1").await;
        if facts.len() == 3 { Ok(facts) } else { Err(facts) }
    })
    .await;
    assert_eq!(
        (&facts[0]["to_group"], &facts[0]["copied"], &facts[0]["by"]),
        (&json!("live"), &json!(2), &json!("api"))
    );
    for (wrong, code) in [
        (json!({"patterns": [">"], "to_group": "nobody"}), "INVALID_ADDRESS"),
        (json!({"patterns": [">"]}), "INVALID_EVENT"),
        (json!({"patterns": [], "to_group": "live"}), "INVALID_ADDRESS"),
    ] {
        let refused = world.api.post::<Value>("/v1/replay", &wrong).await.unwrap_err();
        assert_eq!(refused.code.as_str(), code, "{wrong}: {refused}");
    }
}

#[tokio::test]
async fn a_sandbox_gets_the_events_and_nothing_leaks_back() {
    let world = World::start("", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..5, "note.made").await;
    assert_eq!(take(&live, 5).await.len(), 5);
    let counts = async || {
        let names = &world.broker.names;
        let mut counts = Vec::new();
        for stream in [names.events(), names.retry(), names.dead_letters()] {
            counts.push(world.broker.count(&stream).await);
        }
        counts
    };
    let before = counts().await;
    let ask = |create: bool| json!({"patterns": ["note.>"], "into": "sandbox", "from_seq": 2, "create": create, "space_bytes": 8 << 20});
    let refused = world.api.post::<Value>("/v1/replay", &ask(false)).await.unwrap_err();
    assert!(refused.code.as_str() == "INVALID_ADDRESS" && refused.message.contains("--yes"), "{refused}");
    let report = world.post("/v1/replay", ask(true)).await;
    assert_eq!((&report["copied"], &report["created"]), (&json!(4), &json!(true)), "{report}");

    let sandbox = Names::new("sandbox");
    let there = world.broker.elsewhere("sandbox").await;
    let copies = read_all(&*there, &sandbox.events()).await;
    let subjects: BTreeSet<&str> = copies.iter().map(|copy| copy.subject.as_str()).collect();
    assert_eq!(subjects, ["ab.sandbox.n.writer.topic.-.note.made"].into());
    let originals: Vec<String> =
        copies.iter().map(|copy| Event::decode(copy.payload.clone()).expect("an event").replay_of).collect();
    assert_eq!(originals, ["n-00001", "n-00002", "n-00003", "n-00004"]);
    assert!(copies.iter().all(|copy| subject::sender(&copy.subject) == Some("writer")));
    // A group there reads them as any group reads its events.
    consumers::ensure_from(&*there, &sandbox, &group("readers", &["note.>"]), |_| consumers::Start::All)
        .await
        .expect("a group");
    let groups = ["readers".to_owned()];
    let state = consumers::states(&*there, &sandbox, &groups).await.expect("read").remove(0);
    assert_eq!(state.lag, 4);

    assert!(live.receive(1, "1500ms").await.is_empty());
    assert_eq!(counts().await, before);
    let report = world.post("/v1/replay", ask(false)).await;
    assert_eq!((&report["copied"], &report["created"]), (&json!(4), &json!(false)), "another run: {report}");
    // Whoever belongs to this namespace has no say in the other one.
    let foreign = writer.post("/v1/publish", &json!({"to": "note.made", "data": 1, "namespace": "sandbox"})).await;
    assert_eq!(foreign.status, 400, "{}", foreign.body);
    assert_eq!(read_all(&*there, &sandbox.events()).await.len(), 8);
}

#[tokio::test]
async fn nothing_of_one_namespace_exists_in_another_and_both_outlive_the_broker() {
    let mut world = World::start("", small()).await;
    let (_w, writer) = world.agent("writer").await;
    publish(&writer, 0..1, "note.made").await;
    // Nobody there yet: nothing is made for a look.
    let ask = json!({"patterns": ["note.>"], "into": "sandbox", "create": true, "dry_run": true});
    let report = world.post("/v1/replay", ask.clone()).await;
    assert_eq!((&report["copied"], &report["created"]), (&json!(1), &json!(false)), "{report}");
    let unknown = world.broker.authority.of_namespace("sandbox").expect("keys");
    assert!(!accounts::known(&[world.broker.url()], &unknown, now()).await.expect("asked"));

    let mut ask = ask;
    ask["dry_run"] = json!(false);
    world.post("/v1/replay", ask.clone()).await;
    let there = world.broker.elsewhere("sandbox").await;
    let mut heard = there.subscribe(">", None).await.expect("listens");
    there.round_trip().await.expect("listens");
    let names = async |bus: &dyn Bus| bus.stream_names().await.expect("names").into_iter().collect::<BTreeSet<_>>();
    let (mine, theirs) = (names(&*world.broker.bus).await, names(&*there).await);
    assert!(theirs.contains("AB_sandbox_EVENTS") && mine.is_disjoint(&theirs), "{mine:?} {theirs:?}");
    publish(&writer, 1..2, "note.made").await;
    assert!(heard.try_next().is_none_or(|note| !note.subject.starts_with("ab.default.")));

    world.broker.crash().await;
    until("the sandbox again", || async { there.stream("AB_sandbox_EVENTS").await.ok().flatten().ok_or("not there") })
        .await;
    let again = world.broker.elsewhere("sandbox").await;
    assert_eq!(read_all(&*again, "AB_sandbox_EVENTS").await.len(), 1);
    until("the control plane on the new server", || async {
        world.api.post::<Value>("/v1/replay", &ask).await.map_err(|fault| fault.to_string())
    })
    .await;
}
