//! Settling over HTTP: each verb, repeated, out of order, and with ids that are none.

use agentbus_tests::http::{Answer, HttpAgent};
use agentbus_tests::{Broker, Member, SidecarProcess};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::Edge;

fn code(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body["code"].as_str().unwrap_or_default())
}

impl Edge {
    async fn delivery(&self) -> Value {
        self.agent.publish(json!({"to": "notes.created", "data": "x"})).await;
        self.agent.receive_one("20s").await
    }
}

#[tokio::test]
async fn a_repeated_settle_gets_the_same_answer_and_another_verb_409() {
    let edge = Edge::start().await;
    for (verb, others) in [("ack", ["nack", "reject", "extend"]), ("reject", ["ack", "extend", "ack"])] {
        let delivery = edge.delivery().await;
        let wanted = json!({"delivery_id": delivery["delivery_id"]});
        for _ in 0..3 {
            let answer = edge.agent.settle(&delivery, verb, json!({})).await;
            assert_eq!((answer.status, &answer.body), (200, &wanted), "{verb}");
        }
        for other in others {
            let body = if other == "extend" { json!({"by": "10s"}) } else { json!({}) };
            let answer = edge.agent.settle(&delivery, other, body).await;
            assert_eq!(code(&answer), (409, "LEASE_LOST"), "{other} after {verb}");
        }
    }
    assert_eq!(edge.broker.count(&edge.broker.names.dead_letters()).await, 1);
}

#[tokio::test]
async fn a_nack_brings_it_again_with_its_reason() {
    let edge = Edge::start().await;
    let first = edge.delivery().await;
    for _ in 0..2 {
        let answer = edge.agent.settle(&first, "nack", json!({"reason": "not yet", "retry_after": "50ms"})).await;
        assert_eq!((answer.status, answer.body), (200, json!({"delivery_id": first["delivery_id"]})));
    }
    assert_eq!(code(&edge.agent.settle(&first, "ack", json!({})).await), (409, "LEASE_LOST"));
    let second = edge.agent.receive_one("20s").await;
    assert_eq!((&second["attempt"], &second["last_failure"]), (&json!(2), &json!("not yet")));
    assert_eq!(second["event"], first["event"]);
    assert_eq!(edge.agent.receive(1, "200ms").await.len(), 0, "the repeated nack made no second copy");
}

#[tokio::test]
async fn extending_moves_the_deadline() {
    let edge = Edge::start().await;
    let delivery = edge.delivery().await;
    let answer = edge.agent.settle(&delivery, "extend", json!({"by": "10m"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body["deadline"].as_str().unwrap() > delivery["deadline"].as_str().unwrap(), "{}", answer.body);
    let answer = edge.agent.settle(&delivery, "extend", json!({})).await;
    assert_eq!(code(&answer), (400, "INVALID_EVENT"));
    assert!(answer.body["detail"].as_str().unwrap().contains("missing field `by`"), "{}", answer.body);
    edge.agent.ack(&delivery).await;
}

#[tokio::test]
async fn an_ack_may_carry_the_outputs() {
    let edge = Edge::start().await;
    let delivery = edge.delivery().await;
    let emit = json!({"emit": [{"to": "notes.a", "data": 1}, {"to": "notes.b", "id": "mine", "data": 2}]});
    let answer = edge.agent.settle(&delivery, "ack", emit).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let emitted = answer.body["emitted"].as_array().unwrap();
    let seqs: Vec<_> = emitted.iter().map(|one| (&one["stored"], &one["seq"])).collect();
    assert_eq!(seqs, [(&json!("broker"), &json!(2)), (&json!("broker"), &json!(3))]);
    assert_eq!(emitted[1]["id"], "mine");
    let child = edge.agent.receive_one("20s").await;
    assert_eq!(child["event"]["causation_id"], delivery["event"]["id"]);
    assert_eq!(child["event"]["correlation_id"], delivery["event"]["correlation_id"]);
    assert_eq!(child["event"]["hops"], 1);
}

#[tokio::test]
async fn a_bad_output_settles_nothing() {
    let edge = Edge::start().await;
    let delivery = edge.delivery().await;
    for (emit, status, wanted) in [
        (json!([{"to": "elsewhere"}]), 403, "elsewhere"),
        (json!([{"to": "notes.a"}, {"to": "a b"}]), 400, "emit[1]"),
        (json!([{"to": "notes.a", "ttl": "1h"}]), 400, "emit[0]: `ttl`"),
        (json!([{"prio": 1}]), 400, "unknown field `prio`"),
    ] {
        let answer = edge.agent.settle(&delivery, "ack", json!({"emit": emit})).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(wanted), "{}", answer.body);
    }
    edge.agent.ack(&delivery).await;
}

#[tokio::test]
async fn ids_that_are_none_are_404() {
    let edge = Edge::start().await;
    let delivery = edge.delivery().await;
    let id = delivery["delivery_id"].as_str().unwrap();
    let forged = format!("{}{}", if id.starts_with('A') { "B" } else { "A" }, &id[1..]);
    for id in ["x", "%00", &forged, &"A".repeat(4000)] {
        for verb in ["ack", "nack", "reject"] {
            let answer = edge.agent.post(&format!("/v1/deliveries/{id}/{verb}"), &json!({})).await;
            assert_eq!(code(&answer), (404, "UNKNOWN_DELIVERY"), "{id} {verb}");
        }
    }
    let answer = edge.agent.settle(&delivery, "forget", json!({})).await;
    assert_eq!(code(&answer), (404, "NOT_FOUND"));
    assert!(answer.body["detail"].as_str().unwrap().contains("use ack, nack, reject, extend or reply"));
    edge.agent.ack(&delivery).await;
}

/// The delivery id that `id` would be with this key: the seal in front, what it seals behind.
fn sealed_with(key: &str, id: &str) -> String {
    let bytes = B64.decode(id).unwrap();
    let body = &bytes[16..];
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(body);
    B64.encode([&mac.finalize().into_bytes()[..16], body].concat())
}

#[tokio::test]
async fn an_agent_cannot_make_a_delivery_id_and_its_own_outlive_the_sidecar() {
    let broker = Broker::start().await;
    let groups = [broker.group("reader", &["notes.>"]).await];
    let member = || Member { agent: "writer", groups: &groups, publish: &["notes.>"], ..Member::default() };
    let mut sidecar = SidecarProcess::start(&broker, member()).await;
    let agent = HttpAgent::of(&sidecar);
    agent.publish(json!({"to": "notes.created"})).await;
    let delivery = agent.receive_one("20s").await;
    sidecar.child.kill().await.unwrap();

    let next = SidecarProcess::start(&broker, Member { token: "another", ..member() }).await;
    let agent = HttpAgent::of(&next);
    let id = delivery["delivery_id"].as_str().unwrap();
    for known in ["", "another", "token-of-writer", "writer"] {
        for key in [known.to_owned(), format!("delivery:{known}"), format!("delivery:writer:{known}")] {
            let made = sealed_with(&key, id);
            let answer = agent.post(&format!("/v1/deliveries/{made}/ack"), &json!({})).await;
            assert_eq!(code(&answer), (404, "UNKNOWN_DELIVERY"), "sealed with {key}");
        }
    }
    agent.ack(&delivery).await;
}
