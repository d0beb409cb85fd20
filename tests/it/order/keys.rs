//! Order by key, with several members that share the keys.

use std::time::{Duration, Instant};

use agentbus_nats::grant::GroupKind;
use agentbus_tests::SidecarProcess;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::{until, until_within};
use serde_json::json;
use tokio::task::JoinHandle;

use super::history::History;
use super::world::{GROUP, Style, World, agent, content, event, events, keyed};

const QUIET: Style = Style { work_max: Duration::from_millis(20), nack_one_in: 0 };
const ROUGH: Style = Style { work_max: Duration::from_millis(60), nack_one_in: 7 };

struct Team {
    members: Vec<(SidecarProcess, JoinHandle<()>)>,
    history: History,
    style: Style,
    next: usize,
}

impl Team {
    async fn of(world: &World, count: usize, style: Style) -> Self {
        let mut team = Self { members: Vec::new(), history: History::default(), style, next: 0 };
        for _ in 0..count {
            team.join(world).await;
        }
        team
    }

    async fn join(&mut self, world: &World) {
        self.next += 1;
        let sidecar = world.member(self.next).await;
        let agent = agent(&sidecar, format!("member-{}", self.next), self.style, self.history.clone());
        self.members.push((sidecar, agent));
    }

    /// The agent dies and is started again beside the same sidecar, as a supervisor does it.
    async fn kill_agent(&mut self, at: usize) {
        let (sidecar, task) = &mut self.members[at];
        task.abort();
        sidecar.agent_exited().await;
        *task = agent(sidecar, format!("member-{at}"), self.style, self.history.clone());
    }

    /// Sidecar and agent die; another member takes their place.
    async fn kill_member(&mut self, at: usize, world: &World) {
        let (mut sidecar, task) = self.members.remove(at);
        task.abort();
        sidecar.kill().await;
        self.join(world).await;
    }

    async fn completed(&self, count: usize) {
        let enough = || async {
            let completed = self.history.completed();
            if completed >= count { Ok(()) } else { Err(completed) }
        };
        until_within("completed events", Duration::from_secs(120), enough).await;
    }
}

#[tokio::test]
async fn keys_are_shared_by_members_and_each_is_in_order() {
    let mut world = World::start(keyed(GroupKind::Patterns)).await;
    let team = Team::of(&world, 3, QUIET).await;
    world.publish(events(12, 15)).await;
    // Events without a key have a part of their own and are not held up.
    world.publish((0..15).map(|number| event("", number))).await;
    team.completed(13 * 15).await;
    team.history.check(15);
    assert_eq!(team.history.members(), 3, "all of them worked");
    world.settled().await;
}

#[tokio::test]
async fn order_by_key_survives_nacks_kills_and_a_broker_that_restarts() {
    const KEYS: u64 = 8;
    let mut world = World::start(keyed(GroupKind::Pool)).await;
    let mut team = Team::of(&world, 3, ROUGH).await;
    let all = events(KEYS, 16);
    for (round, part) in all.chunks(all.len() / 4).enumerate() {
        world.publish(part.to_vec()).await;
        team.completed(part.len() * round + part.len() / 3).await;
        match round {
            0 => team.kill_agent(1).await,
            1 => team.kill_member(0, &world).await,
            2 => world.broker.crash().await,
            _ => {
                team.kill_member(1, &world).await;
                team.kill_agent(0).await;
            }
        }
    }
    team.completed(all.len()).await;
    team.history.check(16);
    world.settled().await;
    assert_eq!(world.broker.count(&world.broker.names.dead_letters()).await, 0);
}

