//! An ask and its answer, over HTTP and gRPC; who may answer; nobody there; the deadline.

use std::time::{Duration, Instant};

use agentbus_proto::sidecar::v1::AskRequest;
use agentbus_tests::grpc;
use agentbus_tests::http::HttpAgent;
use serde_json::json;

use super::world::{Echo, World, asking, listens, next_ask, reply, taking};

#[tokio::test]
async fn an_ask_is_answered_by_the_agent_by_a_pool_and_by_a_topic() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let _echo = Echo::start(&world, &h, "helper--inbox").await;
    for to in ["@helper", "@crew", "work.asked"] {
        let question = json!({"to": to, "data": to, "id": format!("ask-{}", &to[1..]), "timeout": "20s"});
        let answer = a.post("/v1/ask", &question).await;
        assert_eq!((answer.status, &answer.body["final"]), (200, &json!(true)), "{to}: {}", answer.body);
        let event = &answer.body["reply"];
        assert_eq!(event["data"], json!({"echo": to}), "{event}");
        let asked = format!("ask-{}", &to[1..]);
        assert_eq!(
            (&event["source"], &event["to"], &event["type"]),
            (&json!("helper"), &json!("@asker"), &json!("reply"))
        );
        assert_eq!((&event["causation_id"], &event["correlation_id"]), (&json!(asked), &json!(asked)), "{event}");
        assert_eq!((&event["hops"], &event["reply"]["request_id"]), (&json!(1), &json!(asked)), "{event}");
    }
    // Kept like any event, and nobody else's: no group has anything left.
    assert_eq!(world.stored_replies().await.len(), 3);
    for group in ["helper--inbox", "pool--crew"] {
        world.broker.settled(group).await;
    }
    assert_eq!(world.broker.state("asker--inbox").await.lag, 0, "a reply is no event to its agent's address");
}

