//! Priority: lanes weighted 8 : 4 : 1 where a group splits them, nothing starves, and nothing else changes.

use std::time::{Duration, Instant};

use agentbus_proto::event::v1::Priority;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::proxy::Proxy;
use serde_json::json;

use super::world::{World, content, with_priority, workers};

const LANES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

fn split() -> agentbus_nats::grant::GroupGrant {
    workers(|group| group.split_lanes = true)
}

async fn backlog(world: &mut World, count: u64) {
    for lane in LANES.into_iter().rev() {
        world.publish((0..count).map(|number| with_priority(lane, number))).await;
    }
}

fn shares(seen: &[String]) -> Vec<usize> {
    let count = |lane: Priority| seen.iter().filter(|name| *name == lane.as_str_name()).count();
    LANES.map(count).to_vec()
}

#[tokio::test]
async fn a_backlog_in_all_lanes_is_handed_out_8_to_4_to_1() {
    let mut world = World::start(split()).await;
    backlog(&mut world, 200).await;
    let sidecar = world.member(1).await;
    let http = HttpAgent::of(&sidecar);
    let mut seen = Vec::new();
    while seen.len() < 130 {
        let delivery = http.receive_one("20s").await;
        seen.push(content(&delivery).0);
        http.ack(&delivery).await;
    }
    let credit_of_one = shares(&seen);
    println!("credit 1: {credit_of_one:?} of the first 130");
    for (share, wanted) in credit_of_one.iter().zip([80, 40, 10]) {
        assert!(share.abs_diff(wanted) <= 4, "{credit_of_one:?}");
    }
    let mut client = grpc::client(&sidecar).await;
    let mut stream = Stream::open(&mut client, 26).await;
    let mut seen = Vec::new();
    while seen.len() < 130 {
        let delivery = stream.delivery().await;
        let data: serde_json::Value = serde_json::from_slice(&delivery.event.as_ref().unwrap().data).unwrap();
        seen.push(data["key"].as_str().unwrap().to_owned());
        stream.ack(&delivery).await;
    }
    let shares = shares(&seen);
    println!("credit 26: {shares:?} of the next 130");
    for (share, wanted) in shares.iter().zip([80, 40, 10]) {
        assert!(share.abs_diff(wanted) <= 16, "{shares:?}");
    }
}

#[tokio::test]
async fn a_low_event_comes_within_bounded_time_under_a_flood_of_high_ones() {
    let mut world = World::start(split()).await;
    let sidecar = world.member(1).await;
    let http = HttpAgent::of(&sidecar);
    world.publish((0..400).map(|number| with_priority(Priority::High, number))).await;
    for number in 0..20 {
        let delivery = http.receive_one("20s").await;
        assert_eq!(content(&delivery), (Priority::High.as_str_name().to_owned(), number));
        http.ack(&delivery).await;
    }
    let since = Instant::now();
    world.publish([with_priority(Priority::Low, 0)]).await;
    let mut before = 0;
    loop {
        let delivery = http.receive_one("20s").await;
        http.ack(&delivery).await;
        if content(&delivery).0 == Priority::Low.as_str_name() {
            break;
        }
        before += 1;
    }
    println!("after {before} high ones and {:?}", since.elapsed());
    assert!(before < 100, "{before} high ones came first");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn an_urgent_event_overtakes_a_backlog_only_where_lanes_are_split() {
    for (group, overtakes) in [(split(), true), (workers(|_| ()), false)] {
        let mut world = World::start(group).await;
        world.publish((0..100).map(|number| with_priority(Priority::Low, number))).await;
        world.publish([with_priority(Priority::High, 0)]).await;
        let sidecar = world.member(1).await;
        let http = HttpAgent::of(&sidecar);
        let mut first = Vec::new();
        for _ in 0..5 {
            let delivery = http.receive_one("20s").await;
            first.push(content(&delivery).0);
            http.ack(&delivery).await;
        }
        assert_eq!(first.iter().any(|lane| lane == Priority::High.as_str_name()), overtakes, "{first:?}");
    }
}

#[tokio::test]
async fn a_lane_that_was_idle_is_served_at_once_and_failures_are_retried() {
    let mut world = World::start(split()).await;
    let sidecar = world.member(1).await;
    let http = HttpAgent::of(&sidecar);
    for lane in LANES {
        let waiting = tokio::spawn({
            let http = http.clone();
            async move { http.receive_one("20s").await }
        });
        world.publish([with_priority(lane, 7)]).await;
        let since = Instant::now();
        let delivery = waiting.await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        assert_eq!(http.settle(&delivery, "nack", json!({})).await.status, 200);
        let again = http.receive_one("20s").await;
        assert_eq!((content(&again), again["attempt"].as_u64()), (content(&delivery), Some(2)));
        http.ack(&again).await;
    }
    world.settled().await;
}

/// An answer that takes its time is no empty lane.
#[tokio::test]
async fn over_a_slow_link_no_more_is_held_than_the_credit() {
    let mut world = World::start(split()).await;
    backlog(&mut world, 20).await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    proxy.delay(Duration::from_millis(25));
    let address = proxy.address();
    let sidecar = world.member_at(1, Some(&address)).await;
    let http = HttpAgent::of(&sidecar);
    for round in 0..4 {
        let delivery = http.receive_one("20s").await;
        let since = Instant::now();
        // Longer than what is on its way needs, and than it takes until the metric knows.
        while since.elapsed() < Duration::from_millis(600) {
            let held = sidecar.metric("agentbus_in_flight").await;
            assert!(held <= 1.0, "{held} held for an agent that asked for one, round {round}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        http.ack(&delivery).await;
    }
}
