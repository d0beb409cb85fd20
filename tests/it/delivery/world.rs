//! One broker, one group `worker` on `note.>`, one sidecar of the agent `worker`, who also publishes.

use agentbus_nats::grant::{GroupGrant, Policy};
use agentbus_proto::event::v1::Event;
use agentbus_tests::broker::group;
use agentbus_tests::grpc::{self, Client};
use agentbus_tests::{Broker, Member, SidecarProcess};

pub const GROUP: &str = "worker";

pub struct World {
    pub broker: Broker,
    pub groups: Vec<GroupGrant>,
    pub sidecar: SidecarProcess,
    pub client: Client,
}

/// The group with another policy.
pub fn with_policy(change: impl FnOnce(&mut Policy)) -> GroupGrant {
    let mut group = group(GROUP, &["note.>"]);
    change(&mut group.policy);
    group
}

impl World {
    pub async fn start() -> Self {
        Self::with(group(GROUP, &["note.>"])).await
    }

    pub async fn with(group: GroupGrant) -> Self {
        Self::on(Broker::start().await, group).await
    }

    pub async fn on(broker: Broker, group: GroupGrant) -> Self {
        let groups = vec![broker.group_with(group).await];
        let sidecar = SidecarProcess::start(&broker, member(&groups)).await;
        let client = grpc::client(&sidecar).await;
        Self { broker, groups, sidecar, client }
    }

    /// Another sidecar of the same agent.
    pub async fn second(&self) -> SidecarProcess {
        SidecarProcess::start(&self.broker, Member { instance: "worker-2", ..member(&self.groups) }).await
    }

    /// Publishes one event with this data and returns its sequence.
    pub async fn publish(&mut self, data: &str) -> u64 {
        self.publish_event(note(data)).await
    }

    pub async fn publish_event(&mut self, event: Event) -> u64 {
        let answers = grpc::publish_all(&mut self.client, [event]).await;
        assert_eq!(answers[0].failure, None);
        answers[0].seq.expect("a sequence")
    }

    /// Publishes `0`, `1`, … in order.
    pub async fn publish_many(&mut self, count: usize) {
        let answers = grpc::publish_all(&mut self.client, (0..count).map(|n| note(&n.to_string()))).await;
        assert!(answers.iter().all(|answer| answer.failure.is_none()));
    }

    pub async fn outcome(&self, outcome: &str) -> f64 {
        self.sidecar.outcome(GROUP, outcome).await
    }

    /// Nothing unread, unsettled or waiting for a retry.
    pub async fn settled(&self) {
        self.broker.settled(GROUP).await;
    }

    pub async fn dead_letter_count(&self) -> u64 {
        self.broker.count(&self.broker.names.dead_letters()).await
    }
}

pub fn member(groups: &[GroupGrant]) -> Member<'_> {
    Member { agent: GROUP, groups, publish: &["note.>", "out.>"], ..Member::default() }
}

pub fn note(data: &str) -> Event {
    grpc::event("note.made", data.to_owned())
}

/// A header of a stored message.
pub fn header(message: &async_nats::jetstream::message::StreamMessage, name: &str) -> String {
    message.headers.get(name).map(ToString::to_string).unwrap_or_default()
}
