//! The broker away, back, or full.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use agentbus_nats::topology::Sizes;
use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::{EventHead, Fault};
use agentbus_tests::broker::group;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::proxy::Proxy;
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::agent::{Agent, Way, ack, nack, reject};
use super::world::{GROUP, World, member, note};

const MIB: i64 = 1 << 20;

#[tokio::test]
async fn a_broker_that_restarts_mid_flight_loses_nothing_and_stores_nothing_twice() {
    const EVENTS: usize = 2000;
    let mut world = World::start().await;
    let mut stream = Stream::open(&mut world.client.clone(), 64).await;
    let (tx, requests) = mpsc::channel(64);
    let mut answers = world.client.publish_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let publish = tokio::spawn(async move {
        for n in 0..EVENTS {
            let event = Event { id: format!("id-{n}"), ..note(&n.to_string()) };
            tx.send(PublishRequest { event: Some(event), ..PublishRequest::default() }).await.unwrap();
        }
    });
    let (mut accepted, mut delivered, mut crashed) = (HashSet::new(), HashSet::new(), false);
    while accepted.len() < EVENTS || delivered.len() < EVENTS {
        tokio::select! {
            Ok(Some(answer)) = answers.message(), if accepted.len() < EVENTS => {
                assert_eq!(answer.failure, None);
                accepted.insert(answer.id);
            }
            delivery = stream.delivery() => {
                stream.ack(&delivery).await;
                delivered.insert(delivery.event.unwrap().id);
            }
        }
        if accepted.len() == EVENTS / 4 && !crashed {
            crashed = true;
            world.broker.crash().await;
        }
    }
    publish.await.unwrap();
    assert!(crashed && accepted == delivered);
    world.settled().await;
    let mut stored: HashMap<String, u32> = HashMap::new();
    for message in world.broker.messages(&world.broker.names.events()).await {
        *stored.entry(EventHead::decode(&message.payload).unwrap().id).or_default() += 1;
    }
    assert!(stored.len() == EVENTS && stored.values().all(|count| *count == 1), "each id stored once");
}

#[tokio::test]
async fn a_publish_whose_answer_or_request_is_lost_is_sent_again_and_stored_once() {
    let broker = Broker::start().await;
    let proxy = Proxy::start(broker.url().trim_start_matches("nats://")).await;
    let address = proxy.address();
    let groups = [broker.group(GROUP, &["note.>"]).await];
    let sidecar = SidecarProcess::start(&broker, Member { server: Some(&address), ..member(&groups) }).await;
    let client = grpc::client(&sidecar).await;
    let publish = |data: &'static str| {
        let mut client = client.clone();
        tokio::spawn(async move { grpc::publish_all(&mut client, [note(data)]).await.remove(0) })
    };
    proxy.deafen(true);
    let answer_lost = publish("one");
    until("stored", || async { if broker.count(&broker.names.events()).await == 1 { Ok(()) } else { Err(()) } }).await;
    proxy.cut();
    proxy.deafen(false);
    let answer = answer_lost.await.unwrap();
    assert_eq!((answer.failure, answer.seq, answer.duplicate), (None, Some(1), Some(true)));
    proxy.swallow(true);
    let request_lost = publish("two");
    until("lost", || async { if proxy.lost() > 0 { Ok(()) } else { Err(()) } }).await;
    proxy.cut();
    proxy.swallow(false);
    let answer = request_lost.await.unwrap();
    assert_eq!((answer.failure, answer.seq, answer.duplicate), (None, Some(2), Some(false)));
    assert_eq!(broker.count(&broker.names.events()).await, 2);
}

