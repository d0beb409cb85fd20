//! The HTTP verbs with the exact JSON that agents see.

use agentbus_tests::http::request;
use agentbus_tests::{Member, SidecarProcess};
use serde_json::{Value, json};

use super::Edge;

/// The keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_publish_tells_where_the_event_is() {
    let edge = Edge::start().await;
    let answer = edge.agent.publish(json!({"to": "notes.created", "id": "n-1", "data": {"n": 1}})).await;
    let wanted = json!({"id": "n-1", "stored": "broker", "stream": "AB_default_EVENTS", "seq": 1, "duplicate": false});
    assert_eq!(answer, wanted);
    let made = edge.agent.publish(json!({"to": "notes.created"})).await;
    assert_eq!(made["id"].as_str().map(str::len), Some(36), "an id is made: {made}");
}

#[tokio::test]
async fn a_delivery_shows_the_event_as_it_was_published() {
    let edge = Edge::start().await;
    let event = json!({"to": "notes.created", "id": "n-1", "data": {"n": 1}, "type": "note.v1", "attributes": {"k": "v"},
        "time": "2026-01-02T03:04:05Z", "priority": "high", "ordering_key": "o", "schema": "s"});
    edge.agent.publish(event).await;
    let delivery = edge.agent.receive_one("20s").await;
    let all = ["attempt", "deadline", "delivery_id", "event", "group", "max_attempts", "seq", "stream", "traceparent"];
    assert_eq!(keys(&delivery), all);
    let told = |key: &str| delivery[key].clone();
    assert_eq!([told("attempt"), told("max_attempts"), told("seq")], [json!(1), json!(4), json!(1)]);
    assert_eq!([told("group"), told("stream")], [json!("reader"), json!("AB_default_EVENTS")]);
    let wanted = json!({"id": "n-1", "source": "writer", "to": "notes.created", "type": "note.v1",
        "time": "2026-01-02T03:04:05Z", "correlation_id": "n-1", "priority": "high", "ordering_key": "o",
        "content_type": "application/json", "schema": "s", "data": {"n": 1}, "attributes": {"k": "v"}});
    assert_eq!(delivery["event"], wanted);
}

#[tokio::test]
async fn bytes_come_back_as_base64_and_text_as_text() {
    let edge = Edge::start().await;
    edge.agent.publish(json!({"to": "notes.created", "data_base64": "AP8="})).await;
    edge.agent.publish(json!({"to": "notes.created", "data": "é\n", "content_type": "text/plain"})).await;
    let mut events = Vec::new();
    while events.len() < 2 {
        let some = edge.agent.receive(2, "20s").await;
        events.extend(some.into_iter().map(|delivery| delivery["event"].clone()));
    }
    assert_eq!((&events[0]["data_base64"], &events[0]["data"]), (&json!("AP8="), &Value::Null));
    assert_eq!((&events[1]["data"], &events[1]["content_type"]), (&json!("é\n"), &json!("text/plain")));
}

#[tokio::test]
async fn an_empty_poll_answers_an_empty_list() {
    let edge = Edge::start().await;
    let answer = edge.agent.post("/v1/receive", &json!({"wait": "50ms"})).await;
    assert_eq!((answer.status, answer.body), (200, json!({"deliveries": []})));
}

#[tokio::test]
async fn an_agent_may_hold_several_deliveries_each_from_a_poll_of_its_own() {
    let edge = Edge::start().await;
    for n in 1..=3 {
        edge.agent.publish(json!({"to": "notes.created", "data": n})).await;
    }
    for n in 1..=3 {
        assert_eq!(edge.agent.receive_one("5s").await["event"]["data"], n);
    }
}

#[tokio::test]
async fn subscribing_to_a_group_one_is_in_changes_nothing() {
    let edge = Edge::start().await;
    for body in
        [json!({"patterns": ["notes.>"], "group": "reader"}), json!({"group": "reader"}), json!({"patterns": []})]
    {
        let answer = edge.agent.post("/v1/subscriptions", &body).await;
        let named = body["group"].is_string();
        // The group's default name is the agent's, and `writer` is in no group of that name.
        let wanted = if named { json!({"group": "reader", "groups": ["reader"]}) } else { Value::Null };
        assert_eq!(answer.status, if named { 200 } else { 400 }, "{body}: {}", answer.body);
        assert!(!named || answer.body == wanted, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_new_group_needs_the_control_plane_and_says_so_at_once() {
    let edge = Edge::start().await;
    let before = std::time::Instant::now();
    let answer = edge.agent.post("/v1/subscriptions", &json!({"patterns": ["other.>"], "group": "others"})).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (503, Some("CONTROL_PLANE_DOWN")));
    assert!(answer.body["retry_after"].is_string(), "{}", answer.body);
    assert!(before.elapsed().as_secs() < 3, "no responder is known at once");
    edge.agent.publish(json!({"to": "notes.created"})).await;
    edge.agent.receive_one("20s").await;
}

#[tokio::test]
async fn an_agent_without_groups_is_told_to_subscribe() {
    let edge = Edge::start().await;
    let member = Member { agent: "mute", publish: &["notes.>"], ..Member::default() };
    let sidecar = SidecarProcess::start(&edge.broker, member).await;
    let answer = agentbus_tests::http::HttpAgent::of(&sidecar).post("/v1/receive", &json!({})).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("INVALID_ADDRESS")));
    assert!(answer.body["detail"].as_str().unwrap().contains("POST /v1/subscriptions"), "{}", answer.body);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let edge = Edge::start().await;
    let auth = [("authorization", format!("Bearer {}", edge.sidecar.token))];
    for (method, path, status) in [
        ("GET", "/", 404),
        ("POST", "/v1/nothing", 404),
        ("POST", "/v1/deliveries", 404),
        ("GET", "/v1/ask", 405),
        ("GET", "/v1/publish", 405),
        ("DELETE", "/v1/deliveries/x/ack", 405),
    ] {
        let answer = request(&edge.sidecar.address(), method, path, &auth, "".into()).await.unwrap();
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (status, &json!(status)),
            "{method} {path}: {}",
            answer.body
        );
        assert_eq!(answer.body["code"], "NOT_FOUND", "{}", answer.body);
    }
}
