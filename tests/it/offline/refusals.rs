//! What the spool does not take, and what the broker does not take from it.

use std::time::Duration;

use agentbus_nats::grant::SpoolOptions;
use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::Stored;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use agentbus_tests::{Member, SidecarProcess, grpc};
use futures_util::StreamExt;
use serde_json::Value;

use super::world::{SPOOL, World, ids, note, notes, publish, spooled};

#[tokio::test]
async fn a_full_spool_refuses_with_its_code_and_keeps_what_it_accepted() {
    let mut world = World::start().await;
    let small = SpoolOptions { bytes_max: 64 * 1024, ..SPOOL };
    let sidecar = SidecarProcess::start(&world.broker, Member { spool: Some(small), ..world.member() }).await;
    let mut client = grpc::client(&sidecar).await;
    world.broker.server.kill9().await.unwrap();
    // What is sent before the sidecar notices and then finds no room has an unknown outcome.
    until("noticed", || async {
        if sidecar.metric("agentbus_broker_connected").await == 0.0 { Ok(()) } else { Err(()) }
    })
    .await;
    let large = |n: usize| Event { data: "x".repeat(4096).into(), ..note(&format!("n-{n}")) };
    let answers = grpc::publish_all(&mut client, (0..50).map(large)).await;
    let kept: Vec<String> =
        answers.iter().filter(|answer| answer.failure.is_none()).map(|answer| answer.id.clone()).collect();
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.failure.as_ref()).collect();
    assert!(kept.len() > 10 && kept.len() + refused.len() == 50);
    for failure in refused {
        assert!(failure.code == "SPOOL_FULL" && failure.retry_after.is_some(), "{failure:?}");
        assert!(failure.message.contains("64KiB"), "{failure:?}");
    }
    world.broker.server.restart().await.unwrap();
    spooled(&sidecar, 0.0).await;
    assert_eq!(world.stored().await.1, kept);
    publish(&mut client, vec![note("after")], Stored::Broker).await;
}

#[tokio::test]
async fn what_is_refused_for_good_goes_to_the_refused_log_and_blocks_nobody() {
    let mut world = World::start().await;
    let mut sidecar = world.sidecar().await;
    let mut client = grpc::client(&sidecar).await;
    world.broker.server.kill9().await.unwrap();
    let mut events = notes("kept", 20);
    events.insert(3, Event { id: "outside".into(), ..grpc::event("note.private", "x") });
    publish(&mut client, events, Stored::Spool).await;
    sidecar.kill().await;
    world.broker.server.restart().await.unwrap();
    // The successor may publish less.
    let member = Member { publish: &["note.made"], ..world.member() };
    let sidecar = SidecarProcess::start(&world.broker, member).await;
    spooled(&sidecar, 0.0).await;
    assert_eq!(world.stored().await.1, ids(&notes("kept", 20)));
    assert_eq!(sidecar.metric("agentbus_spool_refused").await, 1.0);
    let log = std::fs::read_to_string(world.state.path().join("spool/refused.jsonl")).unwrap();
    let line: Value = serde_json::from_str(log.trim()).unwrap();
    assert_eq!((&line["id"], &line["code"]), (&"outside".into(), &"SCOPE_DENIED".into()));
}

#[tokio::test]
async fn nothing_overtakes_an_event_of_the_spool_that_the_full_stream_has_no_room_for() {
    let mut world = World::start().await;
    world.room(64 * 1024).await;
    let sidecar = world.sidecar().await;
    let mut client = grpc::client(&sidecar).await;
    let large = |id: &str| Event { data: "x".repeat(40_000).into(), ..note(id) };
    publish(&mut client, vec![large("before")], Stored::Broker).await;
    world.broker.server.kill9().await.unwrap();
    let events: Vec<Event> = [large("large")].into_iter().chain(notes("small", 20)).collect();
    publish(&mut client, events.clone(), Stored::Spool).await;
    world.broker.server.restart().await.unwrap();
    three_tries(&world).await;
    world.room(1024 * 1024).await;
    spooled(&sidecar, 0.0).await;
    let expected: Vec<String> = ["before".to_owned()].into_iter().chain(ids(&events)).collect();
    let (counts, order) = world.stored().await;
    assert_eq!(order, expected);
    assert!(counts.values().all(|count| *count == 1));
}

