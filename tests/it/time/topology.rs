//! The streams for it: made, and added to an installation that was there before.

use agentbus_nats::plan::{self, Step};
use agentbus_nats::topology::Sizes;
use agentbus_tests::Broker;
use async_nats::jetstream::stream;

#[tokio::test]
async fn an_older_events_stream_learns_to_take_what_is_due() {
    let broker = Broker::start().await;
    let (events, schedules) = (broker.names.events(), broker.names.schedules());
    let config = |stream: stream::Stream| stream.cached_info().config.clone();
    let made = config(broker.context.get_stream(&events).await.expect("there"));
    broker.store("ab.default.n.a.topic.-.t", "kept").await;
    broker.context.update_stream(stream::Config { sources: None, ..made.clone() }).await.expect("as it was before");
    broker.context.delete_stream(&schedules).await.expect("deleted");

    let sizes = Sizes::within(256 * 1024 * 1024);
    let steps = plan::apply(&*broker.bus, &broker.names, &sizes).await.expect("applied");
    let named = |wanted: &str| {
        steps.iter().find(|step| matches!(step, Step::Create { name } | Step::Update { name, .. } if name == wanted))
    };
    assert!(matches!(named(&schedules), Some(Step::Create { .. })), "{steps:?}");
    assert!(
        matches!(named(&events), Some(Step::Update { changes, .. }) if changes.len() == 1 && changes[0].field == "sources"),
        "{steps:?}"
    );
    assert_eq!(config(broker.context.get_stream(&events).await.expect("there")).sources, made.sources);
    assert_eq!(broker.count(&events).await, 1, "updated in place");
    let again = plan::plan(&*broker.bus, &broker.names, &sizes).await.expect("planned");
    assert!(!again.iter().any(Step::changes_something), "{again:?}");
}
