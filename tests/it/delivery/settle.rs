//! Every settle verb, over the subscribe stream, the unary call and HTTP.

use std::time::{Duration, Instant};

use agentbus_proto::sidecar::v1::subscribe_response;
use agentbus_proto::{EventHead, event::v1::Event};
use agentbus_tests::grpc::{self, Stream};

use super::agent::{Agent, Done, WAYS, Way, ack, extend, nack, nack_for, reject};
use super::world::{GROUP, World, header, note, with_policy};

/// The retry stream keeps milliseconds: a delay may look this much shorter.
const TICK: Duration = Duration::from_millis(2);

#[tokio::test]
async fn an_acked_event_is_done() {
    let mut world = World::start().await;
    for way in WAYS {
        world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let got = agent.next().await;
        assert_eq!((got.attempt, got.max_attempts, got.data.as_str()), (1, 4, "x"), "{way:?}");
        assert_eq!(agent.settle(&got.id, ack()).await, Ok(Done::default()), "{way:?}");
        world.settled().await;
    }
    assert_eq!(world.outcome("acked").await, 3.0);
    assert_eq!(world.dead_letter_count().await, 0);
}

#[tokio::test]
async fn a_nacked_event_comes_again_after_its_backoff_with_the_reason() {
    let mut world = World::start().await;
    for way in WAYS {
        world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let (got, since) = (agent.next().await, Instant::now());
        agent.settle(&got.id, nack("disk full")).await.unwrap();
        let again = agent.next().await;
        assert!(since.elapsed() + TICK >= Duration::from_millis(200), "{way:?}: {:?}", since.elapsed());
        assert_eq!((again.attempt, again.last_failure.as_str()), (2, "disk full"), "{way:?}");
        assert_eq!((again.data, again.event_id), (got.data, got.event_id), "{way:?}");
        // It came through the retry stream and is still known by where it was first stored.
        assert_eq!((again.stream, again.seq), (got.stream, got.seq), "{way:?}");
        agent.settle(&again.id, ack()).await.unwrap();
        world.settled().await;
    }
    let retries = world.sidecar.metric(r#"agentbus_retries_total{group="worker"}"#).await;
    assert_eq!((retries, world.outcome("nacked").await), (3.0, 3.0));
    let retry = world.broker.context.get_stream(world.broker.names.retry()).await.unwrap();
    assert_eq!(retry.cached_info().state.last_sequence, 3);
}

#[tokio::test]
async fn a_nack_may_say_when_to_try_again() {
    let mut world = World::with(with_policy(|policy| policy.initial_ms = 60_000)).await;
    for way in WAYS {
        world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let (got, since) = (agent.next().await, Instant::now());
        agent.settle(&got.id, nack_for(Duration::from_millis(500))).await.unwrap();
        let again = agent.next().await;
        let waited = since.elapsed();
        assert!(waited + TICK >= Duration::from_millis(500) && waited < Duration::from_secs(5), "{way:?}: {waited:?}");
        agent.settle(&again.id, ack()).await.unwrap();
    }
    world.settled().await;
}

#[tokio::test]
async fn a_rejected_event_becomes_a_dead_letter_with_the_same_bytes() {
    let mut world = World::start().await;
    for (count, way) in WAYS.into_iter().enumerate() {
        let seq = world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let got = agent.next().await;
        agent.settle(&got.id, reject("not for me\r\nNats-Rollup: all")).await.unwrap();
        let letter = world.broker.dead_letters(count + 1).await.pop().unwrap();
        let events = world.broker.names.events();
        assert_eq!(letter.payload, world.broker.message(&events, seq).await.payload, "{way:?}");
        assert_eq!(letter.subject.as_str(), "abd.default.worker.worker.REJECTED");
        assert_eq!(header(&letter, "Ab-Origin"), format!("{events}/{seq}/ab.default.n.worker.topic.-.note.made"));
        assert_eq!(header(&letter, "Ab-Cause"), "not for me  Nats-Rollup: all");
        assert_eq!((header(&letter, "Ab-Group"), header(&letter, "Ab-Attempt")), (GROUP.into(), "1".into()));
        world.settled().await;
    }
}

#[tokio::test]
async fn an_extended_delivery_outlives_its_ack_deadline() {
    let mut world = World::with(with_policy(|policy| policy.ack_deadline_ms = 1000)).await;
    for way in WAYS {
        world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let got = agent.next().await;
        let done = agent.settle(&got.id, extend(Duration::from_secs(20))).await.unwrap();
        assert!(done.deadline, "{way:?}");
        // A second subscriber would get it if it were handed out again.
        let mut client = grpc::client(&world.sidecar).await;
        let mut other = Stream::open(&mut client, 1).await;
        assert!(other.quiet(Duration::from_millis(1600)).await, "{way:?}");
        assert_eq!(agent.settle(&got.id, ack()).await, Ok(Done::default()), "{way:?}");
        world.settled().await;
    }
    assert_eq!(world.outcome("lost").await, 0.0);
}

#[tokio::test]
async fn a_delivery_over_its_deadline_is_lost_and_comes_again() {
    let mut world = World::with(with_policy(|policy| policy.ack_deadline_ms = 500)).await;
    for way in WAYS {
        world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let got = agent.next().await;
        let again = agent.next().await;
        assert_eq!(again.attempt, 2, "{way:?}");
        assert!(again.last_failure.contains("ack deadline"), "{way:?}: {}", again.last_failure);
        assert_eq!(agent.settle(&got.id, ack()).await, Err("LEASE_LOST".into()), "{way:?}");
        assert_eq!(agent.settle(&again.id, ack()).await, Ok(Done::default()), "{way:?}");
        world.settled().await;
    }
    assert_eq!(world.outcome("lost").await, 3.0);
}

#[tokio::test]
async fn a_stream_is_told_what_it_lost() {
    let mut world = World::with(with_policy(|policy| policy.ack_deadline_ms = 500)).await;
    world.publish("x").await;
    let mut stream = Stream::open(&mut world.client, 1).await;
    let delivery = stream.delivery().await;
    let subscribe_response::Frame::Lost(lost) = stream.frame().await else { panic!("no lost frame") };
    assert_eq!(lost.delivery_id, delivery.delivery_id);
    assert_eq!(lost.why.unwrap().code, "LEASE_LOST");
}

#[tokio::test]
async fn events_emitted_with_an_ack_continue_the_chain() {
    let mut world = World::start().await;
    for way in WAYS {
        let seq = world.publish_event(Event { hops: 3, correlation_id: "chain".into(), ..note("x") }).await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let got = agent.next().await;
        let emit = vec![grpc::event("out.one", "1"), grpc::event("out.two", "2")];
        let done = agent.settle_with(&got.id, ack(), emit.clone()).await.unwrap();
        assert_eq!(done.emitted.len(), 2, "{way:?}");
        world.settled().await;
        for (index, id) in done.emitted.iter().enumerate() {
            let stored = world.broker.message(&world.broker.names.events(), seq + 1 + index as u64).await;
            let head = EventHead::decode(&stored.payload).unwrap();
            assert_eq!((&head.id, head.source.as_str(), head.hops), (id, GROUP, 4), "{way:?}");
            assert_eq!((head.correlation_id.as_str(), &head.causation_id), ("chain", &got.event_id), "{way:?}");
        }
        // Repeated: the same answer, and nothing stored twice.
        assert_eq!(agent.settle_with(&got.id, ack(), emit).await, Ok(done), "{way:?}");
        let events = world.broker.messages(&world.broker.names.events()).await;
        assert_eq!(events.last().unwrap().sequence, seq + 2, "{way:?}");
    }
}

#[tokio::test]
async fn two_outputs_with_one_id_are_refused_and_none_is_stored() {
    let mut world = World::start().await;
    for way in WAYS {
        world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let (got, before) = (agent.next().await, world.broker.count(&world.broker.names.events()).await);
        let out = |id: &str, data: &'static str| Event { id: id.to_owned(), ..grpc::event("out.one", data) };
        let emit = vec![out("same", "1"), out("other", "2"), out("same", "3")];
        assert_eq!(agent.settle_with(&got.id, ack(), emit).await, Err("INVALID_EVENT".into()), "{way:?}");
        assert_eq!(world.broker.count(&world.broker.names.events()).await, before, "{way:?}");
        agent.settle(&got.id, ack()).await.unwrap();
        world.settled().await;
    }
}

#[tokio::test]
async fn an_emit_that_is_refused_leaves_the_delivery_with_the_agent() {
    let mut world = World::start().await;
    for way in WAYS {
        let seq = world.publish("x").await;
        let mut agent = Agent::connect(way, &world.sidecar).await;
        let got = agent.next().await;
        let emit = vec![grpc::event("out.one", "1"), grpc::event("forbidden.topic", "2")];
        let refused = agent.settle_with(&got.id, ack(), emit).await;
        assert_eq!(refused, Err("SCOPE_DENIED".into()), "{way:?}");
        let events = world.broker.messages(&world.broker.names.events()).await;
        assert_eq!(events.last().unwrap().sequence, seq, "{way:?}: all or nothing");
        assert_eq!(agent.settle(&got.id, ack()).await, Ok(Done::default()), "{way:?}");
        world.settled().await;
    }
}

#[tokio::test]
async fn a_repeated_settle_gets_the_same_answer_and_another_one_does_not() {
    let mut world = World::with(with_policy(|policy| policy.initial_ms = 60_000)).await;
    for way in WAYS {
        for (how, other) in [(ack(), nack("x")), (nack("x"), ack()), (reject("x"), ack())] {
            world.publish("x").await;
            let mut agent = Agent::connect(way, &world.sidecar).await;
            let got = agent.next().await;
            let first = agent.settle(&got.id, how.clone()).await;
            assert_eq!(first, Ok(Done::default()), "{way:?} {how:?}");
            assert_eq!(agent.settle(&got.id, how.clone()).await, first, "{way:?} {how:?}");
            assert_eq!(agent.settle(&got.id, other).await, Err("LEASE_LOST".into()), "{way:?} {how:?}");
            assert_eq!(agent.settle(&got.id, extend(TICK)).await, Err("LEASE_LOST".into()), "{way:?} {how:?}");
        }
    }
    assert_eq!(world.dead_letter_count().await, 3);
    assert_eq!(world.broker.state(GROUP).await.retrying, 3);
}

#[tokio::test]
async fn nobody_settles_what_was_never_given_to_him() {
    let mut world = World::start().await;
    let strangers = [world.broker.group("stranger", &["note.>"]).await];
    let stranger = agentbus_tests::Member { agent: "stranger", groups: &strangers, ..Default::default() };
    let stranger = agentbus_tests::SidecarProcess::start(&world.broker, stranger).await;
    world.publish("x").await;
    let foreign = Agent::connect(Way::Http, &stranger).await.next().await;
    for way in WAYS {
        let mut agent = Agent::connect(way, &world.sidecar).await;
        for id in [foreign.id.as_str(), "made-up", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            for how in [ack(), nack("x"), reject("x"), extend(TICK)] {
                assert_eq!(agent.settle(id, how).await, Err("UNKNOWN_DELIVERY".into()), "{way:?} {id}");
            }
        }
    }
    assert_eq!(world.broker.state("stranger").await.in_flight, 1);
}
