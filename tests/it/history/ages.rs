//! Ages: of the namespace, of topics, of channels.

use std::collections::BTreeSet;
use std::time::Duration;

use agentbus_nats::subject::EventSubject;
use agentbus_tests::wait::until;
use serde_json::json;

use super::world::{World, publish, small, take};

async fn kept(world: &World) -> BTreeSet<String> {
    let records = world.read(&world.broker.names.events()).await;
    records
        .iter()
        .filter_map(|record| EventSubject::parse(&record.subject))
        .map(|subject| subject.to.to_string())
        .collect()
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

#[tokio::test]
async fn events_are_kept_as_long_as_their_address_says_and_unread_ones_longer() {
    let keys = "retention: {age: 2s}\nchannels: {ops: {retention: 1h}}\n\
                topics: {'audit.>': {retention: 1h}, note.short: {retention: 1s}}\n";
    let world = World::start(keys, small()).await;
    let (_w, writer) = world.agent("writer").await;
    world.broker.store("ab.default.n.writer.channel.-.ops.done.v1", "").await;
    // Parked for an agent that nobody has declared: only its age counts.
    world.broker.store("ab.default.n.writer.agent.-.ghost.t.v1", "").await;
    for (n, to) in (0..).zip(["audit.login", "other.made", "note.short", "note.made"]) {
        publish(&writer, n..n + 1, to).await;
    }
    // `live` and `dead` have not read the notes.
    until("other.made and the ghost's removed", || async {
        let kept = kept(&world).await;
        if kept.contains("other.made") || kept.contains("@ghost") { Err(kept) } else { Ok(()) }
    })
    .await;
    assert_eq!(kept(&world).await, set(&["audit.login", "#ops", "note.short", "note.made"]));
    for name in ["live", "dead"] {
        let (_sidecar, agent) = world.agent(name).await;
        assert_eq!(take(&agent, 2).await.len(), 2);
        world.broker.settled(name).await;
    }
    until("notes removed", || async {
        let kept = kept(&world).await;
        if kept == set(&["audit.login", "#ops"]) { Ok(()) } else { Err(kept) }
    })
    .await;
}

#[tokio::test]
async fn what_nobody_reads_for_too_long_is_parked_and_then_goes_with_its_age() {
    let world = World::start("retention: {age: 1s, lag: 2s}\n", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..3, "note.made").await;
    assert_eq!(take(&live, 3).await.len(), 3);
    until("letters", || async {
        let letters = world.letters("dead").await;
        if letters.len() == 3 { Ok(()) } else { Err(letters.len()) }
    })
    .await;
    until("an empty stream", || async {
        let kept = kept(&world).await;
        if kept.is_empty() { Ok(()) } else { Err(kept) }
    })
    .await;
    let told = world.facts("retention.lagging.v1").await;
    assert!(told.iter().any(|fact| fact["group"] == "dead" && fact["why"] == "lags"), "{told:?}");
}

#[tokio::test]
async fn only_what_is_unread_for_too_long_is_parked_however_few_of_the_events_are_the_groups() {
    const LAG: Duration = Duration::from_secs(3);
    let world = World::start("retention: {lag: 3s}\n", small()).await;
    let (_w, writer) = world.agent("writer").await;
    publish(&writer, 0..1, "note.made").await;
    publish(&writer, 1..101, "other.made").await;
    // One note comes every 50 ms: when the first one is too old, the newest are not.
    let last = 101 + 100;
    for n in 101..last {
        publish(&writer, n..n + 1, "note.made").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("letters", || async {
        let letters = world.letters("dead").await;
        if letters.len() == 101 { Ok(()) } else { Err(letters.len()) }
    })
    .await;
    for (id, (letter, event)) in world.letters("dead").await {
        let sent = std::time::SystemTime::try_from(event.time.expect("a time")).expect("a moment");
        let unread = letter.stored_at.duration_since(sent).expect("later");
        assert!(unread >= LAG - Duration::from_millis(200), "{id} was parked after {unread:?}");
    }
}

#[tokio::test]
async fn dead_letters_go_when_the_project_says_so() {
    let world = World::start("retention: {dead_letters: 2s}\n", small()).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..2, "note.made").await;
    for _ in 0..2 {
        let delivery = live.receive_one("20s").await;
        assert_eq!(live.settle(&delivery, "reject", json!({"reason": "no"})).await.status, 200);
    }
    let letters = world.broker.names.dead_letters();
    until("no letter", || async {
        let left = world.read(&letters).await.len();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    until("the fact", || async {
        let facts = world.facts("retention.dead_letters_removed.v1").await;
        let sum: u64 = facts.iter().filter_map(|fact| fact["letters"].as_u64()).sum();
        if sum == 2 { Ok(()) } else { Err(facts) }
    })
    .await;
}

#[tokio::test]
async fn a_group_needs_nothing_that_is_older_than_itself() {
    let world = World::start("retention: {age: 1s}\n", small()).await;
    let (_w, writer) = world.agent("writer").await;
    publish(&writer, 0..1, "late.made").await;
    world.broker.group("late", &["late.>"]).await;
    publish(&writer, 1..2, "late.made").await;
    until("only the second one", || async {
        let records = world.read(&world.broker.names.events()).await;
        let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
        if seqs == [2] { Ok(()) } else { Err(seqs) }
    })
    .await;
}
