//! The control plane is not on the way of an event: without it everything goes on, and a new one finds all as it was.

use agentbus_tests::wait::until;
use serde_json::json;

use super::bus::{Bus, GRACE, TWO, control};

#[tokio::test]
async fn without_a_control_plane_events_flow_are_retried_and_dead_lettered() {
    let Bus { broker, control: first, api } = Bus::start(TWO).await;
    let bus = Bus { control: first, broker, api };
    let ((_a, left), (_b, right)) = (bus.agent("left").await, bus.agent("right").await);
    let Bus { broker, control: first, api } = bus;
    left.publish(json!({"to": "note.made", "data": "before"})).await;
    for agent in [&left, &right] {
        let delivery = agent.receive_one("20s").await;
        agent.ack(&delivery).await;
    }

    first.stop(GRACE).await;
    assert!(api.get::<serde_json::Value>("/v1/status").await.is_err(), "it is gone");
    let stored = right.publish(json!({"to": "note.made", "data": "after"})).await;
    assert_eq!(stored["stored"], "broker");
    let delivery = left.receive_one("20s").await;
    left.ack(&delivery).await;
    // Two attempts, then the dead letter.
    for attempt in 1..=2 {
        let delivery = right.receive_one("20s").await;
        assert_eq!((&delivery["attempt"], &delivery["event"]["data"]), (&json!(attempt), &json!("after")));
        let answer = right.settle(&delivery, "nack", json!({"reason": "not now"})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let letters = broker.dead_letters(1).await;
    assert_eq!(letters[0].subject.as_str(), "abd.default.right.right.EXHAUSTED");
    broker.settled("left").await;
    broker.settled("right").await;

    // A new one knows everything, and the sidecars never noticed.
    let second = control(&broker, TWO).await.expect("starts again");
    let api = agentbus::control::Api::new("the control plane", second.api_url(), "token-of-the-test");
    let list: serde_json::Value = api.get("/v1/dead-letters").await.expect("a list");
    assert_eq!((&list["letters"][0]["class"], &list["letters"][0]["cause"]), (&json!("EXHAUSTED"), &json!("not now")));
    left.publish(json!({"to": "note.made", "data": "again"})).await;
    let delivery = right.receive_one("20s").await;
    right.ack(&delivery).await;
    let delivery = left.receive_one("20s").await;
    left.ack(&delivery).await;
    second.stop(GRACE).await;
}

#[tokio::test]
async fn a_group_joined_at_run_time_outlives_the_control_plane() {
    let bus = Bus::start(TWO).await;
    let (_a, left) = bus.agent("left").await;
    let joined = left.post("/v1/subscriptions", &json!({"patterns": ["extra.>"], "group": "more"})).await;
    assert_eq!(joined.status, 200, "{}", joined.body);
    let Bus { broker, control: first, .. } = bus;
    first.stop(GRACE).await;
    let second = control(&broker, TWO).await.expect("starts again");
    let api = agentbus::control::Api::new("the control plane", second.api_url(), "token-of-the-test");
    let status: serde_json::Value = api.get("/v1/status").await.expect("a status");
    let names: Vec<&str> =
        status["groups"].as_array().unwrap().iter().filter_map(|group| group["group"].as_str()).collect();
    let own = ["left--channels", "left--inbox", "right--channels", "right--inbox"];
    assert_eq!(names, [&["left", "more", "right"][..], &own].concat(), "{status}");

    // The group belongs to `left`: nobody else may turn it round, and its meaning is still known.
    let again = left.post("/v1/subscriptions", &json!({"patterns": ["extra.>"], "group": "more"})).await;
    assert_eq!(again.status, 200, "{}", again.body);
    second.stop(GRACE).await;
}

#[tokio::test]
async fn a_broker_that_lost_its_store_gets_its_streams_and_groups_again() {
    let bus = Bus::start(TWO).await;
    let (_b, right) = bus.agent("right").await;
    right.publish(json!({"to": "note.made", "data": "lost"})).await;
    for stream in [bus.broker.names.events(), bus.broker.names.retry()] {
        bus.broker.context.delete_stream(&stream).await.expect("deleted");
    }
    bus.control.poke();
    until("streams and groups", || async {
        let status = bus.get("/v1/status").await;
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        let whole = groups.len() == 6 && groups.iter().all(|group| group.get("problem").is_none());
        if whole && status["broker"].get("problem").is_none() { Ok(()) } else { Err(status) }
    })
    .await;
    let (_a, left) = bus.agent("left").await;
    left.publish(json!({"to": "note.made", "data": "new"})).await;
    // A sidecar that was there all the time gets it as well.
    for agent in [&left, &right] {
        let delivery = agent.receive_one("30s").await;
        assert_eq!(delivery["event"]["data"], "new", "{delivery}");
        agent.ack(&delivery).await;
    }
}
