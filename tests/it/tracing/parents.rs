//! An agent's own trace context, by HTTP and by gRPC, becomes the parent.

use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_tests::collector::Collector;
use agentbus_tests::http::request;
use agentbus_tests::{Broker, grpc};
use serde_json::json;
use tonic::Request;

use super::Traced;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn an_agents_own_span_becomes_the_parent() {
    let (broker, collector) = (Broker::start().await, Collector::start().await);
    let groups = [broker.group("a", &["notes.>"]).await];
    let sidecar = Traced::start(&broker, "a", &groups, Some(&collector.url), &[]).await;
    let own = format!("00-{TRACE}-{SPAN}-01");
    let token = format!("Bearer {}", sidecar.agent.token);

    let headers = [("authorization", token.clone()), ("traceparent", own.clone())];
    let body = json!({"to": "notes.http", "id": "h"}).to_string().into();
    let answer = request(&sidecar.agent.address, "POST", "/v1/publish", &headers, body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);

    let mut client = SidecarClient::connect(format!("http://{}", sidecar.agent.address)).await.unwrap();
    let event = |to| PublishRequest { event: Some(grpc::event(to, "x")), ..PublishRequest::default() };
    let mut unary = Request::new(event("notes.grpc"));
    let mut stream = Request::new(tokio_stream::iter([event("notes.stream")]));
    for metadata in [unary.metadata_mut(), stream.metadata_mut()] {
        metadata.insert("authorization", token.parse().expect("ascii"));
        metadata.insert("traceparent", own.parse().expect("ascii"));
    }
    client.publish(unary).await.unwrap();
    client.publish_stream(stream).await.unwrap().into_inner().message().await.unwrap();
    let delivery = sidecar.agent.receive_one("20s").await;
    assert!(delivery["traceparent"].as_str().unwrap().contains(TRACE), "{delivery}");
    drop(client);
    sidecar.end().await;

    let spans = collector.spans();
    let published: Vec<_> = spans.iter().filter(|span| span.name.starts_with("publish ")).collect();
    assert_eq!(published.len(), 3);
    for span in &published {
        assert_eq!((span.trace.as_str(), span.parent.as_str()), (TRACE, SPAN), "{}", span.name);
    }
    assert!(spans.iter().all(|span| span.trace == TRACE), "what follows is in the same trace");
}

#[tokio::test]
async fn a_failed_publish_is_a_failed_span_with_the_code() {
    let (broker, collector) = (Broker::start().await, Collector::start().await);
    let sidecar = Traced::start(&broker, "a", &[], Some(&collector.url), &[]).await;
    broker.context.delete_stream(broker.names.events()).await.unwrap();
    let answer = sidecar.agent.post("/v1/publish", &json!({"to": "notes.a"})).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (503, Some("BROKER_DOWN")), "{}", answer.body);
    sidecar.end().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 1);
    assert!(spans[0].failed && spans[0].attr("error.type") == "BROKER_DOWN", "{:?}", spans[0]);
}
