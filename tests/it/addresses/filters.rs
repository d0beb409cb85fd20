//! Types are filtered by the broker, attributes by the sidecar.

use agentbus_nats::grant::{Directory, GroupGrant};
use agentbus_tests::broker::group;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use async_nats::jetstream::consumer::PullConsumer;
use serde_json::json;

async fn world(wanted: GroupGrant) -> (Broker, SidecarProcess) {
    let broker = Broker::start().await;
    let groups = [broker.group_with(wanted).await];
    let directory = Directory { channels: ["eng".to_owned()].into(), ..Directory::default() };
    let member = Member { agent: "ear", groups: &groups, publish: &["#eng", "pr.>"], directory, ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    (broker, sidecar)
}

#[tokio::test]
async fn unwanted_types_of_a_channel_never_leave_the_broker() {
    let types = vec!["pr.opened.v1".to_owned(), "pr.closed.v1".to_owned()];
    let (broker, sidecar) = world(GroupGrant { types, ..group("typed", &["#eng"]) }).await;
    let consumer: PullConsumer =
        broker.context.get_consumer_from_stream("typed", broker.names.events()).await.expect("exists");
    let mut filters = consumer.cached_info().config.filter_subjects.clone();
    filters.sort();
    let wanted = ["ab.default.*.*.channel.*.eng.pr.closed.v1", "ab.default.*.*.channel.*.eng.pr.opened.v1"];
    assert_eq!(filters, wanted);
    let agent = HttpAgent::of(&sidecar);
    for (id, event_type) in [("1", "build.done.v1"), ("2", ""), ("3", "pr.opened.v1"), ("4", "pr.opened")] {
        let mut event = json!({"id": id, "to": "#eng"});
        if !event_type.is_empty() {
            event["type"] = json!(event_type);
        }
        agent.publish(event).await;
    }
    assert_eq!(broker.state("typed").await.lag, 1, "the broker counts what is wanted only");
    let delivery = agent.receive_one("20s").await;
    assert_eq!(delivery["event"]["id"], "3");
    agent.ack(&delivery).await;
    broker.settled("typed").await;
    assert_eq!(sidecar.outcome("typed", "filtered").await, 0.0);
}

#[tokio::test]
async fn events_without_the_attributes_are_acked_and_counted() {
    let attributes = [("region".to_owned(), "eu".to_owned())].into();
    let (broker, sidecar) = world(GroupGrant { attributes, ..group("eu", &["#eng", "pr.>"]) }).await;
    let agent = HttpAgent::of(&sidecar);
    for (id, to, region) in
        [("1", "#eng", "us"), ("2", "#eng", "eu"), ("3", "pr.opened", "us"), ("4", "pr.opened", "eu")]
    {
        agent.publish(json!({"id": id, "to": to, "attributes": {"region": region}})).await;
    }
    agent.publish(json!({"id": "5", "to": "#eng"})).await;
    for id in ["2", "4"] {
        let delivery = agent.receive_one("20s").await;
        assert_eq!(delivery["event"]["id"], id);
        agent.ack(&delivery).await;
    }
    // The last one is looked at only when somebody asks.
    assert!(agent.receive(1, "200ms").await.is_empty());
    broker.settled("eu").await;
    until("three filtered events", || async {
        let filtered = sidecar.outcome("eu", "filtered").await;
        if filtered == 3.0 { Ok(()) } else { Err(filtered) }
    })
    .await;
}
