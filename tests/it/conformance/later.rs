//! What needs more of the bus than delivery: schedules, asks, lanes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentbus_nats::grant::GroupGrant;
use agentbus_tests::broker::group;
use agentbus_tests::wait::until;
use serde_json::json;

use super::stage::{Kind, Stage};

const AGENTS: &str = "  writer: {runner: process, command: [none], publish: ['>']}
  live: {runner: process, command: [none], subscribe: [note.>]}
";

pub async fn a_scheduled_event_comes_when_it_is_due_and_only_once(kind: Kind) {
    let stage = Stage::new(kind).await;
    let _control = stage.control(AGENTS).await;
    let writer = stage.agent("writer", "writer", &[]).await;
    let live = stage.agent("live", "live", &[group("live", &["note.>"])]).await;
    let since = Instant::now();
    let body = json!({"to": "note.later", "data": "x", "id": "later", "after": "1s"});
    let answer = writer.http.post("/v1/schedules", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let cancelled = json!({"to": "note.never", "data": "y", "id": "never", "after": "2s"});
    assert_eq!(writer.http.post("/v1/schedules", &cancelled).await.status, 200);
    let headers = [("authorization", format!("Bearer {}", writer.http.token))];
    let path = "/v1/schedules/never";
    let answer =
        agentbus_tests::http::request(&writer.http.address, "DELETE", path, &headers, "".into()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let got = live.http.receive_one("10s").await;
    assert!(since.elapsed() >= Duration::from_millis(900), "never early: {:?}", since.elapsed());
    assert_eq!(got["event"]["data"], "x");
    assert!(got["event"]["id"].as_str().is_some_and(|id| id.starts_with("later.")), "an id of its own: {got}");
    live.http.ack(&got).await;
    // The cancelled one would be due by then.
    assert!(live.http.receive(1, "2s").await.is_empty());
    until("nothing left to fire", || async {
        let left = stage.bus.stream(&stage.names.schedules()).await.unwrap().unwrap().messages;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

pub async fn an_ask_gets_its_reply(kind: Kind) {
    let stage = Stage::new(kind).await;
    let _control = stage.control(AGENTS).await;
    let writer = stage.agent("writer", "writer", &[]).await;
    let live = stage.agent("live", "live", &[group("live", &["note.>"])]).await;
    let http = live.http.clone();
    let answering = tokio::spawn(async move {
        let asked = http.receive_one("20s").await;
        let said = http.settle(&asked, "reply", json!({"data": {"echo": asked["event"]["data"]}})).await;
        assert_eq!(said.status, 200, "{}", said.body);
        http.ack(&asked).await;
    });
    // An ask is refused at once while nobody listens; the answerer's first poll says that somebody does.
    until("a listener", || async {
        let waiting = stage.bus.consumer(&stage.names.events(), "live").await.unwrap().map_or(0, |info| info.waiting);
        if waiting > 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
    let answer = writer.http.post("/v1/ask", &json!({"to": "note.asked", "data": "hello", "timeout": "20s"})).await;
    assert_eq!((answer.status, &answer.body["final"]), (200, &json!(true)), "{}", answer.body);
    assert_eq!(answer.body["reply"]["data"], json!({"echo": "hello"}), "{}", answer.body);
    answering.await.unwrap();
    stage.settled("live").await;
}

pub async fn split_lanes_lose_nothing(kind: Kind) {
    let stage = Stage::new(kind).await;
    let lanes = GroupGrant { split_lanes: true, ..group("readers", &["note.>"]) };
    let agent = stage.agent("worker", "worker", &[lanes]).await;
    for n in 0..12 {
        let priority = ["low", "normal", "high"][n % 3];
        agent.http.publish(json!({"to": "note.made", "data": n, "priority": priority})).await;
    }
    let (mut seen, mut first) = (BTreeSet::new(), None);
    while seen.len() < 12 {
        let got = agent.http.receive_one("10s").await;
        first.get_or_insert(got["event"]["priority"].clone());
        assert!(seen.insert(got["event"]["data"].as_u64().expect("a number")), "twice: {got}");
        agent.http.ack(&got).await;
    }
    assert_eq!(first, Some(json!("high")), "the weightiest lane is asked first");
    stage.settled("readers").await;
}
