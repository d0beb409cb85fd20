//! One broker, one group, members with agents that work on what they get, and a publisher.

use std::time::{Duration, Instant};

use agentbus_nats::grant::{GroupGrant, GroupKind};
use agentbus_proto::event::v1::{Event, Priority};
use agentbus_tests::broker::group;
use agentbus_tests::grpc::{self, Client};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::history::{History, Run};

pub const GROUP: &str = "workers";

/// The group of these tests, changed as wanted. Nothing is given up for being tried often.
pub fn workers(change: impl FnOnce(&mut GroupGrant)) -> GroupGrant {
    let mut group = group(GROUP, &["work.>"]);
    (group.policy.max_attempts, group.policy.crash_limit, group.policy.max_ms) = (100, 100, 200);
    change(&mut group);
    group
}

pub fn keyed(kind: GroupKind) -> GroupGrant {
    workers(|group| (group.by_key, group.kind) = (true, kind))
}

pub struct World {
    pub broker: Broker,
    pub groups: Vec<GroupGrant>,
    publisher: SidecarProcess,
    client: Client,
}

impl World {
    pub async fn start(group: GroupGrant) -> Self {
        Self::of(vec![group]).await
    }

    pub async fn of(groups: Vec<GroupGrant>) -> Self {
        let broker = Broker::start().await;
        for group in &groups {
            broker.group_with(group.clone()).await;
        }
        let member = Member { agent: "publisher", publish: &[">", "#*"], ..Member::default() };
        let publisher = SidecarProcess::start(&broker, member).await;
        let client = grpc::client(&publisher).await;
        Self { broker, groups, publisher, client }
    }

    /// A sidecar of the agent `workers`.
    pub async fn member(&self, number: usize) -> SidecarProcess {
        self.member_at(number, None).await
    }

    /// The same, which reaches the broker at this address.
    pub async fn member_at(&self, number: usize, server: Option<&str>) -> SidecarProcess {
        let instance = format!("{GROUP}-{number}");
        let member = Member { agent: GROUP, instance: &instance, groups: &self.groups, server, ..Member::default() };
        SidecarProcess::start(&self.broker, member).await
    }

    pub async fn publish(&mut self, events: impl IntoIterator<Item = Event>) {
        let answers = grpc::publish_all(&mut self.client, events).await;
        assert!(answers.iter().all(|answer| answer.failure.is_none()), "{answers:?}");
    }

    /// Publishes to a channel.
    pub async fn say(&self, channel: &str, number: u64) {
        let data = json!({"key": "", "number": number});
        HttpAgent::of(&self.publisher).publish(json!({"to": channel, "data": data})).await;
    }

    pub async fn settled(&self) {
        self.broker.settled(GROUP).await;
    }
}

/// `per_key` events of each of `keys` keys, those of all keys mixed.
pub fn events(keys: u64, per_key: u64) -> Vec<Event> {
    let of_key = move |number| (0..keys).map(move |key| event(&format!("key-{key}"), number));
    (0..per_key).flat_map(of_key).collect()
}

pub fn event(key: &str, number: u64) -> Event {
    let data = json!({"key": key, "number": number}).to_string();
    Event { ordering_key: key.to_owned(), ..grpc::event("work.item", data) }
}

pub fn with_priority(priority: Priority, number: u64) -> Event {
    let data = json!({"key": priority.as_str_name(), "number": number}).to_string();
    Event { priority: priority.into(), ..grpc::event("work.item", data) }
}

/// How an agent works.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Longest work on one event.
    pub work_max: Duration,
    /// One of so many is nacked; 0 = none.
    pub nack_one_in: u64,
}

/// What an event says.
pub fn content(delivery: &Value) -> (String, u64) {
    let data = match &delivery["event"]["data"] {
        Value::String(text) => serde_json::from_str(text).expect("JSON"),
        other => other.clone(),
    };
    (data["key"].as_str().expect("a key").to_owned(), data["number"].as_u64().expect("a number"))
}

/// An agent with credit of one, over HTTP; aborting the task is its death.
pub fn agent(sidecar: &SidecarProcess, name: String, style: Style, history: History) -> JoinHandle<()> {
    let http = HttpAgent::of(sidecar);
    tokio::spawn(async move {
        loop {
            // Fails while its sidecar is gone; the test puts another agent beside another sidecar then.
            let polled = post(&http, "/v1/receive", &json!({"max": 1, "wait": "5s"})).await;
            let deliveries = polled.map(|answer| answer["deliveries"].as_array().cloned().unwrap_or_default());
            let Some(deliveries) = deliveries else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            for delivery in deliveries {
                let (start, (key, number)) = (Instant::now(), content(&delivery));
                tokio::time::sleep(style.work_max.mul_f64(rand::random())).await;
                let nack = style.nack_one_in > 0 && rand::random_range(0..style.nack_one_in) == 0;
                let id = delivery["delivery_id"].as_str().expect("an id");
                let end = Instant::now();
                let verb = if nack { "nack" } else { "ack" };
                if post(&http, &format!("/v1/deliveries/{id}/{verb}"), &json!({})).await.is_some() {
                    history.add(Run { key, number, member: name.clone(), start, end, done: !nack });
                }
            }
        }
    })
}

/// The body of a good answer.
async fn post(http: &HttpAgent, path: &str, body: &Value) -> Option<Value> {
    let headers = [("authorization", format!("Bearer {}", http.token))];
    let answer = agentbus_tests::http::request(&http.address, "POST", path, &headers, body.to_string().into()).await;
    answer.ok().filter(|answer| answer.status == 200).map(|answer| answer.body)
}
