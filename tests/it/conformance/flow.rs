//! Sidecars on the bus: delivery, retries, dead letters, order.

use std::collections::BTreeMap;

use agentbus_nats::grant::{GroupGrant, Policy};
use agentbus_nats::headers;
use agentbus_nats::read::Record;
use agentbus_tests::broker::group;
use serde_json::{Value, json};

use super::stage::{Kind, Stage};

fn header<'a>(record: &'a Record, name: &'static str) -> &'a str {
    headers::get(Some(&record.headers), name).unwrap_or_default()
}

fn data(delivery: &Value) -> &str {
    delivery["event"]["data"].as_str().unwrap_or_default()
}

pub async fn an_event_is_delivered_and_settled(kind: Kind) {
    let stage = Stage::new(kind).await;
    let agent = stage.agent("worker", "worker-1", &[group("readers", &["note.>"])]).await;
    let stored = agent.http.publish(json!({"to": "note.made", "data": "hello", "id": "e-1"})).await;
    assert_eq!((stored["stored"].as_str(), stored["seq"].as_u64()), (Some("broker"), Some(1)), "{stored}");
    let got = agent.http.receive_one("10s").await;
    assert_eq!((data(&got), got["event"]["id"].as_str(), got["attempt"].as_u64()), ("hello", Some("e-1"), Some(1)));
    agent.http.ack(&got).await;
    stage.settled("readers").await;
    let again = agent.http.publish(json!({"to": "note.made", "data": "hello", "id": "e-1"})).await;
    assert_eq!(again["duplicate"], true, "{again}");
    assert!(agent.http.receive(1, "300ms").await.is_empty());
    agent.sidecar.drain().await;
}

pub async fn every_group_gets_every_event(kind: Kind) {
    let stage = Stage::new(kind).await;
    let one = stage.agent("one", "one", &[group("one", &["note.>"])]).await;
    let two = stage.agent("two", "two", &[group("two", &["note.>"])]).await;
    let other = stage.agent("other", "other", &[group("other", &["file.>"])]).await;
    one.http.publish(json!({"to": "note.made", "data": "x"})).await;
    for agent in [&one, &two] {
        let got = agent.http.receive_one("10s").await;
        assert_eq!(data(&got), "x");
        agent.http.ack(&got).await;
    }
    assert!(other.http.receive(1, "300ms").await.is_empty());
}

pub async fn a_nack_is_a_retry(kind: Kind) {
    let stage = Stage::new(kind).await;
    let agent = stage.agent("worker", "worker-1", &[group("readers", &["note.>"])]).await;
    agent.http.publish(json!({"to": "note.made", "data": "x"})).await;
    let first = agent.http.receive_one("10s").await;
    assert_eq!(agent.http.settle(&first, "nack", json!({"reason": "not yet"})).await.status, 200);
    let second = agent.http.receive_one("10s").await;
    assert_eq!((data(&second), second["attempt"].as_u64()), ("x", Some(2)));
    agent.http.ack(&second).await;
    stage.settled("readers").await;
    let retry = stage.bus.stream(&stage.names.retry()).await.unwrap().unwrap();
    assert_eq!(retry.messages, 0, "settled, and gone");
    assert_eq!(stage.records(&stage.names.events()).await.len(), 1, "history stays");
}

pub async fn what_keeps_failing_is_a_dead_letter(kind: Kind) {
    let stage = Stage::new(kind).await;
    let policy = Policy { max_attempts: 2, initial_ms: 100, max_ms: 100, jitter: 0.0, ..Policy::default() };
    let agent = stage.agent("worker", "worker-1", &[GroupGrant { policy, ..group("readers", &["note.>"]) }]).await;
    agent.http.publish(json!({"to": "note.made", "data": "x"})).await;
    for attempt in 1..=2 {
        let got = agent.http.receive_one("10s").await;
        assert_eq!(got["attempt"], attempt);
        agent.http.settle(&got, "nack", json!({"reason": "boom"})).await;
    }
    let letter = stage.letters(1).await.remove(0);
    assert_eq!(letter.subject, "abd.default.readers.worker.EXHAUSTED");
    assert_eq!((header(&letter, headers::CAUSE), header(&letter, headers::ATTEMPT)), ("boom", "2"));
    let origin = format!("{}/1/ab.default.n.worker.topic.-.note.made", stage.names.events());
    assert_eq!(header(&letter, headers::ORIGIN), origin);
    stage.settled("readers").await;
}

