//! Nothing that an agent sends becomes a header of the broker's that it could steer with.

use std::collections::BTreeMap;

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::{Code, Fault};
use agentbus_tests::grpc;
use agentbus_tests::http::request;
use serde_json::json;
use tonic::Request;

use super::Edge;

/// Header names that would do harm on the broker or to other sidecars.
const HARMFUL: [&str; 6] =
    ["Nats-Rollup", "Nats-Msg-Id", "Nats-Expected-Last-Sequence", "Nats-TTL", "Ab-Group", "Ab-Attempt"];

/// What a plain event's message carries, and nothing else.
const OURS: [&str; 5] = ["Ab-Correlation", "Ab-Type", "Content-Type", "Nats-Msg-Id", "traceparent"];

impl Edge {
    /// The headers of a stored event.
    async fn headers(&self, seq: u64) -> BTreeMap<String, String> {
        let message = self.broker.message(&self.broker.names.events(), seq).await;
        let all = message.headers.iter();
        all.flat_map(|(name, values)| values.iter().map(move |v| (name.to_string(), v.to_string()))).collect()
    }
}

#[tokio::test]
async fn headers_of_a_request_and_attributes_stay_outside() {
    let edge = Edge::start().await;
    let mut headers: Vec<(&str, String)> = HARMFUL.iter().map(|name| (*name, "all".to_owned())).collect();
    headers.push(("authorization", format!("Bearer {}", edge.sidecar.token)));
    let attributes = json!({"Nats-Rollup": "all", "x\r\nNats-Rollup": "all", "y": "1\r\nNats-Rollup: all"});
    let body = json!({"to": "notes.a", "id": "n-1", "data": 1, "attributes": attributes});
    let body = body.to_string().into();
    let answer = request(&edge.sidecar.address(), "POST", "/v1/publish", &headers, body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);

    let event = Some(Event { content_type: "text/plain".into(), ..grpc::event("notes.a", "x") });
    let mut call = Request::new(PublishRequest { event, ..Default::default() });
    for name in ["nats-rollup", "nats-msg-id", "ab-group"] {
        call.metadata_mut().insert(name, "all".parse().unwrap());
    }
    grpc::client(&edge.sidecar).await.publish(call).await.unwrap();
    for seq in [1, 2] {
        let headers = edge.headers(seq).await;
        assert_eq!(headers.keys().collect::<Vec<_>>(), OURS, "{headers:?}");
    }
    // Behind it comes a tag that nobody else can make.
    assert!(edge.headers(1).await["Nats-Msg-Id"].starts_with("writer/n-1/"));
    assert_eq!(edge.agent.receive_one("20s").await["event"]["attributes"], attributes);
}

#[tokio::test]
async fn values_that_become_headers_take_no_line_break() {
    let edge = Edge::start().await;
    let mut client = grpc::client(&edge.sidecar).await;
    const SMUGGLED: &str = "a\r\nNats-Rollup: all";
    let good = || grpc::event("notes.a", "x");
    for event in [
        Event { id: SMUGGLED.into(), ..good() },
        Event { correlation_id: SMUGGLED.into(), ..good() },
        Event { content_type: format!("text/{SMUGGLED}"), ..good() },
        Event { content_type: "text/plain; x=\nNats-Rollup: all".into(), ..good() },
        Event { r#type: SMUGGLED.into(), ..good() },
        Event { id: "a\nb".into(), ..good() },
    ] {
        let request = PublishRequest { event: Some(event.clone()), ..Default::default() };
        let fault = Fault::from(client.publish(request).await.unwrap_err());
        assert_eq!(fault.code, Code::InvalidEvent, "{event:?}");
    }
    for key in ["id", "correlation_id", "content_type", "type"] {
        let mut event = json!({"to": "notes.a", "data": "x"});
        event[key] = json!(SMUGGLED);
        assert_eq!(edge.agent.post("/v1/publish", &event).await.status, 400, "{key}");
    }
    assert_eq!(edge.stored().await, 0);
}

#[tokio::test]
async fn a_trace_context_is_passed_on_and_nonsense_is_not() {
    let edge = Edge::start().await;
    let auth = ("authorization", format!("Bearer {}", edge.sidecar.token));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let long = format!("vendor={}", "x".repeat(2000));
    let publish = async |traceparent: &str, tracestate: &str| {
        let headers = [auth.clone(), ("traceparent", traceparent.to_owned()), ("tracestate", tracestate.to_owned())];
        let body = r#"{"to":"notes.a","data":1}"#.into();
        let answer = request(&edge.sidecar.address(), "POST", "/v1/publish", &headers, body).await.unwrap();
        edge.headers(answer.body["seq"].as_u64().expect("stored")).await
    };
    let headers = publish(trace, "vendor=1").await;
    assert_eq!((headers["traceparent"].as_str(), headers["tracestate"].as_str()), (trace, "vendor=1"));
    assert!(publish(trace, &long).await["tracestate"].len() <= 512);
    let nonsense = publish("nonsense", "vendor=1").await;
    assert_eq!(nonsense.keys().collect::<Vec<_>>(), OURS);
    assert_eq!(nonsense["traceparent"].len(), trace.len());
}
