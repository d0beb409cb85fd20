//! Messages of the older format: taken in, handed out, and what is refused.

use std::time::{Duration, Instant};

use agentbus_tests::http::{Answer, HttpAgent};
use serde_json::{Value, json};

use crate::ask::world::World;

/// A message from the asker to the helper, with this in it.
fn message(change: Value) -> Value {
    let mut message = json!({
        "message_id": "m-1", "from_agent": "asker", "to_agent": "helper", "message_type": "task.assigned",
        "body": {"content": "look at this", "context": {"pr": 7}, "metadata": {"n": 1.5, "none": null}},
    });
    for (key, value) in change.as_object().expect("an object") {
        message[key] = value.clone();
    }
    message
}

async fn hand_in(agent: &HttpAgent, change: Value) -> Answer {
    agent.post("/v1/messages", &message(change)).await
}

/// The next delivery, as a message.
async fn next(agent: &HttpAgent) -> Value {
    let answer = agent.post("/v1/receive?format=message", &json!({"max": 1, "wait": "20s"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["deliveries"][0].clone()
}

#[tokio::test]
async fn a_message_arrives_as_it_was_and_as_an_event() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let change = json!({"priority": "URGENT", "ttl": "1h",
        "delivery_options": {"require_ack": true, "max_retries": 2, "retry_delay": 0.5}});
    let answer = hand_in(&a, change.clone()).await;
    let wanted = json!({"id": "m-1", "stored": "broker", "stream": "AB_default_EVENTS", "seq": 1, "duplicate": false});
    assert_eq!((answer.status, answer.body), (200, wanted));
    let again = hand_in(&a, change.clone()).await;
    assert_eq!((again.status, &again.body["duplicate"]), (200, &json!(true)), "{}", again.body);
    let delivery = next(&h).await;
    assert_eq!((&delivery["message"], delivery.get("event")), (&message(change), None));
    assert_eq!((&delivery["attempt"], &delivery["max_attempts"]), (&json!(1), &json!(3)));
    h.ack(&delivery).await;

    hand_in(&a, json!({"message_id": "m-2", "priority": "low", "timestamp": "2100-01-01T00:00:00", "ttl": 60})).await;
    let event = &h.receive_one("20s").await["event"];
    let told = |key: &str| event[key].as_str().unwrap_or_default();
    assert_eq!([told("id"), told("source"), told("to")], ["m-2", "asker", "@helper"]);
    assert_eq!([told("type"), told("priority")], ["task.assigned", "low"]);
    assert_eq!([told("time"), told("expires")], ["2100-01-01T00:00:00Z", "2100-01-01T00:01:00Z"]);
    assert_eq!(event["data"], message(json!({}))["body"]);
}

#[tokio::test]
async fn an_event_is_handed_out_as_a_message_that_carries_it() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    a.publish(json!({"to": "work.asked", "id": "e-1", "data": {"n": 1}, "attributes": {"k": "v"}})).await;
    let delivery = next(&h).await;
    let handed = &delivery["message"];
    assert_eq!([&handed["message_id"], &handed["from_agent"], &handed["to_agent"]], ["e-1", "asker", "work.asked"]);
    assert_eq!((&handed["body"]["content"], &handed["body"]["metadata"]["k"]), (&json!({"n": 1}), &json!("v")));
    h.ack(&delivery).await;
    // Only who sent it can hand it in.
    let other = h.post("/v1/messages", handed).await;
    assert_eq!((other.status, other.body["code"].as_str()), (403, Some("SCOPE_DENIED")), "{}", other.body);
    let same = a.post("/v1/messages", handed).await;
    assert_eq!((same.status, &same.body["duplicate"]), (200, &json!(true)), "{}", same.body);
}

#[tokio::test]
async fn retries_are_as_many_and_as_far_apart_as_the_message_says() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    hand_in(&a, json!({"delivery_options": {"max_retries": 1, "retry_delay": 2}})).await;
    for attempt in 1..=2 {
        let began = Instant::now();
        let delivery = next(&h).await;
        assert_eq!((&delivery["attempt"], &delivery["message"]["message_id"]), (&json!(attempt), &json!("m-1")));
        // The group's own would be 0.2 s at most. Clocks of the queue are in milliseconds.
        assert!(attempt == 1 || began.elapsed() > Duration::from_millis(1900), "{:?}", began.elapsed());
        let nacked = h.settle(&delivery, "nack", json!({"reason": "not now"})).await;
        assert_eq!(nacked.status, 200, "{}", nacked.body);
    }
    let letters = world.broker.dead_letters(1).await;
    assert_eq!(letters.len(), 1);
}

#[tokio::test]
async fn what_a_message_would_not_get_is_refused_by_name() {
    let world = World::start().await;
    let asker = world.sidecar("asker").await;
    let a = HttpAgent::of(&asker);
    let check = async |change: Value, status: u16, code: &str, named: &str| {
        let answer = hand_in(&a, change.clone()).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{change}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(named), "{change}: {}", answer.body);
    };
    check(json!({"from_agent": "helper"}), 403, "SCOPE_DENIED", "`from_agent`").await;
    check(json!({"to_agent": "nobody"}), 400, "INVALID_ADDRESS", "nobody").await;
    check(json!({"to_agent": "two words"}), 400, "INVALID_ADDRESS", "`to_agent`").await;
    check(json!({"message_id": "a b"}), 400, "INVALID_EVENT", "`id`").await;
    check(json!({"other": 1}), 400, "INVALID_EVENT", "unknown key `other`").await;
    check(json!({"priority": "asap"}), 400, "INVALID_EVENT", "`priority`").await;
    check(json!({"ttl": 60, "timestamp": 0}), 410, "EXPIRED", "expired").await;
    check(json!({"delivery_options": {"max_retries": -1}}), 400, "INVALID_EVENT", "max_retries").await;
    let none = a.post("/v1/messages", &json!([])).await;
    assert_eq!((none.status, none.body["code"].as_str()), (400, Some("INVALID_EVENT")), "{}", none.body);
    for query in ["format=xml", "format=message&other=1"] {
        let odd = a.post(&format!("/v1/receive?{query}"), &json!({"wait": "1ms"})).await;
        assert_eq!((odd.status, odd.body["code"].as_str()), (400, Some("INVALID_EVENT")), "{query}: {}", odd.body);
    }
    assert_eq!(world.broker.count(&world.broker.names.events()).await, 0);
}
