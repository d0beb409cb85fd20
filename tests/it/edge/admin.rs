//! The admin listener: probes, metrics, drain.

use agentbus_tests::Member;
use agentbus_tests::http::{Answer, request};
use agentbus_tests::wait::{PATIENCE, until};
use serde_json::json;

use super::Edge;

impl Edge {
    pub(super) async fn admin(&self, method: &str, path: &str, headers: &[(&str, String)]) -> Answer {
        let address = self.sidecar.admin.trim_start_matches("http://");
        request(address, method, path, headers, "".into()).await.expect("an answer")
    }
}

#[tokio::test]
async fn readiness_follows_the_broker_and_liveness_does_not() {
    let mut edge = Edge::start().await;
    let ready = edge.admin("GET", "/readyz", &[]).await;
    assert_eq!((ready.status, ready.body), (200, json!({"ready": true, "parts": {"api": "ok", "broker": "ok"}})));
    edge.broker.server.kill9().await.unwrap();
    let unready = until("unready", || async {
        let answer = edge.admin("GET", "/readyz", &[]).await;
        if answer.status == 503 { Ok(answer.body) } else { Err(answer) }
    });
    let unready = unready.await;
    assert_eq!((&unready["ready"], &unready["parts"]["api"]), (&json!(false), &json!("ok")));
    assert!(unready["parts"]["broker"].as_str().unwrap().contains("broker"), "{unready}");
    assert_eq!(edge.admin("GET", "/livez", &[]).await.status, 200);
    edge.broker.server.restart().await.unwrap();
    until("ready", || async {
        let answer = edge.admin("GET", "/readyz", &[]).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}

/// What a sidecar measures of the names in the contract.
const NAMES: [&str; 9] = [
    "agentbus_published_total{outcome=\"stored\"} 2",
    "agentbus_published_total{outcome=\"SCOPE_DENIED\"} 1",
    "agentbus_publish_seconds_count 2",
    "agentbus_deliveries_total{group=\"reader\",outcome=\"acked\"} 1",
    "agentbus_queue_wait_seconds_count 2",
    "agentbus_process_seconds_count 2",
    "agentbus_dead_letters_total{group=\"reader\",class=\"REJECTED\"} 1",
    "agentbus_in_flight 0",
    "agentbus_broker_connected 1",
];

#[tokio::test]
async fn metrics_have_the_names_of_the_contract_and_no_topic() {
    let edge = Edge::start().await;
    for verb in ["ack", "reject"] {
        edge.agent.publish(json!({"to": "notes.secret-topic", "type": "secret-type", "id": verb})).await;
        let delivery = edge.agent.receive_one("20s").await;
        assert_eq!(edge.agent.settle(&delivery, verb, json!({})).await.status, 200);
    }
    edge.agent.post("/v1/publish", &json!({"to": "secret-elsewhere"})).await;
    let text = until("metrics", || async {
        let text = edge.admin("GET", "/metrics", &[]).await.body.as_str().unwrap_or_default().to_owned();
        if NAMES.iter().all(|name| text.contains(name)) { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(!text.contains("secret"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn nobody_drains_where_no_token_was_set_for_it_and_no_name_leads_in() {
    let edge = Edge::start().await;
    for token in ["", &edge.sidecar.token] {
        let headers = [("authorization", format!("Bearer {token}"))];
        assert_eq!(edge.admin("POST", "/drain", &headers).await.status, 404);
    }
    let rebound = [("host", "evil.example".to_owned())];
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(edge.admin("GET", path, &rebound).await.status, 403, "{path}");
        // What a kubelet and Prometheus use: a pod's address.
        assert_eq!(edge.admin("GET", path, &[("host", "10.1.2.3:9090".to_owned())]).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_drain_by_the_admin_listener_ends_the_process_with_0() {
    let mut edge = Edge::start_as(Member { admin_token: Some("drain"), ..Member::default() }).await;
    edge.agent.publish(json!({"to": "notes.a"})).await;
    let delivery = edge.agent.receive_one("20s").await;
    let token = ("authorization", "Bearer drain".to_owned());
    let page = [token.clone(), ("origin", "http://evil.example".to_owned())];
    assert_eq!(edge.admin("POST", "/drain", &page).await.status, 403, "no web page may do that");
    assert_eq!(edge.admin("POST", "/drain", &[]).await.status, 401);
    assert_eq!(edge.admin("GET", "/drain", &[]).await.status, 405);
    assert_eq!(edge.admin("POST", "/drain", &[token]).await.status, 202);
    until("draining", || async {
        let answer = edge.agent.post("/v1/receive", &json!({"wait": "0s"})).await;
        if (answer.status, &answer.body["code"]) == (503, &json!("DRAINING")) { Ok(()) } else { Err(answer) }
    })
    .await;
    edge.agent.ack(&delivery).await;
    let ended = tokio::time::timeout(PATIENCE, edge.sidecar.child.wait()).await.expect("ends in time").unwrap();
    assert_eq!(ended.code(), Some(0));
}
