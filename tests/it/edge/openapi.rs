//! The API's description and the API itself are the same list of routes.

use std::collections::BTreeSet;

use agentbus_tests::http::request;
use serde_json::{Value, json};

use super::Edge;

/// The routes as the router declares them.
const ROUTER: &str = include_str!("../../../sidecar/src/api/http.rs");

/// The paths of the `.route("…", …)` calls, and their method.
pub(super) fn routed() -> BTreeSet<(String, String)> {
    let calls = ROUTER.split(".route(\"").skip(1);
    let read = |call: &str| {
        let (path, rest) = call.split_once('"').expect("a closing quote");
        let method = rest.trim_start_matches(", ").split('(').next().expect("a method");
        (method.to_owned(), path.to_owned())
    };
    calls.map(read).collect()
}

/// The settle verbs share a route and are described one by one.
fn route_of(path: &str) -> String {
    // The id of an event is the rest of the path.
    if ["/v1/events/{id}", "/v1/chains/{id}"].contains(&path) {
        return path.replace("{id}", "{*id}");
    }
    match path.strip_prefix("/v1/deliveries/{delivery_id}/") {
        Some(_) => "/v1/deliveries/{id}/{verb}".to_owned(),
        None => path.to_owned(),
    }
}

async fn document(edge: &Edge) -> Value {
    let auth = [("authorization", format!("Bearer {}", edge.sidecar.token))];
    let answer = request(&edge.sidecar.address(), "GET", "/openapi.json", &auth, "".into()).await.unwrap();
    assert_eq!(answer.status, 200);
    answer.body
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &Value)| {
        let operations = item.as_object().expect("operations").clone();
        operations.into_iter().map(|(method, operation)| (method, path.clone(), operation)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).filter(|(method, ..)| ["get", "post", "put", "delete"].contains(&&**method)).collect()
}

#[tokio::test]
async fn every_described_route_answers_and_every_route_is_described() {
    let edge = Edge::start().await;
    let document = document(&edge).await;
    let described: BTreeSet<_> =
        operations(&document).iter().map(|(method, path, _)| (method.clone(), route_of(path))).collect();
    assert_eq!(described, routed());
    let auth = [("authorization", format!("Bearer {}", edge.sidecar.token))];
    for (method, path, _) in operations(&document) {
        let (method, path) = (method.to_uppercase(), path.replace("{delivery_id}", "x"));
        let body = if path.ends_with("extend") { r#"{"by":"1s"}"# } else { "" };
        let answer = request(&edge.sidecar.address(), &method, &path, &auth, body.into()).await.unwrap();
        let unserved = answer.body["code"] == "NOT_FOUND";
        assert!(!unserved, "{method} {path}: {} {}", answer.status, answer.body);
    }
}

#[tokio::test]
async fn the_description_holds_together() {
    let edge = Edge::start().await;
    let document = document(&edge).await;
    for reference in references(&document) {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for (method, path, operation) in operations(&document) {
        assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{method} {path}");
        assert!(operation["responses"]["200"].is_object(), "{method} {path}");
        let problem = json!({"$ref": "#/components/responses/Problem"});
        assert_eq!(operation["responses"]["default"], problem, "{method} {path}");
    }
    let codes = &document["components"]["schemas"]["Code"]["enum"];
    for code in agentbus_proto::Code::ALL.map(|code| code.as_str()) {
        assert!(codes.as_array().expect("codes").contains(&json!(code)), "{code}");
    }
}

#[tokio::test]
async fn the_described_keys_are_those_that_are_taken() {
    let edge = Edge::start().await;
    let document = document(&edge).await;
    let schema = |name: &str| document["components"]["schemas"][name]["properties"].as_object().unwrap().clone();
    let keys = async |path: &str| {
        let answer = edge.agent.post(path, &json!({"?": 1})).await;
        let detail = answer.body["detail"].as_str().expect("a problem").to_owned();
        // serde lists what it knows: expected one of `a`, `b`
        let known = detail.split("expected").nth(1).expect("a list").split('`').skip(1).step_by(2);
        known.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    for (path, name) in [
        ("/v1/publish", "Publish"),
        ("/v1/ask", "Ask"),
        ("/v1/subscriptions", "Subscription"),
        ("/v1/receive", "Receive"),
        ("/v1/replay", "Replay"),
        ("/v1/deliveries/x/ack", "Ack"),
        ("/v1/deliveries/x/nack", "Nack"),
        ("/v1/deliveries/x/reject", "Reject"),
        ("/v1/deliveries/x/extend", "Extend"),
        ("/v1/deliveries/x/reply", "ReplyWith"),
    ] {
        assert_eq!(keys(path).await, schema(name).keys().cloned().collect(), "{path}");
    }
}

#[tokio::test]
async fn the_described_keys_of_a_message_are_those_that_are_taken() {
    let edge = Edge::start().await;
    let message = &document(&edge).await["components"]["schemas"]["Message"]["properties"];
    let keys = |described: &Value| described["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut whole = json!({});
    for key in message.as_object().unwrap().keys() {
        whole[key] = Value::Null;
    }
    for key in ["message_id", "to_agent", "message_type"] {
        whole[key] = json!("x");
    }
    whole["from_agent"] = json!("somebody");
    for place in ["body", "delivery_options"] {
        whole[place] = json!({});
        for key in keys(&message[place]) {
            whole[place][key] = Value::Null;
        }
    }
    // Every key is known: what is wrong is the sender.
    let answer = edge.agent.post("/v1/messages", &whole).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (403, Some("SCOPE_DENIED")), "{}", answer.body);
    for place in ["", "/body", "/delivery_options"] {
        let mut odd = whole.clone();
        odd.pointer_mut(place).unwrap()["other"] = json!(1);
        let answer = edge.agent.post("/v1/messages", &odd).await;
        assert!(answer.body["detail"].as_str().unwrap().contains("unknown key"), "{place}: {}", answer.body);
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let own = map.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(map.values().flat_map(references)).collect()
        }
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