#[tokio::test]
async fn a_dead_letter_lets_its_key_go_on_and_other_keys_never_waited() {
    let mut group = keyed(GroupKind::Patterns);
    group.policy.max_attempts = 3;
    let mut world = World::start(group).await;
    world.publish([event("a", 0), event("a", 1), event("b", 0)]).await;
    let sidecar = world.member(1).await;
    let http = HttpAgent::of(&sidecar);
    let (mut seen, mut since) = (Vec::new(), Instant::now());
    while seen.len() < 5 {
        let delivery = http.receive_one("20s").await;
        let (key, number) = content(&delivery);
        let poison = (key.as_str(), number) == ("a", 0);
        assert_eq!(http.settle(&delivery, if poison { "nack" } else { "ack" }, json!({})).await.status, 200);
        if poison && delivery["attempt"].as_u64() > Some(1) {
            assert!(since.elapsed() >= Duration::from_millis(150), "after its back-off: {:?}", since.elapsed());
        }
        since = Instant::now();
        seen.push((key, number, delivery["attempt"].as_u64().expect("a number")));
    }
    let of = |key: &str| seen.iter().filter(|one| one.0 == key).map(|one| (one.1, one.2)).collect::<Vec<_>>();
    assert_eq!(of("a"), [(0, 1), (0, 2), (0, 3), (1, 1)]);
    assert_eq!(of("b"), [(0, 1)]);
    assert_ne!(seen.last().unwrap().0, "b", "it did not wait for the other key: {seen:?}");
    world.broker.dead_letters(1).await;
    world.settled().await;
}

/// Its agent may be at work when the broker cannot be reached: by then somebody else works on it.
#[tokio::test]
async fn a_member_cut_off_loses_its_delivery_before_another_gets_it() {
    let mut world = World::start(keyed(GroupKind::Pool)).await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let cut_off = world.member_at(1, Some(&address)).await;
    world.publish([event("a", 0), event("a", 1)]).await;
    let http = HttpAgent::of(&cut_off);
    let held = http.receive_one("20s").await;
    let other = world.member(2).await;
    let other = HttpAgent::of(&other);
    // The connection stays, but nothing gets through: the sidecar cannot know it in another way.
    proxy.swallow(true);
    let again = other.receive_one("20s").await;
    assert_eq!(content(&again), content(&held));
    let late = http.settle(&held, "ack", json!({})).await;
    assert_eq!(late.body["code"], "LEASE_LOST", "{}", late.body);
    other.ack(&again).await;
    proxy.swallow(false);
    proxy.cut();
    let next = other.receive_one("20s").await;
    assert_eq!(content(&next), ("a".to_owned(), 1));
    other.ack(&next).await;
    until("settled", || async {
        let state = world.broker.state(GROUP).await;
        if state.in_flight == 0 && state.lag == 0 { Ok(()) } else { Err(state) }
    })
    .await;
}

/// What it had to store before the ack is stored when the broker can be reached again: too late for the ack.
#[tokio::test]
async fn a_settle_under_way_when_its_member_was_cut_off_lets_nothing_overtake() {
    let mut world = World::start(keyed(GroupKind::Pool)).await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let cut_off = world.member_at(1, Some(&address)).await;
    world.publish([event("a", 0), event("a", 1)]).await;
    let http = HttpAgent::of(&cut_off);
    let held = http.receive_one("20s").await;
    let second = world.member(2).await;
    let other = HttpAgent::of(&second);
    proxy.swallow(true);
    let settling = tokio::spawn(async move { http.settle(&held, "reject", json!({"reason": "no"})).await });
    let again = other.receive_one("20s").await;
    assert_eq!(content(&again), ("a".to_owned(), 0));
    proxy.swallow(false);
    proxy.cut();
    world.broker.dead_letters(1).await;
    let late = settling.await.unwrap();
    assert_eq!(late.body["code"], "LEASE_LOST", "{}", late.body);
    assert!(other.receive(1, "2s").await.is_empty(), "two of one key at once");
    other.ack(&again).await;
    assert_eq!(content(&other.receive_one("20s").await), ("a".to_owned(), 1));
}

/// Parts that wait behind a busy agent are taken over by one that is free.
#[tokio::test]
async fn a_busy_member_keeps_no_key_waiting() {
    let mut world = World::start(keyed(GroupKind::Patterns)).await;
    let (busy, free) = (world.member(1).await, world.member(2).await);
    let busy = HttpAgent::of(&busy);
    world.publish([event("first", 0)]).await;
    let held = busy.receive_one("20s").await;
    // Asks on, but takes nothing more: its agent is at work.
    world.publish(events(8, 2)).await;
    let free = HttpAgent::of(&free);
    let since = Instant::now();
    for _ in 0..16 {
        free.ack(&free.receive_one("20s").await).await;
    }
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    busy.ack(&held).await;
    world.settled().await;
}
