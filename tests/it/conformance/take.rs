//! Durable consumers: what they hand out, and what comes again.

use std::time::{Duration, Instant};

use agentbus_nats::ack::Answer;
use agentbus_nats::publisher::Message;
use agentbus_proto::Code;
use agentbus_tests::wait::until;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};

use super::stage::{Kind, Stage, message, next, nothing, subject, text};

pub async fn an_unsettled_delivery_comes_again(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut pull = stage.consumer("c", |_| {}).await;
    stage.event("notes", "x").await;
    pull.want(3);
    let (first, since) = (next(&mut pull).await, Instant::now());
    let second = next(&mut pull).await;
    assert!(since.elapsed() >= Duration::from_millis(900), "{:?}", since.elapsed());
    assert_eq!((first.receipt.delivered, second.receipt.delivered, second.receipt.seq), (1, 2, 1));
    // A late answer of whoever had it first counts.
    stage.ack(&first).await;
    nothing(&mut pull, 1_300).await;
}

pub async fn a_delay_is_kept(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut pull = stage.consumer("c", |config| config.ack_wait = Duration::from_secs(30)).await;
    stage.event("notes", "x").await;
    pull.want(3);
    let first = next(&mut pull).await;
    let since = Instant::now();
    stage.bus.answer(&first.receipt.subject, Answer::Nak(Some(Duration::from_millis(700)))).await;
    let second = next(&mut pull).await;
    assert!(since.elapsed() >= Duration::from_millis(650), "never early: {:?}", since.elapsed());
    stage.bus.answer(&second.receipt.subject, Answer::Nak(None)).await;
    let third = next(&mut pull).await;
    assert!(since.elapsed() < Duration::from_secs(10), "at once without a delay");
    assert!(stage.bus.confirmed(&third.receipt.subject).await);
}

pub async fn work_in_progress_stays_away(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut pull = stage.consumer("c", |_| {}).await;
    stage.event("notes", "x").await;
    pull.want(2);
    let held = next(&mut pull).await;
    for _ in 0..4 {
        nothing(&mut pull, 500).await;
        assert!(stage.bus.renewed(&held.receipt.subject).await);
    }
    assert_eq!(next(&mut pull).await.receipt.delivered, 2, "and comes when nobody says so any more");
}

pub async fn one_at_a_time_keeps_the_order(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut pull = stage.consumer("c", |config| config.max_ack_pending = 1).await;
    for n in 0..6 {
        stage.event("notes", &n.to_string()).await;
    }
    pull.want(100);
    let mut seen = Vec::new();
    for n in 0..6 {
        let mut got = next(&mut pull).await;
        if n % 2 == 0 {
            stage.bus.answer(&got.receipt.subject, Answer::Nak(Some(Duration::from_millis(50)))).await;
            got = next(&mut pull).await;
            assert_eq!(got.receipt.delivered, 2);
        }
        seen.push(text(&got));
        stage.ack(&got).await;
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
}

pub async fn filters_choose(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut pull = stage.consumer("c", |config| config.filter_subjects = vec![subject("a.*"), subject("b.>")]).await;
    for topic in ["a.x", "c", "a.x.y", "b.x.y", "b.x"] {
        stage.event(topic, topic).await;
    }
    pull.want(10);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(text(&next(&mut pull).await));
    }
    assert_eq!(seen, ["a.x", "b.x.y", "b.x"]);
}

pub async fn a_consumer_begins_where_it_was_told_to(kind: Kind) {
    let stage = Stage::new(kind).await;
    stage.event("notes", "1").await;
    stage.event("notes", "2").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let moment = super::stage::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stage.event("notes", "3").await;
    for (name, policy, wanted) in [
        ("all", DeliverPolicy::All, "1"),
        ("seq", DeliverPolicy::ByStartSequence { start_sequence: 2 }, "2"),
        ("time", DeliverPolicy::ByStartTime { start_time: moment.into() }, "3"),
        ("new", DeliverPolicy::New, "4"),
    ] {
        let mut pull = stage.consumer(name, |config| config.deliver_policy = policy).await;
        if name == "new" {
            stage.event("notes", "4").await;
        }
        pull.want(1);
        assert_eq!(text(&next(&mut pull).await), wanted, "{name}");
    }
}

