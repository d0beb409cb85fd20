//! How much an agent has in its hands at once, and what that costs its sidecar.

use std::collections::HashSet;
use std::time::Duration;

use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::wait::until;

use super::world::{GROUP, World, note};

#[tokio::test]
async fn never_more_than_the_credit_is_unsettled_and_credit_may_change() {
    let mut world = World::start().await;
    world.publish_many(20).await;
    let mut stream = Stream::open(&mut world.client, 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(stream.delivery().await);
    }
    assert!(stream.quiet(Duration::from_millis(300)).await, "a fourth one over a credit of 3");
    stream.ack(&held.remove(0)).await;
    held.push(stream.delivery().await);
    assert!(stream.quiet(Duration::from_millis(300)).await, "one ack makes room for one");
    stream.credit(6).await;
    for _ in 0..3 {
        held.push(stream.delivery().await);
    }
    assert!(stream.quiet(Duration::from_millis(300)).await, "more than 6");
    stream.credit(0).await;
    for delivery in &held {
        stream.ack(delivery).await;
    }
    assert!(stream.quiet(Duration::from_millis(300)).await, "a credit of 0 pauses");
    stream.credit(100).await;
    for _ in 0..13 {
        let delivery = stream.delivery().await;
        stream.ack(&delivery).await;
    }
    world.settled().await;
}

#[tokio::test]
async fn a_slow_subscriber_leaves_the_memory_flat_and_gets_everything_in_the_end() {
    const EVENTS: usize = 20_000;
    let mut world = World::start().await;
    let payload = "x".repeat(1024);
    for _ in 0..EVENTS / 2000 {
        let answers = grpc::publish_all(&mut world.client, (0..2000).map(|_| note(&payload))).await;
        assert!(answers.iter().all(|answer| answer.failure.is_none()));
    }
    let before = world.sidecar.resident_bytes();
    let mut stream = Stream::open(&mut world.client, 256).await;
    // Reads nothing while the sidecar fills whatever it would fill.
    until("full credit", || async {
        let in_flight = world.broker.state(GROUP).await.in_flight;
        if in_flight >= 256 { Ok(()) } else { Err(in_flight) }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // All of it would be 20 MiB and more.
    let grown = world.sidecar.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{} KiB more than {} KiB resident", grown >> 10, before >> 10);
    let mut seen = HashSet::new();
    while seen.len() < EVENTS {
        let delivery = stream.delivery().await;
        stream.ack(&delivery).await;
        seen.insert(delivery.seq);
    }
    world.settled().await;
    let resident = world.sidecar.resident_bytes();
    assert!(resident < 60 << 20, "{} KiB resident after all of it", resident >> 10);
}

#[tokio::test]
async fn large_events_fill_the_memory_only_up_to_its_bound_whatever_the_credit() {
    let mut world = World::start().await;
    const EVENTS: usize = 200;
    let payload = "x".repeat(512 * 1024);
    for _ in 0..EVENTS / 10 {
        let answers = grpc::publish_all(&mut world.client, (0..10).map(|_| note(&payload))).await;
        assert!(answers.iter().all(|answer| answer.failure.is_none()));
    }
    // The credit allows all 100 MiB; 64 MiB held and a request under way are the bound.
    let mut stream = Stream::open(&mut world.client, 10_000).await;
    until("a full table", || async {
        let in_flight = world.broker.state(GROUP).await.in_flight;
        if in_flight >= 120 { Ok(()) } else { Err(in_flight) }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = world.broker.state(GROUP).await.in_flight;
    assert!(held < 180, "{held} of {EVENTS} held");
    for _ in 0..EVENTS {
        let delivery = stream.delivery().await;
        stream.ack(&delivery).await;
    }
    world.settled().await;
}
