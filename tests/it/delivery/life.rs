//! Deliveries whose agent, sidecar or connection goes away.

use std::time::{Duration, Instant};

use agentbus_proto::sidecar::v1::Delivery;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::{PATIENCE, until};
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::json;

use super::agent::{Agent, Way, ack};
use super::world::{GROUP, World, member, note};

/// The broker's own patience is 10 s; what comes sooner did not wait for it.
const AT_ONCE: Duration = Duration::from_secs(5);

fn data(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.event.as_ref().expect("an event").data).into()
}

#[tokio::test]
async fn what_a_broken_stream_held_comes_again_at_once() {
    let mut world = World::start().await;
    world.publish("x").await;
    let proxy = Proxy::start(&world.sidecar.address()).await;
    let mut dying = grpc::client_via(&world.sidecar, &proxy.address()).await;
    let mut stream = Stream::open(&mut dying, 1).await;
    let held = stream.delivery().await;
    let mut other = Stream::open(&mut world.client, 1).await;
    let since = Instant::now();
    proxy.cut();
    let again = other.delivery().await;
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    assert_eq!((again.seq, again.stream), (held.seq, held.stream), "the same stored message, counted by the broker");
    other.ack(&Delivery { delivery_id: again.delivery_id, ..Delivery::default() }).await;
    world.settled().await;
    assert_eq!(world.outcome("crashed").await, 1.0);
}

#[tokio::test]
async fn what_a_closed_stream_held_is_given_back_without_counting_as_a_crash() {
    let mut world = World::start().await;
    world.publish("x").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    stream.delivery().await;
    let Stream { tx, rx } = stream;
    // Closes its side; the other one stays open until the sidecar is done.
    drop(tx);
    let since = Instant::now();
    let mut other = Stream::open(&mut world.client.clone(), 1).await;
    let again = other.delivery().await;
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    assert_eq!((again.attempt, data(&again).as_str()), (1, "x"));
    other.ack(&again).await;
    world.settled().await;
    assert_eq!((world.outcome("crashed").await, world.outcome("given_back").await), (0.0, 1.0));
    drop(rx);
}

#[tokio::test]
async fn a_cancelled_stream_is_a_closed_one() {
    let mut world = World::start().await;
    for n in 1..=5 {
        world.publish("x").await;
        // Dropping both halves resets the stream (CANCEL) on a living connection: on purpose, not a crash.
        drop({
            let mut stream = Stream::open(&mut world.client, 1).await;
            stream.delivery().await;
            stream
        });
        let got = Agent::connect(Way::Unary, &world.sidecar).await.next().await;
        assert_eq!(
            Agent::connect(Way::Unary, &world.sidecar).await.settle(&got.id, ack()).await,
            Ok(Default::default())
        );
        assert_eq!((world.outcome("crashed").await, world.outcome("given_back").await), (0.0, f64::from(n)));
    }
}

#[tokio::test]
async fn what_a_dead_agent_held_comes_again_at_once() {
    let mut world = World::start().await;
    world.publish("x").await;
    // A long poll has no connection that could break: only the supervisor knows.
    let agent = HttpAgent::of(&world.sidecar);
    let held = agent.receive_one("20s").await;
    let since = Instant::now();
    world.sidecar.agent_exited().await;
    let again = agent.receive_one("20s").await;
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    assert_eq!(again["seq"], held["seq"]);
    let late = agent.settle(&held, "ack", json!({})).await;
    assert_eq!(late.body["code"], "LEASE_LOST");
    agent.ack(&again).await;
    world.settled().await;
}

#[tokio::test]
async fn what_a_killed_sidecar_held_comes_to_another_member_within_the_ack_wait() {
    let mut world = World::start().await;
    world.publish("x").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    stream.delivery().await;
    let second = world.second().await;
    let other = HttpAgent::of(&second);
    world.sidecar.kill().await;
    let since = Instant::now();
    let again = other.receive_one("20s").await;
    assert!(since.elapsed() < Duration::from_secs(11), "{:?}", since.elapsed());
    assert_eq!(again["event"]["data"], "x");
}

