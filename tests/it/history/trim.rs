//! The stream is full several times over, and nobody but the group that does not read notices.

use std::collections::BTreeSet;
use std::time::Duration;

use agentbus_nats::headers;
use agentbus_nats::moves::Origin;
use agentbus_tests::wait::{until, until_within};
use serde_json::json;

use super::world::{World, event, publish, small, take};

/// Three times what the stream of 2 MiB holds.
const EVENTS: u64 = 1600;

fn ids(numbers: std::ops::Range<u64>) -> BTreeSet<String> {
    numbers.map(|n| format!("n-{n:05}")).collect()
}

#[tokio::test]
async fn a_dead_group_stops_nobody_and_loses_nothing() {
    let world = World::start("", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    let half = tokio::spawn(async move { (take(&live, EVENTS as usize).await, live) });
    publish(&writer, 0..EVENTS, "note.made").await;
    let (taken, live) = half.await.expect("taken");
    assert_eq!(taken.len(), EVENTS as usize, "the others got each event once");
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), ids(0..EVENTS));
    assert!(world.used_percent().await < 100);

    // What the dead group missed is in its dead letters or still there for it; nothing is lost, nothing comes twice.
    let (_d, dead) = world.agent("dead").await;
    let delivered = take(&dead, EVENTS as usize).await;
    world.broker.settled("dead").await;
    let letters = world.letters("dead").await;
    let delivered_ids: BTreeSet<String> = delivered.iter().cloned().collect();
    assert_eq!(delivered_ids.len(), delivered.len(), "none came twice");
    assert!(letters.len() > EVENTS as usize / 2, "{} letters", letters.len());
    assert!(!delivered.is_empty(), "the newest were left for it");
    assert!(delivered_ids.iter().all(|id| !letters.contains_key(id)), "neither delivered and parked");
    let union: BTreeSet<String> = letters.keys().cloned().chain(delivered_ids).collect();
    assert_eq!(union, ids(0..EVENTS));
    assert_eq!(world.letters("live").await.len() + world.letters("quiet").await.len(), 0);

    for (record, parked) in letters.values() {
        let header = |name| headers::get(Some(&record.headers), name).unwrap_or_default().to_owned();
        assert_eq!(header(headers::CLASS), "RETENTION");
        assert_eq!(record.subject, "abd.default.dead.CONTROL-PLANE.RETENTION");
        let origin = Origin::parse(&header(headers::ORIGIN)).expect("an origin");
        assert_eq!(
            (origin.stream.as_str(), origin.subject.as_str()),
            ("AB_default_EVENTS", "ab.default.n.writer.topic.-.note.made")
        );
        assert!(header(headers::MSG_ID).starts_with(&format!("AB_default_EVENTS/{}/dead/", origin.seq)));
        let number: u64 = parked.id.trim_start_matches("n-").parse().expect("a number");
        let sent = event(number, "note.made");
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&parked.data).expect("JSON"),
            sent["data"],
            "byte for byte"
        );
    }
    let told = world.facts("retention.lagging.v1").await;
    assert!(told.iter().all(|fact| fact["group"] == "dead"), "{told:?}");
    assert!(told.iter().any(|fact| fact["why"] == "fills" && fact["on_lag"] == "park"), "{told:?}");
    // A letter goes to its group again like any other.
    let first = letters.values().map(|(record, _)| record.seq).min().expect("a letter");
    let report = world.post("/v1/dead-letters/redrive", json!({"seqs": [first]})).await;
    assert_eq!(report["letters"][0]["outcome"], "redriven", "{report}");
    assert_eq!(take(&dead, 1).await, ["n-00000"]);
    assert!(live.receive(1, "0s").await.is_empty());
    let facts = until("facts", || async {
        let facts = world.facts("retention.parked.v1").await;
        let sum: u64 = facts.iter().filter_map(|fact| fact["letters"].as_u64()).sum();
        if sum == letters.len() as u64 { Ok(facts) } else { Err((sum, letters.len())) }
    });
    assert!(facts.await.iter().all(|fact| fact["group"] == "dead"));
    until("calm", || async {
        let status = world.get("/v1/status").await;
        if status["alarms"].is_null() { Ok(()) } else { Err(status) }
    })
    .await;
    assert!(!world.facts("retention.recovered.v1").await.is_empty());
}

