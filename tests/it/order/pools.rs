//! Pools: whoever is free gets the next event, and work of the dead is with the living within 5 s.

use std::time::{Duration, Instant};

use agentbus_nats::grant::GroupKind;
use agentbus_tests::http::HttpAgent;

use super::history::History;
use super::world::{GROUP, Style, World, agent, content, event, workers};

fn pool() -> agentbus_nats::grant::GroupGrant {
    workers(|group| group.kind = GroupKind::Pool)
}

#[tokio::test]
async fn work_of_a_killed_member_is_with_another_within_five_seconds() {
    let mut world = World::start(pool()).await;
    let (mut dying, living) = (world.member(1).await, world.member(2).await);
    world.publish([event("", 0)]).await;
    let held = HttpAgent::of(&dying).receive_one("20s").await;
    let living = HttpAgent::of(&living);
    // Held for longer than the ack wait: its lease is extended.
    assert!(living.receive(1, "5s").await.is_empty());
    let waiting = tokio::spawn(async move { (living.receive_one("20s").await, living) });
    dying.kill().await;
    let since = Instant::now();
    let (again, living) = waiting.await.unwrap();
    println!("failover after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(content(&again), content(&held));
    living.ack(&again).await;
    world.settled().await;
}

/// Two groups share the credit of one: what the second group gets is more than the agent can take.
#[tokio::test]
async fn what_a_busy_agent_cannot_take_goes_to_a_free_one_at_once() {
    let other = workers(|group| {
        (group.name, group.patterns, group.kind) = ("others".into(), vec!["more.>".into()], GroupKind::Pool)
    });
    let mut world = World::of(vec![pool(), other]).await;
    let (busy, free) = (world.member(1).await, world.member(2).await);
    let (busy, free) = (HttpAgent::of(&busy), HttpAgent::of(&free));
    let polling = tokio::spawn(async move { (busy.receive_one("20s").await, busy) });
    // Whoever polls has a request open in each group.
    agentbus_tests::wait::until("requests", || async {
        let waiting = (world.broker.state(GROUP).await.waiting, world.broker.state("others").await.waiting);
        if waiting == (1, 1) { Ok(()) } else { Err(waiting) }
    })
    .await;
    let more = agentbus_tests::grpc::event("more.item", r#"{"key":"more","number":1}"#);
    world.publish([event("", 0), more]).await;
    let (held, busy) = polling.await.unwrap();
    let since = Instant::now();
    let taken = free.receive_one("20s").await;
    println!("with the free one after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_ne!(content(&taken), content(&held));
    assert_eq!(taken["attempt"], 1, "no attempt of it was used");
    free.ack(&taken).await;
    busy.ack(&held).await;
    world.settled().await;
    world.broker.settled("others").await;
}

#[tokio::test]
async fn a_pool_shares_by_demand() {
    let mut world = World::start(pool()).await;
    let history = History::default();
    let mut team = Vec::new();
    // One is ten times slower than the others: it gets less, not the same.
    for (number, millis) in [(1, 20), (2, 20), (3, 200)] {
        let sidecar = world.member(number).await;
        let style = Style { work_max: Duration::from_millis(millis), nack_one_in: 0 };
        let task = agent(&sidecar, format!("member-{number}"), style, history.clone());
        team.push((sidecar, task));
    }
    world.publish((0..150).map(|number| event("", number))).await;
    world.settled().await;
    let of = |name: &str| history.runs().iter().filter(|run| run.member == name).count();
    let (one, two, slow) = (of("member-1"), of("member-2"), of("member-3"));
    assert!(one > 30 && two > 30 && slow > 0 && slow < one.min(two) / 2, "{one} {two} {slow}");
}
