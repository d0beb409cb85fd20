//! Whoever is away when a schedule is due: it comes all the same.

use agentbus_nats::topology::Sizes;
use agentbus_tests::wait::{until, until_within};
use serde_json::json;

use super::world::{World, schedule, take, text};

#[tokio::test]
async fn without_a_control_plane_it_fires() {
    let mut world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.once", "after": "4s", "id": "once"})).await;
    schedule(&clock, json!({"to": "tick.second", "cron": "* * * * * *", "id": "seconds"})).await;
    world.stop_control().await;
    // Those of before the stop do not count: the stream tells how many there are.
    let before = world.broker.count(&world.broker.names.events()).await;
    let after = until("more events", || async {
        let count = world.broker.count(&world.broker.names.events()).await;
        if count >= before + 2 { Ok(count) } else { Err(count) }
    });
    after.await;
    let (mut once, mut ids) = (false, std::collections::BTreeSet::new());
    while !once {
        let event = take(&clock).await;
        once = text(&event, "to") == "tick.once";
        assert!(ids.insert(text(&event, "id").to_owned()), "twice: {event}");
    }
}

#[tokio::test]
async fn a_broker_that_was_away_fires_what_is_overdue_once() {
    let mut world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.overdue", "after": "2s", "id": "overdue"})).await;
    schedule(&clock, json!({"to": "tick.later", "after": "1h", "id": "later"})).await;
    world.broker.server.kill9().await.expect("killed");
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    world.broker.server.restart().await.expect("restarted");
    let event = take(&clock).await;
    assert!(text(&event, "id").starts_with("overdue."), "{event}");
    // What it has given away is gone, what is for later is still there.
    until("one schedule", || async {
        let waiting = world.waiting().await;
        if waiting == 1 { Ok(()) } else { Err(waiting) }
    })
    .await;
    assert_eq!(world.broker.count(&world.broker.names.events()).await, 1);
}

/// A full events stream takes nothing; what is due waits where it is, over a kill of the broker, too.
#[tokio::test]
async fn a_full_events_stream_gets_what_was_due_when_there_is_room() {
    let sizes = Sizes { events_bytes_max: 64 * 1024, ..Sizes::within(256 * 1024 * 1024) };
    let mut world = World::start_with(sizes).await;
    let (_clock, clock) = world.agent("clock").await;
    let (_other, other) = world.agent("other").await;
    let fill = json!({"to": "note.fill", "data": "x".repeat(20_000)});
    while other.post("/v1/publish", &fill).await.status == 200 {}
    let small = json!({"to": "note.fill"});
    while other.post("/v1/publish", &small).await.status == 200 {}
    let stored = world.broker.count(&world.broker.names.events()).await;
    schedule(&clock, json!({"to": "tick.once", "after": "0s", "id": "once"})).await;
    let fired = || async {
        let subjects = world.broker.messages(&world.broker.names.schedules()).await;
        let subjects: Vec<String> = subjects.iter().map(|message| message.subject.to_string()).collect();
        if subjects == ["abs.default.due.once.n.clock.topic.-.tick.once"] { Ok(()) } else { Err(subjects) }
    };
    until("a fired event that waits", fired).await;
    world.broker.crash().await;
    assert_eq!(world.broker.count(&world.broker.names.events()).await, stored);
    world.broker.bus.purge(&world.broker.names.events(), 3, None).await.expect("purged");
    let event = take(&clock).await;
    assert!(text(&event, "id").starts_with("once."), "{event}");
    until_within("an empty stream of schedules", std::time::Duration::from_secs(60), || async {
        let waiting = world.waiting().await;
        if waiting == 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
}
