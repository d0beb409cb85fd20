//! A stream that was lost and made again: nothing of the old one is remembered about it.

use std::time::Duration;

use agentbus_nats::{consumers, plan};
use agentbus_tests::broker::group;
use agentbus_tests::wait::until;

use super::world::{World, publish, small};

/// Since when, as `status` says it, a group has not read.
async fn since(world: &World, group: &str) -> Result<String, serde_json::Value> {
    let status = world.get("/v1/status").await;
    let alarm = status["alarms"].as_array().and_then(|all| all.iter().find(|one| one["group"] == group));
    match alarm.and_then(|alarm| alarm["since"].as_str()) {
        Some(since) => Ok(since.to_owned()),
        None => Err(status["alarms"].clone()),
    }
}

#[tokio::test]
async fn an_event_of_a_stream_made_again_has_its_own_age() {
    let world = World::start("retention: {lag: 4s, on_lag: block}\n", small()).await;
    let (_w, writer) = world.agent("writer").await;
    publish(&writer, 0..1, "note.made").await;
    let first = until("an alarm", || since(&world, "dead")).await;
    let (bus, names) = (&*world.broker.bus, &world.broker.names);
    world.broker.context.delete_stream(names.events()).await.expect("deleted");
    plan::apply(bus, names, &small()).await.expect("made again");
    for name in ["live", "dead"] {
        consumers::ensure(bus, names, &group(name, &["note.>"])).await.expect("made again");
    }
    let before = std::time::SystemTime::now();
    world.broker.store("ab.default.n.writer.topic.-.note.made", "").await;
    let again = until("an alarm about the new event", || async {
        let since = since(&world, "dead").await?;
        if since == first { Err(serde_json::Value::from(since)) } else { Ok(since) }
    })
    .await;
    assert!(before.elapsed().expect("a clock") >= Duration::from_secs(4), "{again} was told too early: {first}");
}
