//! What keeps failing is left alone, tried with one, and goes on.

use std::time::{Duration, Instant};

use agentbus_nats::grant::BreakerPolicy;
use agentbus_nats::topology::Sizes;
use agentbus_tests::broker::group;
use agentbus_tests::grpc::{self, Stream};
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::until;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::json;

const OPEN: Duration = Duration::from_millis(1500);
const POLICY: BreakerPolicy = BreakerPolicy { failures: 5, open_ms: 1500 };
const DELIVER: &str = r#"agentbus_breaker_state{side="deliver",group="worker"}"#;
const PUBLISH: &str = r#"agentbus_breaker_state{side="publish",group=""}"#;

async fn publish(agent: &HttpAgent, count: usize) {
    for n in 0..count {
        agent.publish(json!({"to": "note.made", "id": format!("n-{n}")})).await;
    }
}

#[tokio::test]
async fn a_group_whose_events_keep_failing_is_left_alone_then_tried_with_one() {
    let broker = Broker::start().await;
    let mut slow = group("worker", &["note.>"]);
    (slow.policy.initial_ms, slow.policy.max_ms) = (60_000, 60_000);
    let groups = [broker.group_with(slow).await];
    let member =
        Member { agent: "worker", groups: &groups, publish: &["note.>"], breaker: Some(POLICY), ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    publish(&agent, 10).await;
    for _ in 0..5 {
        let delivery = agent.receive_one("20s").await;
        assert_eq!(agent.settle(&delivery, "nack", json!({"reason": "out of order"})).await.status, 200);
    }
    let opened = Instant::now();
    assert_eq!(sidecar.metric(DELIVER).await, 2.0);
    let first = agent.receive(10, "20s").await;
    assert!(opened.elapsed() >= OPEN - Duration::from_millis(100), "{:?}", opened.elapsed());
    assert_eq!((first.len(), sidecar.metric(DELIVER).await), (1, 1.0), "one is tried");
    assert_eq!(agent.receive(10, "300ms").await.len(), 0, "one only");
    // The try fails: left alone again.
    agent.settle(&first[0], "nack", json!({})).await;
    assert_eq!(sidecar.metric(DELIVER).await, 2.0);
    let second = agent.receive_one("20s").await;
    agent.ack(&second).await;
    assert_eq!(sidecar.metric(DELIVER).await, 0.0);
    let mut rest = 0;
    while rest < 3 {
        let more = agent.receive(10, "20s").await;
        rest += more.len();
        for delivery in &more {
            agent.ack(delivery).await;
        }
    }
}

#[tokio::test]
async fn putting_events_off_and_one_bad_event_are_no_failures_of_the_agent() {
    let broker = Broker::start().await;
    let groups = [broker.group("worker", &["note.>"]).await];
    let member =
        Member { agent: "worker", groups: &groups, publish: &["note.>"], breaker: Some(POLICY), ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    publish(&agent, 6).await;
    for _ in 0..6 {
        let delivery = agent.receive_one("20s").await;
        agent.settle(&delivery, "nack", json!({"retry_after": "50ms"})).await;
    }
    for _ in 0..6 {
        let delivery = agent.receive_one("20s").await;
        agent.ack(&delivery).await;
    }
    agent.publish(json!({"to": "note.made", "id": "bad"})).await;
    for _ in 0..4 {
        let delivery = agent.receive_one("20s").await;
        assert_eq!(delivery["event"]["id"], "bad");
        agent.settle(&delivery, "nack", json!({})).await;
    }
    broker.dead_letters(1).await;
    assert_eq!(sidecar.metric(DELIVER).await, 0.0);
}

#[tokio::test]
async fn a_destination_without_room_is_left_alone_and_the_sender_is_told_how_long() {
    let sizes = Sizes { events_bytes_max: 64 * 1024, ..Sizes::within(256 << 20) };
    let broker = Broker::start_with(sizes).await;
    let member = Member { agent: "writer", publish: &["note.>"], breaker: Some(POLICY), ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    let large = json!({"to": "note.made", "data": "x".repeat(8000)});
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "CIRCUIT_OPEN") {
        let answer = agent.post("/v1/publish", &large).await;
        codes.push(answer.body["code"].as_str().unwrap_or("stored").to_owned());
        if codes.last().is_some_and(|code| code == "CIRCUIT_OPEN") {
            assert!(answer.status == 503 && answer.body["retry_after"].is_string(), "{}", answer.body);
        }
        assert!(codes.len() < 30, "{codes:?}");
    }
    assert_eq!(codes.iter().filter(|code| *code == "STREAM_FULL").count(), 5, "{codes:?}");
    assert_eq!(sidecar.metric(PUBLISH).await, 2.0);
    // Others go their way: a small one finds room.
    assert_eq!(agent.post("/v1/publish", &json!({"to": "note.other"})).await.status, 200);
    let stream = broker.context.get_stream(broker.names.events()).await.unwrap();
    stream.purge().await.unwrap();
    let stored = until("the try", || async {
        let answer = agent.post("/v1/publish", &large).await;
        if answer.status == 200 { Ok(answer.body) } else { Err(answer.body) }
    });
    stored.await;
    assert_eq!(sidecar.metric(PUBLISH).await, 0.0);
}

#[tokio::test]
async fn an_agent_that_keeps_dying_is_left_alone() {
    let broker = Broker::start().await;
    let groups = [broker.group("worker", &["note.>"]).await];
    let member =
        Member { agent: "worker", groups: &groups, publish: &["note.>"], breaker: Some(POLICY), ..Member::default() };
    let mut sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    publish(&agent, 3).await;
    // Out of memory, with two deliveries in hand, of which one at a time is tried then, and with none.
    for (ask, hold) in [(2, 2), (2, 1), (2, 1), (0, 0), (0, 0)] {
        if ask > 0 {
            assert_eq!(agent.receive(ask, "20s").await.len(), hold);
        }
        sidecar.agent_killed().await;
        until("given back", || async {
            let held = sidecar.metric("agentbus_in_flight").await;
            if held == 0.0 { Ok(()) } else { Err(held) }
        })
        .await;
    }
    until("open", || async {
        let state = sidecar.metric(DELIVER).await;
        if state == 2.0 { Ok(()) } else { Err(state) }
    })
    .await;
    let since = Instant::now();
    let delivery = agent.receive_one("20s").await;
    assert!(since.elapsed() > OPEN / 2, "{:?}", since.elapsed());
    agent.ack(&delivery).await;
}

/// One event of many takes the agent down each time. (Here a poll that is not answered stands for the process.)
#[tokio::test]
async fn the_event_that_kills_the_agent_is_found_and_costs_the_others_nothing() {
    const EVENTS: usize = 16;
    let broker = Broker::start().await;
    let mut worker = group("worker", &["note.>"]);
    worker.policy.crash_limit = 3;
    let groups = [broker.group_with(worker).await];
    let member =
        Member { agent: "worker", groups: &groups, publish: &["note.>"], breaker: Some(POLICY), ..Member::default() };
    let mut sidecar = SidecarProcess::start(&broker, member).await;
    let agent = HttpAgent::of(&sidecar);
    publish(&agent, EVENTS).await;
    let (mut deaths, mut done) = (Vec::new(), 0);
    while done < EVENTS - 1 || deaths.len() < 4 {
        let held = agent.receive(EVENTS, "20s").await;
        let poison = held.iter().find(|delivery| delivery["event"]["id"] == "n-7");
        if let Some(poison) = poison {
            deaths.push((poison["attempt"].as_u64().expect("a number"), held.len() == 1));
            sidecar.agent_exited().await;
            continue;
        }
        for delivery in &held {
            assert_eq!(delivery["attempt"], 1, "{delivery}");
            agent.ack(delivery).await;
            done += 1;
        }
        assert_eq!(sidecar.metric(DELIVER).await, 0.0, "left alone after {deaths:?}");
    }
    let alone: Vec<_> = deaths.iter().filter(|death| death.1).map(|death| death.0).collect();
    assert_eq!(alone, [1, 2, 3], "its attempts count up, of which it knew one already: {deaths:?}");
    let letter = broker.dead_letters(1).await.remove(0);
    assert_eq!(letter.headers.get("Ab-Class").map(ToString::to_string), Some("CRASH".to_owned()));
    assert_eq!(letter.headers.get("Ab-Attempt").map(ToString::to_string), Some("3".to_owned()));
    broker.settled("worker").await;
    assert_eq!(sidecar.metric(DELIVER).await, 0.0);
}

/// What it had pulled already goes to the other one at once.
#[tokio::test]
async fn an_open_breaker_keeps_nothing_from_the_other_members() {
    const EVENTS: usize = 40;
    let broker = Broker::start().await;
    let mut slow = group("worker", &["note.>"]);
    (slow.policy.initial_ms, slow.policy.max_ms) = (600_000, 600_000);
    let groups = [broker.group_with(slow).await];
    let long = BreakerPolicy { failures: 5, open_ms: 600_000 };
    let member =
        |instance| Member { agent: "worker", instance, groups: &groups, publish: &["note.>"], ..Member::default() };
    let sick = Member { breaker: Some(long), ..member("worker-1") };
    let sick = SidecarProcess::start(&broker, sick).await;
    let well = SidecarProcess::start(&broker, member("worker-2")).await;
    publish(&HttpAgent::of(&well), EVENTS).await;
    let mut client = grpc::client(&sick).await;
    let mut stream = Stream::open(&mut client, 8).await;
    // What it has in hand when the breaker opens fails, too.
    let mut nacked = 0;
    while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(1), stream.delivery()).await {
        stream.nack(&delivery, "no").await;
        nacked += 1;
    }
    assert_eq!(sick.metric(DELIVER).await, 2.0);
    let (agent, since) = (HttpAgent::of(&well), Instant::now());
    for _ in nacked..EVENTS {
        let delivery = agent.receive_one("10s").await;
        assert_eq!(delivery["attempt"], 1);
        agent.ack(&delivery).await;
    }
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}