#[tokio::test]
async fn grpc_streams_the_reply_and_ends() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let _echo = Echo::start(&world, &HttpAgent::of(&helper), "helper--inbox").await;
    let mut client = grpc::client(&asker).await;
    let request = AskRequest { event: Some(grpc::event("@helper", "hello")), timeout: None };
    let mut replies = client.ask(request).await.unwrap().into_inner();
    let first = replies.message().await.unwrap().unwrap();
    let event = first.reply.unwrap();
    assert!(first.r#final && event.reply.as_ref().unwrap().r#final);
    assert_eq!((event.source.as_str(), event.data.as_ref()), ("helper", &br#"{"echo":"hello"}"#[..]));
    assert!(replies.message().await.unwrap().is_none(), "the end");
}

#[tokio::test]
async fn nobody_serves_is_said_at_once_and_nothing_is_stored() {
    let world = World::start().await;
    let asker = world.sidecar("asker").await;
    let a = HttpAgent::of(&asker);
    // The first call may have to find its feet.
    a.post("/v1/ask", &json!({"to": "@helper"})).await;
    for to in ["@helper", "@crew", "work.asked", "work.unread.by.anybody"] {
        let began = Instant::now();
        let answer = a.post("/v1/ask", &json!({"to": to, "timeout": "30s"})).await;
        let took = began.elapsed();
        assert_eq!((answer.status, answer.body["code"].as_str()), (404, Some("NO_RESPONDER")), "{to}: {}", answer.body);
        assert!(took < Duration::from_millis(200), "{to}: {took:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(to), "{}", answer.body);
    }
    assert_eq!(world.broker.count(&world.broker.names.events()).await, 0);
}

#[tokio::test]
async fn without_a_control_plane_an_ask_goes_on() {
    let world = World::headless().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let answer = asking(&a, json!({"to": "@helper", "data": 1, "timeout": "20s"}));
    let delivery = next_ask(&h).await;
    reply(&h, &delivery, json!({"data": 2})).await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, &answer.body["reply"]["data"]), (200, &json!(2)), "{}", answer.body);
}

#[tokio::test]
async fn the_deadline_ends_the_ask_for_both_sides() {
    let world = World::start().await;
    let (asker, helper) = (world.sidecar("asker").await, world.sidecar("helper").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let waiting = tokio::spawn({
        let h = h.clone();
        async move { next_ask(&h).await }
    });
    listens(&world, "helper--inbox").await;
    let began = Instant::now();
    let answer = a.post("/v1/ask", &json!({"to": "@helper", "timeout": "700ms"})).await;
    let took = began.elapsed();
    assert_eq!((answer.status, answer.body["code"].as_str()), (504, Some("REPLY_TIMEOUT")), "{}", answer.body);
    assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(5), "{took:?}");
    // The helper took it in time and is late with its answer.
    let late = h.settle(&waiting.await.unwrap(), "reply", json!({"data": 1})).await;
    assert_eq!((late.status, late.body["code"].as_str()), (410, Some("EXPIRED")), "{}", late.body);
    assert_eq!(world.stored_replies().await.len(), 0);
    // Nobody works on an ask that is over, unless it was to be done in any case.
    for (body, given) in [(json!({"id": "over"}), false), (json!({"id": "kept", "ttl": "1h"}), true)] {
        let mut body = body;
        body["to"] = json!("@helper");
        body["timeout"] = json!("300ms");
        // Somebody was there a moment ago: it is not asked about again.
        let answer = a.post("/v1/ask", &body).await;
        assert!([404, 504].contains(&answer.status), "{}", answer.body);
        if answer.status == 504 {
            let come = h.receive(1, "2s").await;
            assert_eq!(come.first().is_some_and(|one| one["event"]["id"] == body["id"]), given, "{come:?}");
        }
    }
}

#[tokio::test]
async fn only_who_was_asked_is_heard() {
    let world = World::start().await;
    let (asker, helper, other) =
        (world.sidecar("asker").await, world.sidecar("helper").await, world.sidecar("other").await);
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "id": "q", "timeout": "20s"}));
    let delivery = taken.await.unwrap();
    // Another agent knows the id and may write replies, in its own name only.
    let info = agentbus_proto::event::v1::ReplyInfo { request_id: "q".into(), r#final: true, ..Default::default() };
    for source in ["other", "helper"] {
        let event = agentbus_proto::event::v1::Event {
            id: "forged".into(),
            source: source.into(),
            reply: Some(info.clone()),
            ..Default::default()
        };
        let subject = agentbus_nats::subject::reply("default", "other", "asker", "q");
        world.broker.store(&subject, prost::Message::encode_to_vec(&event)).await;
    }
    reply(&h, &delivery, json!({"data": "mine"})).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.body["reply"]["data"], "mine", "{}", answer.body);
    drop(other);
}

#[tokio::test]
async fn an_agent_that_polls_for_many_answers_as_soon_as_one_that_polls_for_one() {
    let world = World::start().await;
    let (asker, helper, other) =
        (world.sidecar("asker").await, world.sidecar("helper").await, world.sidecar("other").await);
    let a = HttpAgent::of(&asker);
    let _many = Echo::start_with(&world, &HttpAgent::of(&helper), "helper--inbox", 10).await;
    let _one = Echo::start_with(&world, &HttpAgent::of(&other), "other--inbox", 1).await;
    let mut took = [Vec::new(), Vec::new()];
    // In turns, so that both meet the same load.
    for _ in 0..40 {
        for (to, took) in ["@helper", "@other"].into_iter().zip(&mut took) {
            let began = Instant::now();
            let answer = a.post("/v1/ask", &json!({"to": to, "data": 1, "timeout": "20s"})).await;
            took.push(began.elapsed());
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }
    let [many, one] = took.map(|mut took| {
        took.sort();
        took[took.len() / 2]
    });
    assert!(many < one + Duration::from_millis(3), "{many:?} where ten are polled for, {one:?} where one is");
}
