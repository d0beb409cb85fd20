//! An outage as an agent sees it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use agentbus_proto::sidecar::v1::Stored;
use agentbus_tests::grpc;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use agentbus_tests::{Member, SidecarProcess};
use serde_json::json;

use super::world::{World, ids, note, notes, publish, spooled};

#[tokio::test]
async fn events_wait_on_disk_and_are_stored_in_their_order() {
    let mut world = World::start().await;
    let sidecar = world.sidecar().await;
    let mut client = grpc::client(&sidecar).await;
    publish(&mut client, vec![note("before")], Stored::Broker).await;
    world.broker.server.kill9().await.unwrap();
    let since = Instant::now();
    publish(&mut client, vec![note("first")], Stored::Spool).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    let answer = HttpAgent::of(&sidecar).post("/v1/publish", &json!({"to": "note.made", "id": "http"})).await;
    assert_eq!((answer.status, &answer.body), (202, &json!({"id": "http", "stored": "spool"})));
    publish(&mut client, notes("n", 300), Stored::Spool).await;
    assert_eq!(sidecar.metric("agentbus_spool_events").await, 302.0);
    assert!(sidecar.metric("agentbus_spool_bytes").await > 302.0 * 50.0);
    assert_eq!(sidecar.metric(r#"agentbus_published_total{outcome="spooled"}"#).await, 302.0);
    world.broker.server.restart().await.unwrap();
    spooled(&sidecar, 0.0).await;
    publish(&mut client, vec![note("after")], Stored::Broker).await;
    let (counts, order) = world.stored().await;
    let expected: Vec<String> = ["before", "first", "http"]
        .map(String::from)
        .into_iter()
        .chain(ids(&notes("n", 300)))
        .chain(["after".into()])
        .collect();
    assert_eq!(order, expected);
    assert!(counts.values().all(|count| *count == 1));
    assert_eq!(sidecar.metric("agentbus_spool_bytes").await, 0.0, "the room is free again");
}

#[tokio::test]
async fn what_is_published_while_the_spool_is_sent_goes_behind_it() {
    let mut world = World::start().await;
    let sidecar = world.sidecar().await;
    let mut client = grpc::client(&sidecar).await;
    world.broker.server.kill9().await.unwrap();
    publish(&mut client, notes("a", 2000), Stored::Spool).await;
    world.broker.server.restart().await.unwrap();
    let events = notes("b", 2000);
    let answers = grpc::publish_all(&mut client, events).await;
    assert!(answers.iter().all(|answer| answer.failure.is_none()));
    spooled(&sidecar, 0.0).await;
    let (counts, order) = world.stored().await;
    let expected: Vec<String> = ids(&notes("a", 2000)).into_iter().chain(ids(&notes("b", 2000))).collect();
    assert!(order == expected && counts.values().all(|count| *count == 1));
}

/// The promise: the broker is away for longer than it remembers ids, the sidecar is killed meanwhile. Every id that was
/// accepted is stored, and twice only those whose first send was never answered.
#[tokio::test]
async fn an_outage_longer_than_the_dedupe_window_loses_nothing_and_doubles_only_what_had_no_answer() {
    let mut world = World::start().await;
    const WINDOW: Duration = Duration::from_secs(2);
    world.dedupe_window(WINDOW).await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let mut sidecar = SidecarProcess::start(&world.broker, Member { server: Some(&address), ..world.member() }).await;
    let mut client = grpc::client(&sidecar).await;
    publish(&mut client, notes("answered", 200), Stored::Broker).await;
    // The broker stores these, and its answers are lost.
    proxy.deafen(true);
    let unanswered = tokio::spawn({
        let mut client = client.clone();
        async move { publish(&mut client, notes("unanswered", 50), Stored::Spool).await }
    });
    until("stored", || async {
        let count = world.broker.count(&world.broker.names.events()).await;
        if count == 250 { Ok(()) } else { Err(count) }
    })
    .await;
    let away = Instant::now();
    world.broker.server.kill9().await.unwrap();
    unanswered.await.unwrap();
    publish(&mut client, notes("during", 200), Stored::Spool).await;
    sidecar.kill().await;
    proxy.deafen(false);
    until("window over", || async { if away.elapsed() > 2 * WINDOW { Ok(()) } else { Err(()) } }).await;
    world.broker.server.restart().await.unwrap();
    let sidecar = world.sidecar().await;
    spooled(&sidecar, 0.0).await;
    let (counts, _) = world.stored().await;
    for event in notes("answered", 200).iter().chain(&notes("during", 200)) {
        assert_eq!(counts.get(&event.id), Some(&1), "{}", event.id);
    }
    let allowed: HashSet<String> = ids(&notes("unanswered", 50)).into_iter().collect();
    assert!(allowed.iter().all(|id| counts.contains_key(id)));
    let doubled: HashSet<String> = counts.into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id).collect();
    assert!(doubled.is_subset(&allowed) && !doubled.is_empty(), "{doubled:?}");
}
