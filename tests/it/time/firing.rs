//! Once and again and again: what is due comes, each time as an event of its own.

use std::time::{Duration, SystemTime};

use agentbus_nats::moves::rfc3339;
use serde_json::json;

use super::world::{World, cancel, list, schedule, seconds, take, text};

#[tokio::test]
async fn an_event_for_later_comes_when_it_is_due_and_not_before() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    let body = json!({"to": "tick.once", "data": {"n": 1}, "after": "1500ms", "ttl": "1h", "attributes": {"a": "b"}});
    let (id, next) = schedule(&clock, body).await;
    assert_eq!(list(&clock).await[0]["next"], json!(next));
    let event = take(&clock).await;
    assert!(text(&event, "id").starts_with(&format!("{id}.")), "{event}");
    assert_eq!((text(&event, "source"), text(&event, "to")), ("clock", "tick.once"));
    assert_eq!((&event["data"], &event["attributes"]["a"]), (&json!({"n": 1}), &json!("b")));
    assert_eq!(text(&event, "correlation_id"), text(&event, "id"), "a chain of its own");
    let fired = seconds(text(&event, "time"));
    assert!(fired >= seconds(&next) && fired < seconds(&next) + 10.0, "{event}, due {next}");
    assert!((seconds(text(&event, "expires")) - fired - 3600.0).abs() < 0.01, "counted from the firing: {event}");
    assert_eq!(list(&clock).await, [] as [serde_json::Value; 0]);
}

#[tokio::test]
async fn at_a_moment_and_in_a_chain_that_is_named() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    let at = rfc3339(SystemTime::now() + Duration::from_millis(1200));
    let body = json!({"to": "tick.at", "at": at, "id": "wake-up", "correlation_id": "morning"});
    let (id, next) = schedule(&clock, body).await;
    assert_eq!((id.as_str(), seconds(&next)), ("wake-up", seconds(&at)));
    let event = take(&clock).await;
    assert!(text(&event, "id").starts_with("wake-up."), "{event}");
    assert_eq!(text(&event, "correlation_id"), "morning");
    assert!(seconds(text(&event, "time")) >= seconds(&at), "{event}");
    // A moment that has just passed is due at once.
    let at = rfc3339(SystemTime::now() - Duration::from_secs(20));
    schedule(&clock, json!({"to": "tick.late", "at": at})).await;
    assert_eq!(text(&take(&clock).await, "to"), "tick.late");
}

#[tokio::test]
async fn each_occurrence_of_a_cron_is_an_event_of_its_own() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.second", "cron": "* * * * * *", "id": "seconds"})).await;
    let events = [take(&clock).await, take(&clock).await, take(&clock).await];
    let mut ids: Vec<&str> = events.iter().map(|event| text(event, "id")).collect();
    assert!(ids.iter().all(|id| id.starts_with("seconds.")), "{ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    for pair in events.windows(2) {
        let [before, after] = [0, 1].map(|at| seconds(text(&pair[at], "time")));
        assert!(after - before > 0.5, "{before} {after}");
    }
    assert!(cancel(&clock, "seconds").await);
    world.broker.settled("clock").await;
}

/// In UTC it would come hours later.
#[tokio::test]
async fn a_cron_fires_in_its_time_zone() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    // Kolkata is five and a half hours ahead all year.
    let there = now + 3 + 5 * 3600 + 1800;
    let cron = format!("{} {} {} * * *", there % 60, there / 60 % 60, there / 3600 % 24);
    let (id, next) = schedule(&clock, json!({"to": "tick.there", "cron": cron, "time_zone": "Asia/Kolkata"})).await;
    assert_eq!(seconds(&next) as u64, now + 3, "{next}");
    let listed = list(&clock).await;
    assert_eq!((&listed[0]["cron"], &listed[0]["time_zone"]), (&json!(cron), &json!("Asia/Kolkata")));
    let event = take(&clock).await;
    assert!(text(&event, "id").starts_with(&id), "{event}");
    let late = seconds(text(&event, "time")) - seconds(&next);
    assert!((0.0..10.0).contains(&late), "{event}");
    // It goes on tomorrow.
    assert_eq!(seconds(text(&list(&clock).await[0], "next")) as u64, now + 3 + 86_400);
}

#[tokio::test]
async fn an_occurrence_keeps_its_id_through_retries_dead_letters_and_redrives() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.hard", "after": "0s", "id": "hard", "ttl": "1h"})).await;
    let first = clock.receive_one("30s").await;
    let (id, expires) = (first["event"]["id"].clone(), first["event"]["expires"].clone());
    assert_eq!(clock.settle(&first, "nack", json!({"reason": "not now"})).await.status, 200);
    let second = clock.receive_one("30s").await;
    assert_eq!((&second["attempt"], &second["event"]["id"]), (&json!(2), &id));
    assert_eq!(second["event"]["expires"], expires, "counted from the firing, not from the retry");
    assert_eq!(clock.settle(&second, "reject", json!({"reason": "never"})).await.status, 200);
    let letters = world.broker.dead_letters(1).await;
    assert_eq!(letters[0].subject.as_str(), "abd.default.clock.clock.REJECTED");

    let control = world.control.as_ref().expect("runs");
    let api = agentbus::control::Api::new("the control plane", control.api_url(), "token-of-the-test");
    let listed: serde_json::Value = api.get("/v1/dead-letters").await.expect("a list");
    assert_eq!(listed["letters"][0]["event_id"], id, "{listed}");
    for to in ["group", "origin"] {
        let request = json!({"seqs": [1], "to": to, "force": true});
        let _: serde_json::Value = api.post("/v1/dead-letters/redrive", &request).await.expect("redriven");
        let again = clock.receive_one("30s").await;
        assert_eq!(again["event"]["id"], id, "{to}: {again}");
        clock.ack(&again).await;
    }
    world.broker.settled("clock").await;
}