pub async fn a_reject_is_a_dead_letter(kind: Kind) {
    let stage = Stage::new(kind).await;
    let agent = stage.agent("worker", "worker-1", &[group("readers", &["note.>"])]).await;
    agent.http.publish(json!({"to": "note.made", "data": "x"})).await;
    let got = agent.http.receive_one("10s").await;
    assert_eq!(agent.http.settle(&got, "reject", json!({"reason": "never"})).await.status, 200);
    let letter = stage.letters(1).await.remove(0);
    assert_eq!((header(&letter, headers::CLASS), header(&letter, headers::CAUSE)), ("REJECTED", "never"));
    let event = stage.bus.get(&stage.names.events(), 1).await.unwrap().unwrap();
    assert_eq!(letter.payload, event.payload, "byte for byte");
    stage.settled("readers").await;
}

pub async fn an_ordered_group_keeps_the_order_under_nacks(kind: Kind) {
    let stage = Stage::new(kind).await;
    let ordered = GroupGrant { ordered: true, ..group("readers", &["note.>"]) };
    let agent = stage.agent("worker", "worker-1", &[ordered]).await;
    for n in 0..8 {
        agent.http.publish(json!({"to": "note.made", "data": n.to_string()})).await;
    }
    let mut seen = Vec::new();
    for n in 0..8 {
        let mut got = agent.http.receive_one("10s").await;
        if n % 3 == 0 {
            agent.http.settle(&got, "nack", json!({"retry_after": "100ms"})).await;
            let again = agent.http.receive_one("10s").await;
            assert_eq!((data(&again), again["attempt"].as_u64()), (data(&got), Some(2)));
            got = again;
        }
        seen.push(data(&got).to_owned());
        agent.http.ack(&got).await;
    }
    assert_eq!(seen, (0..8).map(|n| n.to_string()).collect::<Vec<_>>());
    stage.settled("readers").await;
}

pub async fn order_by_key_holds_under_nacks(kind: Kind) {
    let stage = Stage::new(kind).await;
    let by_key = GroupGrant { by_key: true, ..group("readers", &["note.>"]) };
    let agent = stage.agent("worker", "worker-1", &[by_key]).await;
    for n in 0..12 {
        let key = ["a", "b", "c"][n % 3];
        agent.http.publish(json!({"to": "note.made", "data": format!("{key}{n:02}"), "ordering_key": key})).await;
    }
    let (mut done, mut nacked) = (BTreeMap::<String, Vec<String>>::new(), 0);
    while done.values().map(Vec::len).sum::<usize>() < 12 {
        let got = agent.http.receive_one("20s").await;
        let data = data(&got).to_owned();
        if got["attempt"] == 1 && data.ends_with(['3', '7']) {
            nacked += 1;
            agent.http.settle(&got, "nack", json!({"retry_after": "100ms"})).await;
            continue;
        }
        done.entry(data[..1].to_owned()).or_default().push(data);
        agent.http.ack(&got).await;
    }
    assert!(nacked >= 2, "{nacked}");
    for (key, seen) in &done {
        assert!(seen.is_sorted() && seen.len() == 4, "{key}: {seen:?}");
    }
}

pub async fn what_a_gone_agent_held_goes_to_another(kind: Kind) {
    let stage = Stage::new(kind).await;
    let readers = [group("readers", &["note.>"])];
    let one = stage.agent("worker", "worker-1", &readers).await;
    one.http.publish(json!({"to": "note.made", "data": "x"})).await;
    let held = one.http.receive_one("10s").await;
    assert_eq!(held["attempt"], 1);
    let two = stage.agent("worker", "worker-2", &readers).await;
    one.sidecar.hub.agent_exited(false);
    let got = two.http.receive_one("20s").await;
    assert_eq!(data(&got), "x");
    two.http.ack(&got).await;
    stage.settled("readers").await;
}

pub async fn what_an_ack_emits_is_stored_first(kind: Kind) {
    let stage = Stage::new(kind).await;
    let agent = stage.agent("worker", "worker-1", &[group("readers", &["note.>"])]).await;
    agent.http.publish(json!({"to": "note.made", "data": "x", "id": "e-1"})).await;
    let got = agent.http.receive_one("10s").await;
    let emit = json!({"emit": [{"to": "out.one", "data": 1}, {"to": "out.two", "data": 2}]});
    let answer = agent.http.settle(&got, "ack", emit).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let records = stage.records(&stage.names.events()).await;
    assert_eq!(records.len(), 3);
    assert!(records[1..].iter().all(|record| header(record, headers::CORRELATION) == "e-1"), "one chain");
    stage.settled("readers").await;
}