#[tokio::test]
async fn with_block_the_publisher_hears_which_group_it_is_and_goes_on_when_it_reads() {
    let world = World::start("retention: {on_lag: block}\n", small()).await;
    let (_w, writer) = world.agent("writer").await;
    let mut sent = 0;
    // The reason comes with the trimmer's next look at the latest.
    let refusal = until_within("a refusal with its reason", Duration::from_secs(60), || {
        let (n, writer) = (sent, &writer);
        sent += 1;
        async move {
            let answer = writer.post("/v1/publish", &event(n, "note.made")).await;
            let why = answer.body["detail"].as_str().unwrap_or_default();
            if why.contains("group `dead`") || why.contains("group `live`") { Ok(answer) } else { Err(answer) }
        }
    })
    .await;
    assert_eq!((refusal.status, &refusal.body["code"]), (429, &json!("STREAM_FULL")), "{}", refusal.body);
    let why = refusal.body["detail"].as_str().expect("a text");
    assert!(why.contains("on_lag: park") && why.contains("has not read since 20"), "{why}");
    let status = world.get("/v1/status").await;
    let group = status["groups"].as_array().expect("groups").iter().find(|group| group["group"] == "dead");
    let problem = group.and_then(|group| group["problem"].as_str()).unwrap_or_default();
    assert!(problem.starts_with("has not read since"), "{status}");
    assert_eq!(world.read(&world.broker.names.dead_letters()).await.len(), 0, "nothing is parked");

    let ((_l, live), (_d, dead)) = (world.agent("live").await, world.agent("dead").await);
    let stored = world.broker.count(&world.broker.names.events()).await as usize;
    let (taken, other) = tokio::join!(take(&live, stored), take(&dead, stored));
    assert_eq!((taken.len(), other.len()), (stored, stored), "all that was accepted");
    publish(&writer, 5000..5001, "note.made").await;
    assert_eq!(take(&dead, 1).await, ["n-05000"]);
}

#[tokio::test]
async fn a_member_that_is_at_work_keeps_what_it_holds() {
    let world = World::start("", small()).await;
    let ((_w, writer), (_d, dead)) = (world.agent("writer").await, world.agent("dead").await);
    let (_l, live) = world.agent("live").await;
    publish(&writer, 0..10, "note.made").await;
    let held = dead.receive(10, "10s").await;
    assert_eq!(held.len(), 10);
    let reading = tokio::spawn(async move { take(&live, 700).await });
    // More than fits: the rest of the group's events is parked around what its member holds.
    publish(&writer, 10..470, "note.made").await;
    until("letters", || async {
        let letters = world.letters("dead").await;
        if letters.is_empty() { Err(letters.len()) } else { Ok(()) }
    })
    .await;
    let letters = world.letters("dead").await;
    for delivery in &held {
        assert!(!letters.contains_key(delivery["event"]["id"].as_str().expect("an id")), "{delivery}");
        dead.ack(delivery).await;
    }
    publish(&writer, 470..700, "note.made").await;
    assert_eq!(reading.await.expect("read").len(), 700);
    let rest = take(&dead, 700).await;
    let letters = world.letters("dead").await;
    let ids: BTreeSet<String> = letters.keys().cloned().chain(rest.iter().cloned()).collect();
    assert_eq!((ids.len(), letters.len() + rest.len()), (690, 690), "each once, and none of those that were held");
}

#[tokio::test]
async fn a_dead_group_in_strict_order_is_parked_in_order_and_goes_on_where_that_ends() {
    let world = World::start("", small()).await;
    let (_w, writer) = world.agent("writer").await;
    publish(&writer, 0..900, "strict.made").await;
    let (_s, strict) = world.agent("strict").await;
    let rest = take(&strict, 900).await;
    let letters = world.letters("strict").await;
    assert!(!letters.is_empty() && !rest.is_empty(), "{} letters, {} delivered", letters.len(), rest.len());
    let all: Vec<String> = letters.keys().cloned().chain(rest.iter().cloned()).collect();
    assert_eq!(
        all,
        ids(0..900).into_iter().collect::<Vec<_>>(),
        "first the letters, then the rest, each once and in order"
    );
}

#[tokio::test]
async fn a_control_plane_that_ends_while_it_parks_loses_nothing_and_doubles_nothing() {
    let mut world = World::start("", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    let reading = tokio::spawn(async move { take(&live, 900).await.len() });
    publish(&writer, 0..440, "note.made").await;
    until("the first letters", || async {
        let letters = world.letters("dead").await.len();
        if letters > 0 { Ok(()) } else { Err(letters) }
    })
    .await;
    // In the middle of it, as far as that can be had: what it has pulled and not acked comes again to the next one.
    world.restart_control().await;
    publish(&writer, 440..900, "note.made").await;
    assert_eq!(reading.await.expect("read"), 900);
    let (_d, dead) = world.agent("dead").await;
    let rest = take(&dead, 900).await;
    world.broker.settled("dead").await;
    let letters = world.letters("dead").await;
    let all: BTreeSet<String> = letters.keys().cloned().chain(rest.iter().cloned()).collect();
    assert_eq!((all.len(), letters.len() + rest.len()), (900, 900));
}
