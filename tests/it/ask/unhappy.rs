//! What is refused, and how it is said.

use agentbus_proto::Code;
use agentbus_proto::sidecar::v1::{AskRequest, ReplyWith, SettleRequest, settle_request};
use agentbus_tests::grpc;
use agentbus_tests::http::HttpAgent;
use serde_json::{Value, json};

use super::world::{World, asking, listens, reply, taking};

#[tokio::test]
async fn asks_that_cannot_be_are_refused_with_their_reason() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let check = async |agent: &HttpAgent, body: Value, status: u16, code: &str| {
        let answer = agent.post("/v1/ask", &body).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{body}: {}", answer.body);
    };
    check(&a, json!({}), 400, "INVALID_ADDRESS").await;
    check(&a, json!({"to": "@helper", "timeout": "0s"}), 400, "INVALID_EVENT").await;
    check(&a, json!({"to": "@helper", "timeout": "2h"}), 400, "INVALID_EVENT").await;
    check(&a, json!({"to": "@helper", "timeout": "soon"}), 400, "INVALID_EVENT").await;
    check(&a, json!({"to": "@helper", "reply_by": "2026-11-20T10:00:00Z"}), 400, "INVALID_EVENT").await;
    check(&a, json!({"to": "@nobody"}), 400, "INVALID_ADDRESS").await;
    check(&a, json!({"to": "@helper", "id": "a b"}), 400, "INVALID_EVENT").await;
    check(&h, json!({"to": "@asker"}), 403, "SCOPE_DENIED").await;
    let status = grpc::client(&asker).await.ask(AskRequest::default()).await.unwrap_err();
    assert_eq!(agentbus_proto::Fault::from(status).code, Code::InvalidAddress);
    assert_eq!(world.broker.count(&world.broker.names.events()).await, 0);
}

#[tokio::test]
async fn the_same_id_cannot_be_asked_twice_at_once() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let first = asking(&a, json!({"to": "@helper", "id": "q", "timeout": "30s"}));
    let delivery = taken.await.unwrap();
    let second = a.post("/v1/ask", &json!({"to": "@helper", "id": "q", "timeout": "30s"})).await;
    assert_eq!((second.status, second.body["code"].as_str()), (400, Some("INVALID_EVENT")), "{}", second.body);
    reply(&h, &delivery, json!({"data": 1})).await;
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_reply_needs_an_ask_and_must_make_sense() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    a.publish(json!({"to": "@helper", "data": "no question"})).await;
    let plain = h.receive_one("20s").await;
    let said = h.settle(&plain, "reply", json!({"data": 1})).await;
    assert_eq!((said.status, said.body["code"].as_str()), (400, Some("INVALID_EVENT")), "{}", said.body);
    assert!(said.body["detail"].as_str().unwrap().contains("no ask"), "{}", said.body);
    h.ack(&plain).await;

    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "timeout": "30s"}));
    let delivery = taken.await.unwrap();
    let check = async |body: Value, status: u16, code: &str| {
        let said = h.settle(&delivery, "reply", body.clone()).await;
        assert_eq!((said.status, said.body["code"].as_str()), (status, Some(code)), "{body}: {}", said.body);
    };
    check(json!({"error_message": "why"}), 400, "INVALID_EVENT").await;
    check(json!({"error_code": "a b"}), 400, "INVALID_EVENT").await;
    check(json!({"error_code": "X", "more": true}), 400, "INVALID_EVENT").await;
    check(json!({"data": 1, "content_type": "no type"}), 400, "INVALID_EVENT").await;
    check(json!({"data": 1, "index": 7}), 400, "INVALID_EVENT").await;
    check(json!({"to": "@asker"}), 400, "INVALID_EVENT").await;
    check(json!({"data": "x".repeat(1024 * 1024)}), 413, "TOO_LARGE").await;
    assert_eq!(world.stored_replies().await.len(), 0, "none of them was stored, and the delivery is still held");
    let failed = reply(&h, &delivery, json!({"error_code": "NO_SUCH_FILE", "error_message": "a.txt"})).await;
    assert!(failed["emitted"][0]["id"].is_string(), "{failed}");
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.body["code"].as_str()), (422, Some("REPLY_FAILED")), "{}", answer.body);
    let info = &answer.body["reply"]["reply"];
    assert_eq!((&info["error_code"], &info["error_message"]), (&json!("NO_SUCH_FILE"), &json!("a.txt")));
    world.broker.settled("helper--inbox").await;
}

#[tokio::test]
async fn a_failed_reply_is_an_event_and_a_status_over_grpc() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (mut client, mut serving) = (grpc::client(&asker).await, grpc::client(&helper).await);
    let mut stream = grpc::Stream::open(&mut serving, 1).await;
    listens(&world, "helper--inbox").await;
    let request = AskRequest { event: Some(grpc::event("@helper", "x")), timeout: None };
    let mut replies = client.ask(request).await.unwrap().into_inner();
    let delivery = stream.delivery().await;
    let how = ReplyWith { error_code: "NO".into(), error_message: "never".into(), ..ReplyWith::default() };
    let how = Some(settle_request::How::Reply(how));
    let settle = SettleRequest { delivery_id: delivery.delivery_id, emit: vec![], how };
    grpc::client(&helper).await.settle(settle).await.unwrap();
    let last = replies.message().await.unwrap().unwrap();
    assert!(last.r#final && last.reply.unwrap().reply.unwrap().error_code == "NO");
    let fault = agentbus_proto::Fault::from(replies.message().await.unwrap_err());
    assert_eq!(fault.code, Code::ReplyFailed);
    assert!(fault.message.contains("`@helper` replied NO: never"), "{fault}");
}

#[tokio::test]
async fn an_asker_that_leaves_leaves_nothing_behind() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let mut client = grpc::client(&asker).await;
    let mut event = grpc::event("@helper", "x");
    event.id = "q".into();
    let replies = client.ask(AskRequest { event: Some(event), timeout: None }).await.unwrap();
    let delivery = taken.await.unwrap();
    drop(replies);
    // Its place is free again: the same id may be asked once more, and is the same event.
    let again = agentbus_tests::wait::until("a free place", || async {
        let answer = a.post("/v1/ask", &json!({"to": "@helper", "id": "q", "timeout": "50ms"})).await;
        if answer.status == 504 { Ok(answer) } else { Err(answer.body) }
    })
    .await;
    assert_eq!(again.body["code"], "REPLY_TIMEOUT");
    reply(&h, &delivery, json!({})).await;
    world.broker.settled("helper--inbox").await;
}