#[tokio::test]
async fn nothing_overtakes_it_either_when_the_first_of_the_spool_was_stored_before() {
    let mut world = World::start().await;
    world.room(64 * 1024).await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let sidecar = SidecarProcess::start(&world.broker, Member { server: Some(&address), ..world.member() }).await;
    let mut client = grpc::client(&sidecar).await;
    let large = |id: &str| Event { data: "x".repeat(40_000).into(), ..note(id) };
    publish(&mut client, vec![large("before")], Stored::Broker).await;
    // The broker stores it, and its answer is lost.
    proxy.deafen(true);
    let unanswered = tokio::spawn({
        let mut client = client.clone();
        async move { publish(&mut client, vec![note("stored")], Stored::Spool).await }
    });
    until("stored", || async {
        let count = world.broker.count(&world.broker.names.events()).await;
        if count == 2 { Ok(()) } else { Err(count) }
    })
    .await;
    world.broker.server.kill9().await.unwrap();
    unanswered.await.unwrap();
    publish(&mut client, vec![large("large"), note("small")], Stored::Spool).await;
    proxy.deafen(false);
    world.broker.server.restart().await.unwrap();
    three_tries(&world).await;
    world.room(1024 * 1024).await;
    spooled(&sidecar, 0.0).await;
    let (counts, order) = world.stored().await;
    assert_eq!(order, ["before", "stored", "large", "small"]);
    assert!(counts.values().all(|count| *count == 1));
}

/// Waits until the large event has been tried three times. Whoever listens hears each try, stored or not.
async fn three_tries(world: &World) {
    let mut tries = world.broker.link.client.subscribe("ab.default.n.writer.>").await.unwrap();
    let mut heard = 0;
    while heard < 3 {
        let event = tokio::time::timeout(Duration::from_secs(30), tries.next()).await.expect("a try").expect("open");
        heard += usize::from(event.payload.len() > 40_000);
    }
}

/// A small disk that goes away with the test. Needs root on Linux, like the tests in `up/disk.rs`.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        if std::env::var_os("AGENTBUS_TEST_NO_MOUNT").is_some() {
            eprintln!("left out because AGENTBUS_TEST_NO_MOUNT is set: a full disk is not tested");
            return None;
        }
        let place = tempfile::tempdir().expect("temporary folder");
        let mut mount = std::process::Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"]).arg(place.path()).status().expect("mount");
        assert!(mounted.success(), "a small tmpfs cannot be mounted; AGENTBUS_TEST_NO_MOUNT=1 leaves this test out");
        Some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_with_its_reason_and_what_was_accepted_is_stored() {
    let mut world = World::start().await;
    let Some(disk) = SmallDisk::mount() else { return };
    let member = Member { state: disk.0.path().to_str(), ..world.member() };
    let mut sidecar = SidecarProcess::start(&world.broker, member).await;
    let mut client = grpc::client(&sidecar).await;
    world.broker.server.kill9().await.unwrap();
    let large = |n: usize| Event { data: "x".repeat(50_000).into(), ..note(&format!("n-{n}")) };
    let answers = grpc::publish_all(&mut client, (0..40).map(large)).await;
    let kept: Vec<String> =
        answers.iter().filter(|answer| answer.failure.is_none()).map(|answer| answer.id.clone()).collect();
    assert!((10..30).contains(&kept.len()), "{}", kept.len());
    for failure in answers.iter().filter_map(|answer| answer.failure.as_ref()) {
        assert!(failure.code == "SPOOL_FULL" && failure.message.contains("No space left"), "{failure:?}");
    }
    // The files are whole: a successor reads them.
    sidecar.kill().await;
    world.broker.server.restart().await.unwrap();
    let member = Member { state: disk.0.path().to_str(), ..world.member() };
    let sidecar = SidecarProcess::start(&world.broker, member).await;
    spooled(&sidecar, 0.0).await;
    let (counts, order) = world.stored().await;
    assert_eq!(order, kept);
    assert!(counts.values().all(|count| *count == 1));
}
