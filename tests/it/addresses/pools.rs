//! `@pool`: whoever of its members is free.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentbus_nats::grant::{Directory, GroupGrant, GroupKind};
use agentbus_tests::broker::group;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::json;

use super::Stage;

async fn pool(broker: &Broker) -> GroupGrant {
    broker.group_with(GroupGrant { kind: GroupKind::Pool, ..group("pool--crew", &["@crew"]) }).await
}

async fn member(broker: &Broker, agent: &str, pool: &GroupGrant) -> SidecarProcess {
    let pools = [("crew".to_owned(), vec!["one".to_owned(), "two".to_owned()])].into();
    let directory = Directory { pools, ..Directory::default() };
    let groups = [pool.clone()];
    SidecarProcess::start(
        broker,
        Member { agent, groups: &groups, publish: &["@crew"], directory, ..Member::default() },
    )
    .await
}

/// Works until nothing has come for a second; each event takes this long. Returns their ids.
async fn work(agent: HttpAgent, takes: Duration) -> Vec<String> {
    let mut done = Vec::new();
    loop {
        let Some(delivery) = agent.receive(1, "2s").await.pop() else { return done };
        tokio::time::sleep(takes).await;
        done.push(delivery["event"]["id"].as_str().expect("an id").to_owned());
        agent.ack(&delivery).await;
    }
}

#[tokio::test]
async fn members_share_a_pool_by_what_they_can_take() {
    const COUNT: usize = 60;
    let broker = Broker::start().await;
    let group = pool(&broker).await;
    let (one, two) = (member(&broker, "one", &group).await, member(&broker, "two", &group).await);
    let speaker = HttpAgent::of(&one);
    for n in 0..COUNT {
        speaker.publish(json!({"id": n.to_string(), "to": "@crew"})).await;
    }
    let slow = tokio::spawn(work(HttpAgent::of(&one), Duration::from_millis(250)));
    let fast = tokio::spawn(work(HttpAgent::of(&two), Duration::from_millis(25)));
    let (slow, fast) = (slow.await.expect("worked"), fast.await.expect("worked"));
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for id in slow.iter().chain(&fast) {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!((times.len(), slow.len() + fast.len()), (COUNT, COUNT), "each once: {times:?}");
    assert!(!slow.is_empty() && fast.len() > slow.len() * 2, "slow {} fast {}", slow.len(), fast.len());
    broker.settled("pool--crew").await;
}

#[tokio::test]
async fn what_a_dead_member_held_is_with_another_within_five_seconds() {
    let broker = Broker::start().await;
    let group = pool(&broker).await;
    let (mut one, mut two) = (member(&broker, "one", &group).await, member(&broker, "two", &group).await);
    let other = HttpAgent::of(&two);
    for how in ["agent", "sidecar"] {
        HttpAgent::of(if how == "agent" { &one } else { &two }).publish(json!({"id": how, "to": "@crew"})).await;
        let holder = HttpAgent::of(&one);
        assert_eq!(holder.receive_one("20s").await["event"]["id"], how);
        let died = Instant::now();
        match how {
            "agent" => one.agent_exited().await,
            _ => one.kill().await,
        }
        let again = other.receive_one("20s").await;
        assert!(died.elapsed() < Duration::from_secs(5), "{how}: {:?}", died.elapsed());
        assert_eq!(again["event"]["id"], how);
        other.ack(&again).await;
    }
    broker.settled("pool--crew").await;
    assert!(two.drain().await.success());
}

#[tokio::test]
async fn a_declared_pool_can_keep_the_order_of_keys() {
    let agents = [("one", ", pools: [crew]"), ("two", ", pools: [crew]")];
    let stage = Stage::new("pools: {crew: {order: key}}\n", &agents).await;
    let (me, one, two) = (stage.up.me(), stage.voice("one").await, stage.voice("two").await);
    for (id, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
        me.publish(json!({"id": id, "to": "@crew", "ordering_key": key})).await;
    }
    let mut done: Vec<String> = Vec::new();
    while done.len() < 4 {
        let (first, second) = (one.receive(4, "300ms").await, two.receive(4, "300ms").await);
        let held = first.iter().chain(&second);
        let ids: Vec<String> = held.map(|one| one["event"]["id"].as_str().expect("an id").to_owned()).collect();
        assert!(ids.iter().filter(|id| id.starts_with('a')).count() <= 1, "one of a key at a time: {ids:?}");
        for (agent, deliveries) in [(&one, &first), (&two, &second)] {
            for delivery in deliveries {
                agent.ack(delivery).await;
            }
        }
        done.extend(ids);
    }
    let of_a: Vec<&String> = done.iter().filter(|id| id.starts_with('a')).collect();
    assert_eq!(of_a, ["a1", "a2", "a3"]);
    stage.end().await;
}
