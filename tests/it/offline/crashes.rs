//! The sidecar dies at any moment.

use agentbus_proto::sidecar::v1::Stored;
use agentbus_sidecar::metrics::Metrics;
use agentbus_sidecar::spool::Spool;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use agentbus_tests::{Member, SidecarProcess, grpc};
use rustix::process::Signal;

use super::world::{SPOOL, World, ids, notes, publish, spooled};

#[tokio::test]
async fn a_sidecar_that_is_killed_while_it_sends_the_spool_stores_each_event_once_and_in_order() {
    const EVENTS: usize = 3000;
    let mut world = World::start().await;
    let mut sidecar = world.sidecar().await;
    let mut client = grpc::client(&sidecar).await;
    world.broker.server.kill9().await.unwrap();
    publish(&mut client, notes("n", EVENTS), Stored::Spool).await;
    sidecar.kill().await;
    world.broker.server.restart().await.unwrap();
    let (mut left, mut rounds) = (EVENTS as f64, 0);
    while left > 0.0 {
        let mut sidecar = world.sidecar().await;
        // Right in the middle: it is sending now.
        left = until("some of them sent", || async {
            let now = sidecar.metric("agentbus_spool_events").await;
            if now < left { Ok(now) } else { Err(now) }
        })
        .await;
        sidecar.kill().await;
        rounds += 1;
    }
    let (counts, order) = world.stored().await;
    assert_eq!(order, ids(&notes("n", EVENTS)));
    assert!(counts.values().all(|count| *count == 1) && rounds > 3, "{rounds} rounds");
}

#[tokio::test]
async fn two_instances_never_share_a_spool_and_a_drained_one_keeps_what_it_could_not_send() {
    let mut world = World::start().await;
    let mut first = world.sidecar().await;
    let second = Member { instance: "writer-2", ..world.member() };
    let Err((code, message)) = SidecarProcess::try_start(&world.broker, second).await else { panic!("shared") };
    assert!(code == "BAD_CONFIG" && message.contains("in use"), "{code}: {message}");
    let mut client = grpc::client(&first).await;
    world.broker.server.kill9().await.unwrap();
    publish(&mut client, notes("n", 10), Stored::Spool).await;
    assert!(first.terminate().await.success());
    world.broker.server.restart().await.unwrap();
    let second = world.sidecar().await;
    spooled(&second, 0.0).await;
    assert_eq!(world.stored().await.1, ids(&notes("n", 10)));
}

#[tokio::test]
async fn a_sidecar_that_is_stopped_while_it_sends_the_spool_notes_what_it_has_sent() {
    let mut world = World::start().await;
    let proxy = Proxy::start(world.broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let mut sidecar = SidecarProcess::start(&world.broker, Member { server: Some(&address), ..world.member() }).await;
    let mut client = grpc::client(&sidecar).await;
    world.broker.server.kill9().await.unwrap();
    publish(&mut client, notes("n", 20), Stored::Spool).await;
    // No room, so that the spool waits until its answers are held up.
    world.broker.server.restart().await.unwrap();
    world.room(1).await;
    until("back", || async { if sidecar.metric("agentbus_broker_connected").await == 1.0 { Ok(()) } else { Err(()) } })
        .await;
    proxy.hold(true);
    world.room(1 << 20).await;
    until("stored", || async {
        let count = world.broker.count(&world.broker.names.events()).await;
        if count == 20 { Ok(()) } else { Err(count) }
    })
    .await;
    sidecar.signal(Signal::TERM);
    let api = sidecar.url.trim_start_matches("http://").to_owned();
    until("listeners closed", || async {
        if tokio::net::TcpStream::connect(&api).await.is_err() { Ok(()) } else { Err(()) }
    })
    .await;
    proxy.hold(false);
    assert!(sidecar.child.wait().await.unwrap().success());
    drop(sidecar);
    let left = Spool::open(&world.state.path().join("spool"), &SPOOL, Metrics::new()).unwrap();
    assert_eq!(left.counts().events, 0);
}
