//! The asker's connection breaks, the broker dies, the responder dies: the ask is answered, once.

use std::time::Duration;

use agentbus_tests::http::HttpAgent;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use serde_json::json;

use super::world::{World, asking, listens, next_ask, reply, taking};

/// Cuts the asker off, has `answer` reply meanwhile, and lets the asker in again.
async fn while_cut_off(proxy: &Proxy, asker: &str, answer: impl AsyncFnOnce()) {
    proxy.swallow(true);
    proxy.deafen(true);
    proxy.cut();
    until("a broken connection", || async { if connected(asker).await { Err("connected") } else { Ok(()) } }).await;
    answer().await;
    proxy.swallow(false);
    proxy.deafen(false);
    proxy.cut();
}

/// Whether the sidecar says so on its admin listener.
async fn connected(admin: &str) -> bool {
    let address = admin.trim_start_matches("http://");
    let answer = agentbus_tests::http::request(address, "GET", "/readyz", &[], bytes::Bytes::new()).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

#[tokio::test]
async fn a_reply_stored_while_the_asker_is_away_is_found_after_its_return() {
    let world = World::start().await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let asker = world.sidecar_with("asker", Some(&proxy.address()), None).await;
    let helper = world.sidecar("helper").await;
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "data": 1, "timeout": "60s"}));
    let delivery = taken.await.unwrap();
    while_cut_off(&proxy, &asker.admin, async || {
        // More than one control-plane answer takes, and more than one message of the broker with its base64.
        let large = "x".repeat(900_000);
        reply(&h, &delivery, json!({"data": large, "more": true})).await;
        reply(&h, &delivery, json!({"data": "done"})).await;
    })
    .await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, &answer.body["reply"]["data"]), (200, &json!("done")), "{}", answer.body["detail"]);
    assert_eq!(answer.body["before"][0]["data"].as_str().map(str::len), Some(900_000));
    assert_eq!(world.stored_replies().await.len(), 2);
}

#[tokio::test]
async fn a_missed_reply_is_found_when_the_control_plane_is_back_too() {
    let mut world = World::start().await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let asker = world.sidecar_with("asker", Some(&proxy.address()), None).await;
    let helper = world.sidecar("helper").await;
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "data": 1, "timeout": "60s"}));
    let delivery = taken.await.unwrap();
    world.control.take().expect("a control plane").stop(Duration::from_secs(5)).await;
    while_cut_off(&proxy, &asker.admin, async || drop(reply(&h, &delivery, json!({"data": "found"})).await)).await;
    until("a new connection", || async { if connected(&asker.admin).await { Ok(()) } else { Err("away") } }).await;
    assert!(!answer.is_finished(), "nobody can read it for the asker yet");
    world.start_control().await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, &answer.body["reply"]["data"]), (200, &json!("found")), "{}", answer.body);
}

#[tokio::test]
async fn the_broker_dies_between_ask_and_reply() {
    let mut world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "data": 1, "timeout": "60s"}));
    let delivery = taken.await.unwrap();
    world.broker.crash().await;
    // The sidecar stores it when the broker is back, or says that it may be repeated.
    until("a stored reply", || async {
        let said = h.settle(&delivery, "reply", json!({"data": "after all"})).await;
        if said.status == 200 { Ok(()) } else { Err(said.body) }
    })
    .await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, &answer.body["reply"]["data"]), (200, &json!("after all")), "{}", answer.body);
}

#[tokio::test]
async fn a_responder_that_dies_is_replaced_and_the_asker_hears_one_reply() {
    let world = World::start().await;
    let (asker, mut helper, other) =
        (world.sidecar("asker").await, world.sidecar("helper").await, world.sidecar("other").await);
    let (a, h, o) = (HttpAgent::of(&asker), HttpAgent::of(&helper), HttpAgent::of(&other));
    let taken = taking(&h);
    listens(&world, "pool--crew").await;
    let answer = asking(&a, json!({"to": "@crew", "timeout": "60s"}));
    let first = taken.await.unwrap();
    // The agent dies, its sidecar gives the ask to the next one.
    helper.agent_exited().await;
    let second = next_ask(&o).await;
    assert_eq!(first["event"]["id"], second["event"]["id"]);
    // The dead one's last word comes too late for its own delivery.
    let late = h.settle(&first, "reply", json!({"data": "ghost"})).await;
    assert_eq!((late.status, late.body["code"].as_str()), (409, Some("LEASE_LOST")), "{}", late.body);
    reply(&o, &second, json!({"data": "alive"})).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.body["reply"]["data"], "alive", "{}", answer.body);
    assert_eq!(world.stored_replies().await.len(), 1);
    world.broker.settled("pool--crew").await;
}

#[tokio::test]
async fn an_ask_that_is_repeated_with_its_id_gets_the_reply_that_is_there_already() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    // An id that is no token of a subject.
    let question = json!({"to": "@helper", "id": "a/b.c", "data": 1, "timeout": "20s"});
    let first = asking(&a, question.clone());
    let delivery = taken.await.unwrap();
    // The caller goes away; nobody waits when the reply comes.
    first.abort();
    let _ = first.await;
    until("nobody waiting", || async {
        let answer = a.post("/v1/ask", &json!({"to": "@helper", "id": question["id"], "timeout": "1ms"})).await;
        if answer.body["code"] == "INVALID_EVENT" { Err(answer.body) } else { Ok(()) }
    })
    .await;
    reply(&h, &delivery, json!({"data": "for whom it concerns"})).await;
    let second = a.post("/v1/ask", &question).await;
    assert_eq!(
        (second.status, &second.body["reply"]["data"]),
        (200, &json!("for whom it concerns")),
        "{}",
        second.body
    );
}

#[tokio::test]
async fn a_rejected_ask_is_told_to_its_asker_at_once() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "timeout": "60s"}));
    let delivery = taken.await.unwrap();
    let said = h.settle(&delivery, "reject", json!({"reason": "not my job"})).await;
    assert_eq!(said.status, 200, "{}", said.body);
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.body["code"].as_str()), (422, Some("REPLY_FAILED")), "{}", answer.body);
    assert!(answer.body["detail"].as_str().unwrap().contains("REJECTED: not my job"), "{}", answer.body);
    world.broker.dead_letters(1).await;
}