pub async fn a_retry_is_gone_when_it_is_settled(kind: Kind) {
    let stage = Stage::new(kind).await;
    let retry = stage.names.retry();
    let config = pull::Config {
        durable_name: Some("g-retry".into()),
        filter_subject: "abr.default.g.*".into(),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    stage.bus.put_consumer(&retry, config).await.unwrap();
    let stored = Message { subject: "abr.default.g.a".into(), ..message("x", "again", "") };
    stage.bus.store(stored).await.unwrap();
    let mut pull = stage.bus.pull(&retry, "g-retry").await.unwrap();
    pull.want(1);
    let got = next(&mut pull).await;
    assert_eq!(text(&got), "again");
    assert!(stage.bus.confirmed(&got.receipt.subject).await);
    until("an empty queue", || async {
        let left = stage.bus.stream(&retry).await.unwrap().unwrap().messages;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

pub async fn consumers_tell_where_they_are(kind: Kind) {
    let stage = Stage::new(kind).await;
    let events = stage.names.events();
    let mut pull = stage.consumer("c", |config| config.ack_wait = Duration::from_secs(30)).await;
    for n in 0..4 {
        stage.event("notes", &n.to_string()).await;
    }
    pull.want(2);
    let (first, _second) = (next(&mut pull).await, next(&mut pull).await);
    assert!(stage.bus.confirmed(&first.receipt.subject).await);
    until("the floor", || async {
        let info = stage.bus.consumer(&events, "c").await.unwrap().unwrap();
        let state = (info.floor, info.delivered, info.pending, info.ack_pending, info.waiting);
        if state == (1, 2, 2, 1, 0) { Ok(()) } else { Err(state) }
    })
    .await;
    pull.want(5);
    for _ in 0..2 {
        let got = next(&mut pull).await;
        stage.ack(&got).await;
    }
    // One of the three still wanted asks on.
    let asking = tokio::time::timeout(Duration::from_secs(1), pull.next()).await;
    assert!(asking.is_err());
    let info = stage.bus.consumer(&events, "c").await.unwrap().unwrap();
    assert_eq!((info.pending, info.ack_pending, info.waiting), (0, 1, 1));
    assert!(stage.bus.consumer(&events, "nobody").await.unwrap().is_none());
    assert!(stage.bus.consumer("NO_STREAM", "c").await.unwrap().is_none());
    let listed = stage.bus.consumers(&events, 10).await.unwrap();
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["c"]);
}

pub async fn overlapping_filters_are_refused(kind: Kind) {
    let stage = Stage::new(kind).await;
    let overlapping = |config: &mut pull::Config| config.filter_subjects = vec![subject("a.>"), subject("a.x")];
    assert_eq!(stage.put("c", overlapping).await.unwrap_err().code, Code::InvalidAddress);
    let missing = stage.bus.put_consumer("NO_STREAM", pull::Config::default()).await.unwrap_err();
    assert!(matches!(missing.code, Code::BrokerDown | Code::BadConfig), "{missing}");
}

pub async fn demand_is_kept(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut one = stage.consumer("c", |config| config.ack_wait = Duration::from_secs(30)).await;
    let mut two = stage.bus.pull(&stage.names.events(), "c").await.unwrap();
    for n in 0..6 {
        stage.event("notes", &n.to_string()).await;
    }
    one.want(2);
    next(&mut one).await;
    next(&mut one).await;
    nothing(&mut one, 300).await;
    two.want(3);
    for _ in 0..3 {
        next(&mut two).await;
    }
    nothing(&mut two, 300).await;
    // What was on its way to somebody who goes is his to answer, not lost.
    two.want(1);
    let last = match tokio::time::timeout(Duration::from_millis(500), two.next()).await {
        Ok(incoming) => vec![incoming],
        Err(_) => two.finish().await,
    };
    assert_eq!(last.len(), 1);
}
