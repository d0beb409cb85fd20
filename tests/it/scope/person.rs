//! The person's credentials, for the plain nats CLI: sees and replays everything, changes no stream, publishes nothing.

use std::time::Duration;

use agentbus_nats::connect::Identity;
use agentbus_nats::identity::Layout;
use agentbus_tests::Broker;
use agentbus_tests::broker::now;
use async_nats::jetstream::{self, consumer};
use futures_util::TryStreamExt;
use tokio_stream::StreamExt;

use super::Caller;

async fn person(broker: &Broker) -> Caller {
    let identity = Identity::from_credentials(&broker.authority.person(now()).unwrap()).unwrap();
    Caller::connect(broker, identity, "_INBOX.person".to_owned(), Layout::Plain).await
}

async fn the_person_reads_and_replays_every_stream(layout: Layout) {
    let broker = Broker::start_in(layout).await;
    for (subject, text) in
        [("ab.default.n.a.topic.-.x", "1"), ("abd.default.g.a.REJECTED", "2"), ("aba.default.x", "3")]
    {
        broker.store(subject, text).await;
    }
    let me = person(&broker).await;
    let context = jetstream::new(me.link.client.clone());
    let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    for stream in [broker.names.events(), broker.names.dead_letters(), broker.names.audit()] {
        assert!(names.contains(&stream), "{names:?}");
        let handle = context.get_stream(&stream).await.unwrap();
        let by_number = handle.get_raw_message(1).await.unwrap();
        let replay = handle.create_consumer(consumer::pull::OrderedConfig::default()).await.unwrap();
        let first = replay.messages().await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(first.payload, by_number.payload);
        handle.direct_get(1).await.unwrap();
    }
    let registry = context.get_key_value(broker.names.registry()).await.unwrap();
    assert_eq!(registry.get("nobody").await.unwrap(), None);
    let mut live = me.link.client.subscribe("ab.>").await.unwrap();
    context.get_stream(broker.names.events()).await.unwrap();
    broker.store("ab.default.n.a.topic.-.x", "live").await;
    let seen = tokio::time::timeout(Duration::from_secs(5), live.next()).await.unwrap().unwrap();
    assert_eq!(seen.payload, "live");
}

async fn the_person_publishes_no_event_and_changes_no_stream(layout: Layout) {
    let broker = Broker::start_in(layout).await;
    broker.store("ab.default.n.a.topic.-.x", "1").await;
    let mut me = person(&broker).await;
    for subject in [
        "ab.default.n.me.topic.-.x",
        "ab.default.n.a.topic.-.x",
        "abr.default.g.me",
        "abd.default.g.me.REJECTED",
        "aba.default.x",
        "abc.default.a.renew",
        "$KV.AB_default_REGISTRY.a",
        "_INBOX.a.a.1",
    ] {
        me.refused(subject, "x").await;
    }
    for verb in ["DELETE", "PURGE", "UPDATE", "CREATE", "MSG.DELETE", "SNAPSHOT", "RESTORE"] {
        for stream in [broker.names.events(), broker.names.dead_letters(), "KV_AB_default_REGISTRY".to_owned()] {
            me.refused(&format!("$JS.API.STREAM.{verb}.{stream}"), "{}").await;
        }
    }
    assert_eq!(broker.count(&broker.names.events()).await, 1);
}

in_both! {
    the_person_reads_and_replays_every_stream,
    the_person_publishes_no_event_and_changes_no_stream,
}