#[tokio::test]
async fn a_delivery_of_a_killed_sidecar_can_be_acked_at_its_replacement() {
    let mut world = World::start().await;
    for (way, emit) in [(Way::Http, false), (Way::Unary, false), (Way::Stream, false), (Way::Unary, true)] {
        world.publish("x").await;
        let got = Agent::connect(way, &world.sidecar).await.next().await;
        let address = world.sidecar.address();
        world.sidecar.kill().await;
        let replacement = Member { listen: &address, ..member(&world.groups) };
        world.sidecar = SidecarProcess::start(&world.broker, replacement).await;
        world.client = grpc::client(&world.sidecar).await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        if emit {
            // The event it belongs to is not known here any more.
            let refused = agent.settle_with(&got.id, ack(), vec![grpc::event("out.one", "1")]).await;
            assert_eq!(refused, Err("LEASE_LOST".into()));
        }
        assert_eq!(agent.settle(&got.id, ack()).await, Ok(Default::default()), "{way:?}");
        assert_eq!(agent.settle(&got.id, ack()).await, Ok(Default::default()), "{way:?}");
        // Well before the ack wait: the broker has the ack.
        world.settled().await;
    }
}

#[tokio::test]
async fn a_redelivery_after_a_lost_ack_is_acked_without_bothering_the_agent() {
    let broker = Broker::start().await;
    let groups = [broker.group(GROUP, &["note.>"]).await];
    broker.ack_wait(GROUP, Duration::from_secs(4)).await;
    let proxy = Proxy::start(broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let behind = Member { server: Some(&address), ..member(&groups) };
    let sidecar = SidecarProcess::start(&broker, behind).await;
    let mut client = grpc::client(&sidecar).await;
    grpc::publish_all(&mut client, [note("x")]).await;
    let mut agent = Agent::connect(Way::Http, &sidecar).await;
    let got = agent.next().await;
    proxy.swallow(true);
    // The agent hears that it is done; the broker hears nothing.
    assert_eq!(agent.settle(&got.id, ack()).await, Ok(Default::default()));
    until("swallowed ack", || async { if proxy.lost() > 0 { Ok(()) } else { Err(()) } }).await;
    proxy.cut();
    proxy.swallow(false);
    assert_eq!(broker.state(GROUP).await.in_flight, 1, "the ack is lost");
    let mut stream = Stream::open(&mut client, 1).await;
    until("re-ack", || async {
        let reacked = sidecar.outcome(GROUP, "reacked").await;
        if reacked == 1.0 { Ok(()) } else { Err(reacked) }
    })
    .await;
    broker.settled(GROUP).await;
    assert!(stream.quiet(Duration::from_millis(200)).await, "the agent is not bothered");
}

#[tokio::test]
async fn a_drain_under_load_settles_or_gives_back_everything_and_counts_no_crash() {
    let mut world = World::start().await;
    world.publish_many(300).await;
    let mut stream = Stream::open(&mut world.client, 200).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(stream.delivery().await);
    }
    let late = HttpAgent::of(&world.sidecar);
    let second = world.second().await;
    world.sidecar.signal(rustix::process::Signal::TERM);
    while !matches!(stream.frame().await, agentbus_proto::sidecar::v1::subscribe_response::Frame::Draining(true)) {}
    let refused = late.post("/v1/receive", &json!({"max": 1, "wait": "1s"})).await;
    assert_eq!(refused.body["code"], "DRAINING");
    // The agent finishes half of it; the rest is still in its hands when the grace is over.
    for delivery in &held[..100] {
        stream.ack(delivery).await;
    }
    let end = tokio::time::timeout(PATIENCE, world.sidecar.child.wait()).await.expect("ends while its parent lives");
    assert!(end.unwrap().success());
    let mut client = grpc::client(&second).await;
    let mut rest = Stream::open(&mut client, 300).await;
    let mut seen: Vec<u32> = held[..100].iter().map(|delivery| data(delivery).parse().unwrap()).collect();
    for _ in 0..200 {
        let delivery = rest.delivery().await;
        assert_eq!(delivery.attempt, 1, "given back, not failed");
        seen.push(data(&delivery).parse().unwrap());
        rest.ack(&delivery).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    world.settled().await;
    assert_eq!(world.broker.state(GROUP).await.redelivered, 0, "the broker's count rises by crashes only");
}

#[tokio::test]
async fn a_drain_line_of_the_parent_gives_back_what_nobody_settles() {
    let mut world = World::start().await;
    world.publish("x").await;
    let agent = HttpAgent::of(&world.sidecar);
    agent.receive_one("20s").await;
    assert!(world.sidecar.drain().await.success());
    let again = HttpAgent::of(&world.second().await).receive_one("5s").await;
    assert_eq!((again["attempt"].as_u64(), again["event"]["data"].as_str()), (Some(1), Some("x")));
}
