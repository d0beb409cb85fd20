//! Rate, size, bytes per day, deliveries in flight.

use std::time::Duration;

use agentbus_nats::grant::AgentLimits;
use agentbus_proto::sidecar::v1::PublishResponse;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::json;

const PUBLISH: &[&str] = &["note.>"];

async fn publish(sidecar: &SidecarProcess, count: usize, bytes: usize) -> Vec<PublishResponse> {
    let mut client = grpc::client(sidecar).await;
    grpc::publish_all(&mut client, (0..count).map(|_| grpc::event("note.made", "x".repeat(bytes)))).await
}

fn codes(answers: &[PublishResponse]) -> Vec<&str> {
    answers.iter().map(|answer| answer.failure.as_ref().map_or("", |failure| failure.code.as_str())).collect()
}

fn limited(limits: AgentLimits) -> Member<'static> {
    Member { agent: "writer", publish: PUBLISH, limits, ..Member::default() }
}

#[tokio::test]
async fn too_many_events_per_second_are_refused_with_when_to_come_again() {
    let broker = Broker::start().await;
    let limits = AgentLimits { publish_per_second: Some(20.0), ..AgentLimits::default() };
    let sidecar = SidecarProcess::start(&broker, limited(limits)).await;
    let answers = publish(&sidecar, 60, 10).await;
    let codes = codes(&answers);
    let stored = codes.iter().filter(|code| code.is_empty()).count();
    assert!((20..40).contains(&stored) && codes.iter().all(|code| ["", "RATE_LIMITED"].contains(code)), "{codes:?}");
    assert_eq!(codes[..20], [""; 20], "a second's worth at once");
    let refused = answers.iter().find_map(|answer| answer.failure.clone()).unwrap();
    let wait = Duration::try_from(refused.retry_after.unwrap()).unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(broker.count(&broker.names.events()).await, stored as u64);
    assert_eq!(sidecar.metric("agentbus_rate_limited_total").await, (60 - stored) as f64);
    tokio::time::sleep(wait).await;
    let answer = HttpAgent::of(&sidecar).post("/v1/publish", &json!({"to": "note.made"})).await;
    assert_eq!(answer.status, 200, "after retry_after: {}", answer.body);
}

#[tokio::test]
async fn a_day_s_bytes_are_counted_over_restarts_and_refused_until_midnight() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let limits = AgentLimits { stored_bytes_max: Some(100_000), ..AgentLimits::default() };
    let member = || Member { state: folder.path().to_str(), ..limited(limits.clone()) };
    let mut sidecar = SidecarProcess::start(&broker, member()).await;
    let answers = publish(&sidecar, 6, 10_000).await;
    assert_eq!(codes(&answers), [""; 6]);
    assert!(sidecar.drain().await.success());
    let sidecar = SidecarProcess::start(&broker, member()).await;
    let answers = publish(&sidecar, 6, 10_000).await;
    let refused = codes(&answers).iter().filter(|code| **code == "QUOTA").count();
    assert_eq!((refused, broker.count(&broker.names.events()).await), (3, 9));
    let answer =
        HttpAgent::of(&sidecar).post("/v1/publish", &json!({"to": "note.made", "data": "x".repeat(20_000)})).await;
    assert_eq!((answer.status, &answer.body["code"]), (429, &json!("QUOTA")));
    assert!(answer.body["retry_after"].is_string(), "{}", answer.body);
    // What fits is taken all the same.
    assert_eq!(codes(&publish(&sidecar, 1, 100).await), [""]);
}

#[tokio::test]
async fn an_agent_s_own_size_limit_is_below_the_broker_s() {
    let broker = Broker::start().await;
    let limits = AgentLimits { event_bytes_max: Some(2048), ..AgentLimits::default() };
    let sidecar = SidecarProcess::start(&broker, limited(limits)).await;
    assert_eq!(codes(&publish(&sidecar, 1, 1000).await), [""]);
    let answers = publish(&sidecar, 1, 3000).await;
    assert_eq!(codes(&answers), ["TOO_LARGE"]);
    assert!(answers[0].failure.as_ref().unwrap().message.contains("2048"), "{answers:?}");
}

#[tokio::test]
async fn no_more_deliveries_are_out_than_the_agent_may_hold_over_all_groups_and_connections() {
    let broker = Broker::start().await;
    let groups = [broker.group("one", &["note.one"]).await, broker.group("two", &["note.two"]).await];
    let limits = AgentLimits { in_flight_max: Some(3), ..AgentLimits::default() };
    let member = Member { groups: &groups, ..limited(limits) };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let mut client = grpc::client(&sidecar).await;
    let events = (0..6).map(|n| grpc::event(if n % 2 == 0 { "note.one" } else { "note.two" }, n.to_string()));
    grpc::publish_all(&mut client, events).await;
    let (mut first, mut second) = (Stream::open(&mut client, 10).await, Stream::open(&mut client, 10).await);
    let mut held = Vec::new();
    while held.len() < 3 {
        let (stream, delivery) = tokio::select! {
            delivery = first.delivery() => (1, delivery),
            delivery = second.delivery() => (2, delivery),
        };
        held.push((stream, delivery));
    }
    let wait = Duration::from_millis(500);
    assert!(first.quiet(wait).await && second.quiet(wait).await, "the fourth");
    while let Some((stream, delivery)) = held.pop() {
        if stream == 1 { first.ack(&delivery).await } else { second.ack(&delivery).await }
    }
    for _ in 0..3 {
        tokio::select! {
            delivery = first.delivery() => first.ack(&delivery).await,
            delivery = second.delivery() => second.ack(&delivery).await,
        }
    }
    drop((first, second));
    // Nobody acks: it stays with three.
    grpc::publish_all(&mut client, (0..10).map(|n| grpc::event("note.one", n.to_string()))).await;
    let agent = HttpAgent::of(&sidecar);
    let held = agent.receive(10, "1s").await;
    assert_eq!(held.len(), 3);
    assert_eq!(agent.receive(10, "300ms").await.len(), 0);
    agent.ack(&held[0]).await;
    assert_eq!(agent.receive(10, "5s").await.len(), 1);
}
