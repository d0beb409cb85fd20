//! Who gets what, when, and how much at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::Delivery;
use agentbus_tests::broker::group;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::world::{GROUP, World, note};

fn data(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.event.as_ref().expect("an event").data).into()
}

#[tokio::test]
async fn an_ordered_group_keeps_the_order_under_nacks() {
    let mut ordered = group(GROUP, &["note.>"]);
    ordered.ordered = true;
    let mut world = World::with(ordered).await;
    world.publish_many(10).await;
    let mut stream = Stream::open(&mut world.client, 5).await;
    let mut seen = Vec::new();
    for n in 0..10 {
        let mut delivery = stream.delivery().await;
        if n % 3 == 0 {
            stream.nack(&delivery, "not yet").await;
            let again = stream.delivery().await;
            assert_eq!((data(&again), again.attempt), (data(&delivery), 2));
            delivery = again;
        }
        seen.push(data(&delivery).parse::<u32>().unwrap());
        stream.ack(&delivery).await;
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    world.settled().await;
}

#[tokio::test]
async fn a_nack_in_place_may_be_repeated() {
    let mut ordered = group(GROUP, &["note.>"]);
    ordered.ordered = true;
    let mut world = World::with(ordered).await;
    world.publish("x").await;
    let agent = HttpAgent::of(&world.sidecar);
    let held = agent.receive_one("20s").await;
    for _ in 0..2 {
        assert_eq!(agent.settle(&held, "nack", serde_json::json!({})).await.status, 200);
    }
    assert_eq!(agent.settle(&held, "ack", serde_json::json!({})).await.body["code"], "LEASE_LOST");
    agent.ack(&agent.receive_one("20s").await).await;
    world.settled().await;
}

#[tokio::test]
async fn two_members_of_a_group_share_the_work() {
    let mut world = World::start().await;
    let second = world.second().await;
    let mut other = grpc::client(&second).await;
    let (mut one, mut two) = (Stream::open(&mut world.client.clone(), 5).await, Stream::open(&mut other, 5).await);
    world.publish_many(10).await;
    // Nobody settles: with a credit of 5 each, 10 events take both.
    let mut seen = HashSet::new();
    for _ in 0..5 {
        seen.insert(data(&one.delivery().await));
        seen.insert(data(&two.delivery().await));
    }
    assert_eq!(seen.len(), 10, "each event once");
}

#[tokio::test]
async fn every_group_gets_every_event_and_a_later_group_only_later_ones() {
    let broker = Broker::start().await;
    let one = [broker.group("one", &["note.>"]).await];
    let two = [broker.group("two", &["note.>"]).await];
    let publisher = Member { agent: "one", publish: &["note.>"], groups: &one, ..Member::default() };
    let first = SidecarProcess::start(&broker, publisher).await;
    let mut client = grpc::client(&first).await;
    grpc::publish_all(&mut client, [note("early")]).await;
    let three = [broker.group("three", &["note.>"]).await];
    grpc::publish_all(&mut client, [note("late")]).await;
    for (groups, expected) in [(&one, vec!["early", "late"]), (&two, vec!["early", "late"]), (&three, vec!["late"])] {
        let name = groups[0].name.as_str();
        let sidecar =
            SidecarProcess::start(&broker, Member { agent: name, groups, instance: "x", ..Member::default() }).await;
        let mut stream = Stream::open(&mut grpc::client(&sidecar).await, 10).await;
        for data_expected in expected {
            let delivery = stream.delivery().await;
            assert_eq!(data(&delivery), data_expected, "{name}");
            stream.ack(&delivery).await;
        }
        broker.settled(name).await;
    }
}

#[tokio::test]
async fn a_long_poll_waits_and_returns_as_soon_as_something_comes() {
    let mut world = World::start().await;
    let agent = HttpAgent::of(&world.sidecar);
    let since = Instant::now();
    assert!(agent.receive(1, "300ms").await.is_empty());
    assert!(since.elapsed() >= Duration::from_millis(300));
    let poll = tokio::spawn(async move { (agent.receive_one("20s").await, Instant::now()) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let published = Instant::now();
    world.publish("x").await;
    let (got, at) = poll.await.unwrap();
    assert_eq!(got["event"]["data"], "x");
    assert!(at > published && at - published < Duration::from_secs(2), "{:?}", at - published);
}

#[tokio::test]
async fn a_poller_that_hangs_up_loses_no_event() {
    let mut world = World::start().await;
    let agent = HttpAgent::of(&world.sidecar);
    for n in 0..5 {
        let stream = TcpStream::connect(&agent.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = hyper::Request::post("/v1/receive")
            .header("host", &agent.address)
            .header("authorization", format!("Bearer {}", agent.token));
        let poll = tokio::spawn(sender.send_request(request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()));
        until("poll", || async { if world.broker.state(GROUP).await.waiting > 0 { Ok(()) } else { Err(()) } }).await;
        connection.abort();
        drop(poll);
        world.publish(&n.to_string()).await;
        let got = agent.receive_one("5s").await;
        assert_eq!((got["event"]["data"].as_str(), got["attempt"].as_u64()), (Some(n.to_string().as_str()), Some(1)));
        agent.ack(&got).await;
    }
    world.settled().await;
}

#[tokio::test]
async fn what_nobody_asks_for_any_more_goes_to_another_member() {
    let mut world = World::start().await;
    // A poll that ends empty leaves its request at the broker; the next event is sent to a sidecar without a listener.
    assert!(HttpAgent::of(&world.sidecar).receive(10, "100ms").await.is_empty());
    world.publish("x").await;
    let second = world.second().await;
    let got = HttpAgent::of(&second).receive_one("20s").await;
    assert_eq!((got["event"]["data"].as_str(), got["attempt"].as_u64()), (Some("x"), Some(1)));
    assert_eq!(world.outcome("crashed").await, 0.0);
}

#[tokio::test]
async fn a_subscription_without_a_control_plane_fails_soon_and_everything_granted_goes_on() {
    // There is no control plane in this harness at all: what the other tests show, they show without one.
    let mut world = World::start().await;
    let since = Instant::now();
    let wanted = agentbus_proto::sidecar::v1::Subscription {
        patterns: vec!["other.>".into()],
        group: "other".into(),
        ..Default::default()
    };
    let refused = Stream::try_open(&mut world.client, vec![wanted], 1).await.err().expect("refused");
    assert_eq!(refused.code.as_str(), "CONTROL_PLANE_DOWN");
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    world.publish_event(Event { id: "1".into(), ..note("x") }).await;
    let agent = HttpAgent::of(&world.sidecar);
    agent.ack(&agent.receive_one("5s").await).await;
    world.settled().await;
}

#[tokio::test]
async fn a_poll_for_one_group_leaves_the_others_alone() {
    let broker = Broker::start().await;
    let groups = [broker.group("ga", &["a.>"]).await, broker.group("gb", &["b.>"]).await];
    let member = Member { agent: "worker", groups: &groups, publish: &[">"], ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    for to in ["a.one", "b.one", "a.two"] {
        agent.publish(json!({"to": to})).await;
    }
    let answer = agent.post("/v1/receive", &json!({"max": 10, "wait": "5s", "group": "gb"})).await;
    let deliveries = answer.body["deliveries"].as_array().cloned().unwrap_or_default();
    assert_eq!(deliveries.len(), 1, "{}", answer.body);
    assert_eq!(deliveries[0]["event"]["to"], "b.one");
    let unknown = agent.post("/v1/receive", &json!({"group": "gc"})).await;
    assert_eq!((unknown.status, unknown.body["code"].as_str()), (400, Some("INVALID_ADDRESS")));
}

#[tokio::test]
async fn credit_of_one_serves_two_groups_in_turn() {
    let broker = Broker::start().await;
    let groups = [broker.group("ga", &["a.>"]).await, broker.group("gb", &["b.>"]).await];
    let member = Member { agent: "worker", groups: &groups, publish: &[">"], ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let mut client = grpc::client(&sidecar).await;
    let mut stream = Stream::open(&mut client, 1).await;
    let agent = HttpAgent::of(&sidecar);
    for n in 0..10 {
        agent.publish(json!({"to": "a.one", "data": n})).await;
        agent.publish(json!({"to": "b.one", "data": n})).await;
    }
    let mut seen = Vec::new();
    for _ in 0..20 {
        let delivery = stream.delivery().await;
        seen.push(delivery.group.clone());
        stream.ack(&delivery).await;
    }
    assert_eq!((seen.iter().filter(|group| *group == "ga").count(), seen.len()), (10, 20));
}
