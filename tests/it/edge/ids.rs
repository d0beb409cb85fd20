//! Event ids: repeating one stores nothing, and nobody can take another agent's.

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Member, SidecarProcess, grpc};
use prost::Message;
use serde_json::json;

use super::Edge;

#[tokio::test]
async fn the_same_id_twice_is_stored_once() {
    let edge = Edge::start().await;
    let first = edge.agent.publish(json!({"to": "notes.a", "id": "n-1", "data": 1})).await;
    let again = edge.agent.publish(json!({"to": "notes.a", "id": "n-1", "data": 1})).await;
    let elsewhere = edge.agent.publish(json!({"to": "notes.b", "id": "n-1", "data": 2})).await;
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!((&again["seq"], &elsewhere["duplicate"]), (&first["seq"], &json!(true)));
    let event = Some(Event { id: "n-1".into(), ..grpc::event("notes.a", "1") });
    let mut client = grpc::client(&edge.sidecar).await;
    let stored = client.publish(PublishRequest { event, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((stored.duplicate, stored.seq, stored.id.as_str()), (Some(true), Some(1), "n-1"));
    assert_eq!(edge.stored().await, 1);
}

#[tokio::test]
async fn two_agents_with_the_same_id_do_not_swallow_each_other() {
    let edge = Edge::start().await;
    let member = Member { agent: "other", publish: &["notes.>"], ..Member::default() };
    let sidecar = SidecarProcess::start(&edge.broker, member).await;
    let event = json!({"to": "notes.a", "id": "n-1"});
    for agent in [&edge.agent, &HttpAgent::of(&sidecar)] {
        assert_eq!(agent.publish(event.clone()).await["duplicate"], false);
    }
    assert_eq!(edge.stored().await, 2);
}

#[tokio::test]
async fn the_source_is_whoever_holds_the_sidecar() {
    let edge = Edge::start().await;
    let event = Some(Event { source: "admin".into(), ..grpc::event("notes.a", "x") });
    let mut client = grpc::client(&edge.sidecar).await;
    client.publish(PublishRequest { event, ..Default::default() }).await.unwrap();
    let stored = edge.broker.message(&edge.broker.names.events(), 1).await;
    assert!(stored.subject.starts_with("ab.default.n.writer.topic."), "{}", stored.subject);
    assert_eq!(Event::decode(stored.payload).unwrap().source, "writer");
    assert_eq!(edge.agent.receive_one("20s").await["event"]["source"], "writer");
}
