//! Strict order: one delivery of the group at a time, its member pinned, another one standing by.

use std::time::{Duration, Instant};

use agentbus_proto::event::v1::{DeliveryMode, DeliveryOptions, Event};
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use serde_json::json;

use super::world::{GROUP, World, content, event, workers};

fn strict() -> agentbus_nats::grant::GroupGrant {
    workers(|group| group.ordered = true)
}

#[tokio::test]
async fn a_strict_group_is_first_in_first_out_under_nacks_and_stays_with_one_member() {
    let mut world = World::start(strict()).await;
    let (first, second) = (world.member(1).await, world.member(2).await);
    world.publish((0..30).map(|number| event("", number))).await;
    let (first, second) = (HttpAgent::of(&first), HttpAgent::of(&second));
    let mut done = Vec::new();
    let held = first.receive_one("20s").await;
    first.ack(&held).await;
    done.push(content(&held).1);
    // Stands by all the time and gets nothing while the first one goes on asking.
    let standby = tokio::spawn(async move { second.receive(1, "30s").await });
    while done.len() < 30 {
        let delivery = first.receive_one("20s").await;
        let nack = done.len() % 5 == 2 && delivery["attempt"] == 1;
        assert_eq!(first.settle(&delivery, if nack { "nack" } else { "ack" }, json!({})).await.status, 200);
        if !nack {
            done.push(content(&delivery).1);
        }
    }
    assert_eq!(done, (0..30).collect::<Vec<_>>());
    assert!(!standby.is_finished());
    standby.abort();
    world.settled().await;
}

#[tokio::test]
async fn a_channel_is_read_in_order_by_each_of_its_readers_whatever_one_of_them_nacks() {
    let reader = |name: &str| {
        workers(|group| (group.name, group.patterns, group.ordered) = (name.into(), vec!["#all".into()], true))
    };
    let world = World::of(vec![reader("one"), reader("two")]).await;
    for number in 0..12 {
        world.say("#all", number).await;
    }
    let sidecar = world.member(1).await;
    let http = HttpAgent::of(&sidecar);
    let mut done = std::collections::BTreeMap::<String, Vec<u64>>::new();
    while done.values().map(Vec::len).sum::<usize>() < 24 {
        let delivery = http.receive_one("20s").await;
        let (group, number) = (delivery["group"].as_str().unwrap().to_owned(), content(&delivery).1);
        let nack = group == "one" && number % 4 == 1 && delivery["attempt"] == 1;
        assert_eq!(http.settle(&delivery, if nack { "nack" } else { "ack" }, json!({})).await.status, 200);
        if !nack {
            done.entry(group).or_default().push(number);
        }
    }
    for group in ["one", "two"] {
        assert_eq!(done[group], (0..12).collect::<Vec<_>>(), "{group}");
    }
}

#[tokio::test]
async fn a_standby_takes_over_within_ten_seconds_of_a_kill() {
    let mut world = World::start(strict()).await;
    let (mut first, second) = (world.member(1).await, world.member(2).await);
    world.publish((0..5).map(|number| event("", number))).await;
    let (pinned, standby) = (HttpAgent::of(&first), HttpAgent::of(&second));
    pinned.ack(&pinned.receive_one("20s").await).await;
    let held = pinned.receive_one("20s").await;
    assert_eq!(content(&held).1, 1);
    let waiting = tokio::spawn(async move { (standby.receive_one("20s").await, standby) });
    first.kill().await;
    let since = Instant::now();
    let (again, standby) = waiting.await.unwrap();
    println!("takeover after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!((content(&again).1, again["attempt"].as_u64()), (1, Some(2)), "the same one, counted");
    standby.ack(&again).await;
    for number in 2..5 {
        let next = standby.receive_one("20s").await;
        assert_eq!(content(&next).1, number);
        standby.ack(&next).await;
    }
    world.settled().await;
}

#[tokio::test]
async fn a_member_that_leaves_in_peace_hands_over_at_once() {
    let mut world = World::start(strict()).await;
    let (mut first, second) = (world.member(1).await, world.member(2).await);
    world.publish((0..3).map(|number| event("", number))).await;
    let (pinned, standby) = (HttpAgent::of(&first), HttpAgent::of(&second));
    pinned.ack(&pinned.receive_one("20s").await).await;
    let waiting = tokio::spawn(async move { standby.receive_one("20s").await });
    let since = Instant::now();
    assert!(first.drain().await.success());
    let next = waiting.await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(3), "not after the pin's time-out: {:?}", since.elapsed());
    assert_eq!(content(&next).1, 1);
}

#[tokio::test]
async fn an_event_of_a_strict_group_never_waits_behind_other_work_while_a_member_is_free() {
    let jobs = workers(|group| (group.name, group.patterns) = ("jobs".into(), vec!["job.>".into()]));
    let mut world = World::of(vec![strict(), jobs]).await;
    let (busy, free) = (world.member(1).await, world.member(2).await);
    let (mut one, mut other) = (grpc::client(&busy).await, grpc::client(&free).await);
    for round in 0..6 {
        // Both there at once, or the strict one while the agent is at work.
        let both = round % 2 == 0;
        let job = grpc::event("job.item", json!({"key": "", "number": round}).to_string());
        let ordered = event("", round);
        world.publish(if both { vec![job, ordered.clone()] } else { vec![job] }).await;
        let mut first = Stream::open(&mut one, 1).await;
        let held = first.delivery().await;
        if !both {
            world.publish([ordered]).await;
        }
        // Kept until all is settled: a stream that goes takes an ack with it that was not sent yet.
        let mut second = None;
        if held.group != GROUP {
            let since = Instant::now();
            let second = second.insert(Stream::open(&mut other, 1).await);
            let ordered = second.delivery().await;
            assert_eq!(ordered.group, GROUP, "round {round}");
            // Later on a request of the round before may be open, and what it brings goes back at the price of an attempt.
            assert!(round > 0 || ordered.attempt == 1, "not even asked for");
            assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
            second.ack(&ordered).await;
            first.ack(&held).await;
        } else {
            first.ack(&held).await;
            let job = first.delivery().await;
            first.ack(&job).await;
        }
        world.settled().await;
        world.broker.settled("jobs").await;
    }
}

/// Acked before its agent has it, so nothing at the broker holds the next one back: the sidecar has to.
#[tokio::test]
async fn at_most_once_events_of_a_strict_group_wait_at_the_broker_for_a_busy_agent() {
    let mut world = World::start(strict()).await;
    let sidecar = world.member(1).await;
    let http = HttpAgent::of(&sidecar);
    world.publish((0..20).map(at_most_once)).await;
    let first = http.receive_one("20s").await;
    assert_eq!(content(&first).1, 0);
    // Longer than a lease that nobody renews lasts.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(11) {
        let held = sidecar.metric("agentbus_in_flight").await;
        assert!(held <= 1.0, "{held} deliveries for an agent that asked for one");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    http.ack(&first).await;
    for number in 1..20 {
        let next = http.receive_one("20s").await;
        assert_eq!(content(&next).1, number);
        http.ack(&next).await;
    }
    world.settled().await;
}

fn at_most_once(number: u64) -> Event {
    let delivery = DeliveryOptions { mode: DeliveryMode::AtMostOnce.into(), ..DeliveryOptions::default() };
    Event { delivery: Some(delivery), ..event("", number) }
}
