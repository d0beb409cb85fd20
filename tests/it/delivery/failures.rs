//! Events that cannot be delivered or may not be: what becomes of them, and of those behind them.

use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::subject::{EventSubject, Lane};
use agentbus_proto::event::v1::{DeliveryMode, DeliveryOptions, Event};
use agentbus_tests::Broker;
use agentbus_tests::broker::group;
use agentbus_tests::grpc::{self, Stream};
use prost::Message;

use super::agent::{Agent, Way, ack, nack, reject};
use super::world::{GROUP, World, header, member, note, with_policy};

#[tokio::test]
async fn an_event_that_fails_every_attempt_becomes_a_dead_letter_that_tells_its_story() {
    let mut world = World::with(with_policy(|policy| policy.max_attempts = 3)).await;
    let seq = world.publish("x").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    for attempt in 1..=3 {
        let delivery = stream.delivery().await;
        assert_eq!((delivery.attempt, delivery.max_attempts), (attempt, 3));
        stream.nack(&delivery, &format!("failure {attempt}")).await;
    }
    let letter = world.broker.dead_letters(1).await.remove(0);
    assert_eq!(letter.payload, world.broker.message(&world.broker.names.events(), seq).await.payload);
    assert_eq!((header(&letter, "Ab-Class"), header(&letter, "Ab-Attempt")), ("EXHAUSTED".into(), "3".into()));
    assert_eq!(header(&letter, "Ab-Cause"), "failure 3");
    assert!(header(&letter, "Ab-First-Failure") < header(&letter, "Ab-Last-Failure"));
    assert!(header(&letter, "Ab-Origin").starts_with(&format!("AB_default_EVENTS/{seq}/")));
    world.settled().await;
    assert!(stream.quiet(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn a_sender_may_wish_for_fewer_attempts_but_not_for_more() {
    let mut world = World::with(with_policy(|policy| policy.max_attempts = 3)).await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    for (wish, granted) in [(2, 2), (50, 3)] {
        let delivery = Some(DeliveryOptions { max_attempts: wish, ..DeliveryOptions::default() });
        world.publish_event(Event { delivery, ..note("x") }).await;
        for attempt in 1..=granted {
            let delivery = stream.delivery().await;
            assert_eq!((delivery.attempt, delivery.max_attempts), (attempt, granted));
            stream.nack(&delivery, "no").await;
        }
        world.settled().await;
    }
    assert_eq!(world.dead_letter_count().await, 2);
}

#[tokio::test]
async fn an_event_that_kills_its_agent_every_time_is_parked_and_the_others_pass() {
    let mut world = World::with(with_policy(|policy| policy.crash_limit = 3)).await;
    let poison = world.publish("poison").await;
    // The stream stays open: only the supervisor knows that the process behind it is gone.
    let mut stream = Stream::open(&mut world.client, 1).await;
    for _ in 0..3 {
        assert_eq!(stream.delivery().await.seq, poison);
        world.sidecar.agent_exited().await;
    }
    world.publish("good").await;
    let delivery = stream.delivery().await;
    assert_eq!(delivery.event.as_ref().unwrap().data, "good");
    stream.ack(&delivery).await;
    let letter = world.broker.dead_letters(1).await.remove(0);
    assert_eq!(header(&letter, "Ab-Class"), "CRASH");
    assert_eq!(letter.payload, world.broker.message(&world.broker.names.events(), poison).await.payload);
    world.settled().await;
}

#[tokio::test]
async fn an_undecodable_payload_is_parked_with_its_bytes_and_the_others_pass() {
    let mut world = World::start().await;
    world.publish("before").await;
    world.broker.store(&subject("worker"), b"\xff\xff\xff\xff not an event".as_slice()).await;
    world.publish("after").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    for expected in ["before", "after"] {
        let delivery = stream.delivery().await;
        assert_eq!(delivery.event.as_ref().unwrap().data, expected);
        stream.ack(&delivery).await;
    }
    let letter = world.broker.dead_letters(1).await.remove(0);
    assert_eq!(header(&letter, "Ab-Class"), "UNDECODABLE");
    assert_eq!(letter.payload, b"\xff\xff\xff\xff not an event".as_slice());
    world.settled().await;
}

#[tokio::test]
async fn an_event_whose_source_is_not_its_sender_is_dropped_and_counted() {
    let mut world = World::start().await;
    let forged = Event { id: "1".into(), source: "boss".into(), r#type: "note.made".into(), ..note("pay me") };
    world.broker.store(&subject("worker"), forged.encode_to_vec()).await;
    world.publish("good").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    let delivery = stream.delivery().await;
    assert_eq!(delivery.event.as_ref().unwrap().data, "good");
    stream.ack(&delivery).await;
    world.settled().await;
    assert_eq!((world.outcome("forged").await, world.dead_letter_count().await), (1.0, 0));
}

#[tokio::test]
async fn an_expired_event_is_counted_or_parked_as_its_sender_wished() {
    let mut world = World::start().await;
    let expires = Some((SystemTime::now() - Duration::from_secs(60)).into());
    let loud = Some(DeliveryOptions { dead_letter_if_expired: true, ..DeliveryOptions::default() });
    for delivery in [None, loud] {
        let event = Event { id: "1".into(), source: "worker".into(), expires, delivery, ..note("late") };
        world.broker.store(&subject("worker"), event.encode_to_vec()).await;
    }
    world.publish("good").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    let delivery = stream.delivery().await;
    assert_eq!(delivery.event.as_ref().unwrap().data, "good");
    stream.ack(&delivery).await;
    let letters = world.broker.dead_letters(1).await;
    world.settled().await;
    assert_eq!((letters.len(), header(&letters[0], "Ab-Class")), (1, "EXPIRED".into()));
    assert_eq!(world.outcome("expired").await, 1.0);
}

#[tokio::test]
async fn an_event_that_waits_for_its_retry_holds_up_nobody_and_is_never_early() {
    let backoff = Duration::from_secs(2);
    let mut world = World::with(with_policy(|policy| (policy.initial_ms, policy.max_ms) = (2000, 2000))).await;
    world.publish("slow").await;
    let mut stream = Stream::open(&mut world.client, 4).await;
    let slow = stream.delivery().await;
    let nacked = Instant::now();
    stream.nack(&slow, "later").await;
    world.publish_many(100).await;
    for _ in 0..100 {
        let delivery = stream.delivery().await;
        assert_ne!(delivery.event.as_ref().unwrap().id, slow.event.as_ref().unwrap().id);
        stream.ack(&delivery).await;
    }
    assert!(nacked.elapsed() < backoff, "100 events took {:?}", nacked.elapsed());
    let again = stream.delivery().await;
    let waited = nacked.elapsed();
    assert_eq!(again.event.as_ref().unwrap().id, slow.event.unwrap().id);
    assert!(waited + Duration::from_millis(2) >= backoff && waited < backoff * 2, "{waited:?}");
}

#[tokio::test]
async fn two_groups_that_give_up_one_event_make_two_dead_letters_with_equal_bytes() {
    let broker = Broker::start().await;
    let groups =
        [broker.group("readers", &["note.>"]).await, broker.group("auditors", &["note.made", "audit.>"]).await];
    let mut worker = member(&groups);
    worker.token = "t";
    let sidecar = agentbus_tests::SidecarProcess::start(&broker, worker).await;
    let mut client = grpc::client(&sidecar).await;
    grpc::publish_all(&mut client, [note("x")]).await;
    let mut agent = Agent::connect(Way::Unary, &sidecar).await;
    for _ in 0..2 {
        let got = agent.next().await;
        agent.settle(&got.id, reject("no")).await.unwrap();
    }
    let letters = broker.dead_letters(2).await;
    assert_eq!(letters[0].payload, letters[1].payload);
    assert_eq!(letters[0].payload, broker.message(&broker.names.events(), 1).await.payload);
    let mut groups: Vec<String> = letters.iter().map(|letter| header(letter, "Ab-Group")).collect();
    groups.sort();
    assert_eq!(groups, ["auditors", "readers"]);
    assert_ne!(header(&letters[0], "Nats-Msg-Id"), header(&letters[1], "Nats-Msg-Id"));
}

#[tokio::test]
async fn an_at_most_once_event_does_not_come_back_when_its_agent_dies_or_fails() {
    let mut world = World::start().await;
    let delivery = Some(DeliveryOptions { mode: DeliveryMode::AtMostOnce.into(), ..DeliveryOptions::default() });
    let mut agent = Agent::connect(Way::Http, &world.sidecar).await;
    world.publish_event(Event { delivery, ..note("once") }).await;
    assert_eq!(agent.next().await.data, "once");
    // The broker has forgotten it while the agent is at work.
    world.settled().await;
    world.sidecar.agent_exited().await;
    world.publish_event(Event { delivery, ..note("fails") }).await;
    let fails = agent.next().await;
    assert_eq!((fails.data.as_str(), fails.max_attempts), ("fails", 1));
    agent.settle(&fails.id, nack("no")).await.unwrap();
    world.publish("next").await;
    let next = agent.next().await;
    assert_eq!(next.data, "next");
    agent.settle(&next.id, ack()).await.unwrap();
    world.settled().await;
    let letters = world.broker.dead_letters(1).await;
    assert_eq!((letters.len(), header(&letters[0], "Ab-Class")), (1, "EXHAUSTED".into()));
}

#[tokio::test]
async fn what_types_and_attributes_do_not_match_is_acked_and_counted() {
    let mut filtered = group(GROUP, &["note.>"]);
    filtered.types = vec!["wanted.v1".into()];
    filtered.attributes = [("env".to_owned(), "prod".to_owned())].into();
    let mut world = World::with(filtered).await;
    let made = |r#type: &str, env: &str, data: &str| Event {
        r#type: r#type.to_owned(),
        attributes: [("env".to_owned(), env.to_owned())].into(),
        ..note(data)
    };
    for event in [made("other.v1", "prod", "1"), made("wanted.v1", "test", "2"), note("3")] {
        world.publish_event(event).await;
    }
    world.publish_event(made("wanted.v1", "prod", "4")).await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    let delivery = stream.delivery().await;
    assert_eq!(delivery.event.as_ref().unwrap().data, "4");
    stream.ack(&delivery).await;
    world.settled().await;
    assert_eq!((world.outcome("filtered").await, world.outcome("acked").await), (3.0, 1.0));
}

/// Where an agent's events to `note.made` are stored.
fn subject(sender: &str) -> String {
    EventSubject {
        namespace: agentbus_tests::broker::NAMESPACE.into(),
        lane: Lane::Normal,
        sender: sender.into(),
        to: "note.made".parse().unwrap(),
        event_type: String::new(),
        part: '-',
    }
    .render()
}