#[tokio::test]
async fn a_publish_without_a_broker_fails_soon_and_works_again_when_it_is_back() {
    let mut world = World::start().await;
    world.publish("before").await;
    world.broker.server.kill9().await.unwrap();
    until("noticed", || async {
        if world.sidecar.metric("agentbus_broker_connected").await == 0.0 { Ok(()) } else { Err(()) }
    })
    .await;
    let since = Instant::now();
    let request = PublishRequest { event: Some(note("during")), ..PublishRequest::default() };
    let fault = Fault::from(world.client.publish(request).await.unwrap_err());
    assert_eq!(fault.code.as_str(), "BROKER_DOWN");
    assert!(fault.retry_after.is_some() && since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    world.broker.server.restart().await.unwrap();
    until("publish", || {
        let mut client = world.client.clone();
        async move {
            let request = PublishRequest { event: Some(note("after")), ..PublishRequest::default() };
            client.publish(request).await.map_err(|status| status.message().to_owned())
        }
    })
    .await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    for expected in ["before", "after"] {
        let delivery = stream.delivery().await;
        assert_eq!(delivery.event.as_ref().unwrap().data, expected);
        stream.ack(&delivery).await;
    }
}

#[tokio::test]
async fn a_full_stream_is_back_pressure_and_what_is_stored_flows_on() {
    let sizes = Sizes { events_bytes_max: 64 * 1024, ..Sizes::within(256 * MIB) };
    let mut world = World::on(Broker::start_with(sizes).await, group(GROUP, &["note.>"])).await;
    let answers = grpc::publish_all(&mut world.client, (0..100).map(|_| note(&"x".repeat(1024)))).await;
    let stored = answers.iter().filter(|answer| answer.failure.is_none()).count();
    let failures: Vec<_> = answers.iter().filter_map(|answer| answer.failure.as_ref()).collect();
    assert!(stored > 10 && !failures.is_empty());
    assert!(failures.iter().all(|failure| failure.code == "STREAM_FULL" && failure.retry_after.is_some()));
    let mut stream = Stream::open(&mut world.client, 10).await;
    for _ in 0..stored {
        let delivery = stream.delivery().await;
        stream.ack(&delivery).await;
    }
    world.settled().await;
}

#[tokio::test]
async fn a_nack_stays_in_place_when_the_retry_stream_is_full() {
    let sizes = Sizes { retry_bytes_max: 2 * 1024, ..Sizes::within(256 * MIB) };
    let mut world = World::on(Broker::start_with(sizes).await, group(GROUP, &["note.>"])).await;
    world.publish(&"x".repeat(4096)).await;
    let mut agent = Agent::connect(Way::Http, &world.sidecar).await;
    let (got, since) = (agent.next().await, Instant::now());
    assert_eq!(agent.settle(&got.id, nack("later")).await, Ok(Default::default()));
    assert_eq!(agent.settle(&got.id, nack("later")).await, Ok(Default::default()), "repeated");
    let again = agent.next().await;
    assert!(since.elapsed() >= Duration::from_millis(200), "after its back-off: {:?}", since.elapsed());
    assert_eq!((again.event_id == got.event_id, world.broker.count(&world.broker.names.retry()).await), (true, 0));
    agent.settle(&again.id, ack()).await.unwrap();
    world.settled().await;
}

#[tokio::test]
async fn a_reject_fails_and_the_event_is_kept_when_the_dead_letter_stream_is_full() {
    let sizes = Sizes { dead_letter_bytes_max: 2 * 1024, ..Sizes::within(256 * MIB) };
    let mut world = World::on(Broker::start_with(sizes).await, group(GROUP, &["note.>"])).await;
    world.publish(&"x".repeat(4096)).await;
    let mut agent = Agent::connect(Way::Http, &world.sidecar).await;
    let got = agent.next().await;
    assert_eq!(agent.settle(&got.id, reject("no")).await, Err("STREAM_FULL".into()));
    assert_eq!(world.broker.state(GROUP).await.in_flight, 1, "kept");
    // Still the agent's: it may decide otherwise.
    assert_eq!(agent.settle(&got.id, ack()).await, Ok(Default::default()));
    world.settled().await;
}
