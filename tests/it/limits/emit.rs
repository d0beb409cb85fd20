//! Outputs and their ack: whatever dies between which steps, the outputs are there all together or not at all, and in the end
//! exactly once.

use std::time::Duration;

use agentbus_nats::grant::GroupGrant;
use agentbus_proto::EventHead;
use agentbus_tests::broker::group;
use agentbus_tests::http::{Answer, HttpAgent};
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::{Value, json};

const OUTPUTS: usize = 50;

/// Where it happens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    /// Nothing of the batch reaches the broker.
    BeforeTheBatch,
    /// The broker has a part of it.
    MidBatch,
    /// The broker has stored it, and its answer is lost.
    AfterTheCommit,
    /// The sidecar knows, and its ack is lost.
    AfterTheAnswer,
    /// All is done.
    AfterTheAck,
}

struct World {
    broker: Broker,
    proxy: Proxy,
    groups: Vec<GroupGrant>,
}

impl World {
    async fn start() -> Self {
        let broker = Broker::start().await;
        let proxy = Proxy::start(broker.url().trim_start_matches("nats://")).await;
        let groups = vec![broker.group_with(group("worker", &["job.>"])).await];
        // So that what nobody acks comes again soon.
        broker.ack_wait("worker", Duration::from_secs(4)).await;
        Self { broker, proxy, groups }
    }

    async fn sidecar(&self) -> SidecarProcess {
        let address = self.proxy.address();
        let member = Member {
            agent: "worker",
            groups: &self.groups,
            publish: &["job.>", "out.>"],
            server: Some(&address),
            ..Member::default()
        };
        SidecarProcess::start(&self.broker, member).await
    }

    /// Data of the outputs that are stored.
    async fn outputs(&self) -> Vec<String> {
        let messages = self.broker.messages(&self.broker.names.events()).await;
        let outputs = messages.into_iter().filter(|message| message.subject.contains(".out."));
        outputs.map(|message| EventHead::decode(&message.payload).unwrap().id).collect()
    }

    fn heal(&self) {
        self.proxy.cut();
        self.proxy.swallow(false);
        self.proxy.deafen(false);
    }

    /// Breaks what `at` says while the ack with its outputs is under way; returns when that has happened.
    async fn fault(&self, at: At) {
        match at {
            At::BeforeTheBatch | At::MidBatch => {
                until("lost bytes", || async {
                    let lost = self.proxy.lost();
                    if lost > 0 { Ok(()) } else { Err(lost) }
                })
                .await;
            }
            At::AfterTheCommit => {
                until("stored", || async {
                    let count = self.outputs().await.len();
                    if count == OUTPUTS { Ok(()) } else { Err(count) }
                })
                .await;
            }
            At::AfterTheAnswer | At::AfterTheAck => {}
        }
    }
}

async fn settle(agent: &HttpAgent, delivery: &Value) -> Answer {
    let output = |n: usize| json!({"to": "out.made", "data": format!("{n} {}", "x".repeat(1000))});
    let emit: Vec<Value> = (0..OUTPUTS).map(output).collect();
    agent.settle(delivery, "ack", json!({"emit": emit})).await
}

/// Takes and settles what comes until the group is done.
async fn work(world: &World, agent: &HttpAgent) {
    until("done", || async {
        for delivery in agent.receive(1, "200ms").await {
            let answer = settle(agent, &delivery).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        let state = world.broker.state("worker").await;
        if (state.lag, state.in_flight, state.retrying) == (0, 0, 0) { Ok(()) } else { Err(state) }
    })
    .await;
}

async fn check(at: At, kill: bool) {
    let world = World::start().await;
    let mut sidecar = world.sidecar().await;
    let agent = HttpAgent::of(&sidecar);
    agent.publish(json!({"to": "job.todo"})).await;
    let delivery = agent.receive_one("20s").await;
    match at {
        At::BeforeTheBatch => world.proxy.swallow(true),
        At::MidBatch => world.proxy.swallow_after(20_000),
        At::AfterTheCommit => world.proxy.deafen(true),
        At::AfterTheAnswer => world.proxy.swallow_when(r#""batch":"#),
        At::AfterTheAck => {}
    }
    let settled = tokio::spawn({
        let (agent, delivery) = (agent.clone(), delivery.clone());
        async move { settle(&agent, &delivery).await.status }
    });
    world.fault(at).await;
    let survived = if kill && !matches!(at, At::AfterTheAnswer | At::AfterTheAck) {
        settled.abort();
        false
    } else {
        if !kill {
            world.heal();
        }
        assert_eq!(settled.await.unwrap(), 200, "{at:?}");
        true
    };
    match at {
        At::AfterTheAck => world.broker.settled("worker").await,
        At::AfterTheAnswer => assert_eq!(world.broker.state("worker").await.in_flight, 1, "the ack is lost"),
        _ => {}
    }
    let sidecar = if kill {
        sidecar.kill().await;
        world.heal();
        let stored = world.outputs().await.len();
        assert!([0, OUTPUTS].contains(&stored), "{at:?}: {stored} of {OUTPUTS} outputs are there");
        assert!(!survived || stored == OUTPUTS);
        world.sidecar().await
    } else {
        sidecar
    };
    work(&world, &HttpAgent::of(&sidecar)).await;
    let outputs = world.outputs().await;
    let mut distinct = outputs.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((outputs.len(), distinct.len()), (OUTPUTS, OUTPUTS), "{at:?}, kill {kill}");
}

macro_rules! points {
    ($($name:ident: $at:ident, $kill:literal;)*) => {
        $(#[tokio::test]
        async fn $name() {
            check(At::$at, $kill).await;
        })*
    };
}

points! {
    a_sidecar_killed_before_the_batch_is_sent: BeforeTheBatch, true;
    a_sidecar_killed_in_the_middle_of_the_batch: MidBatch, true;
    a_sidecar_killed_after_the_commit_before_its_answer: AfterTheCommit, true;
    a_sidecar_killed_after_the_answer_before_the_ack: AfterTheAnswer, true;
    a_sidecar_killed_after_the_ack: AfterTheAck, true;
    a_connection_lost_before_the_batch_is_sent: BeforeTheBatch, false;
    a_connection_lost_in_the_middle_of_the_batch: MidBatch, false;
    a_connection_lost_after_the_commit_before_its_answer: AfterTheCommit, false;
}
