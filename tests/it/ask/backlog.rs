//! What an agent has not read yet does not hold up the replies to its asks.

use std::time::{Duration, Instant};

use agentbus_tests::grpc;
use agentbus_tests::http::HttpAgent;
use serde_json::json;

use super::world::{Echo, World};

/// Unread events of the asker, in its group and in its inbox.
const UNREAD: usize = 10_000;

#[tokio::test]
async fn ten_thousand_unread_events_do_not_hold_up_a_reply() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let a = HttpAgent::of(&asker);
    let _echo = Echo::start(&world, &HttpAgent::of(&helper), "helper--inbox").await;
    let ask = async || {
        let began = Instant::now();
        let answer = a.post("/v1/ask", &json!({"to": "@helper", "data": "now", "timeout": "30s"})).await;
        assert_eq!((answer.status, &answer.body["reply"]["data"]["echo"]), (200, &json!("now")), "{}", answer.body);
        began.elapsed()
    };
    ask().await;
    let empty = ask().await;
    let mut client = grpc::client(&asker).await;
    for to in ["noise.made", "@asker"] {
        let events = (0..UNREAD / 2).map(|n| grpc::event(to, n.to_string()));
        let answers = grpc::publish_all(&mut client, events).await;
        assert!(answers.iter().all(|answer| answer.failure.is_none()), "{to}: {:?}", answers[0]);
    }
    let (noise, inbox) = (world.broker.state("asker").await, world.broker.state("asker--inbox").await);
    assert_eq!((noise.lag + noise.in_flight, inbox.lag + inbox.in_flight), (UNREAD as u64 / 2, UNREAD as u64 / 2));
    let full = ask().await;
    // Generous for a loaded machine, and far below what reading the backlog first would need.
    assert!(full < empty * 20 + Duration::from_secs(1), "{empty:?} with nothing unread, {full:?} with {UNREAD}");
    let (noise, inbox) = (world.broker.state("asker").await, world.broker.state("asker--inbox").await);
    assert_eq!((noise.lag + noise.in_flight, inbox.lag + inbox.in_flight), (UNREAD as u64 / 2, UNREAD as u64 / 2));
}
