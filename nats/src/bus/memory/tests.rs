//! The shell around the world: waiting, waking, time. The time is paused, so nothing here takes long.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PriorityPolicy, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Source, SubjectTransform};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::*;
use crate::ack::Answer;
use crate::bus::Entry;
use crate::headers;

async fn bus() -> Arc<dyn Bus> {
    let bus = Memory::start(Options::default()).connect("a");
    bus.create_stream(&stream("S", "a.>")).await.unwrap();
    bus
}

fn stream(name: &str, subject: &str) -> Config {
    Config {
        name: name.into(),
        subjects: vec![subject.into()],
        max_bytes: 1 << 20,
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_secs(60),
        ..Config::default()
    }
}

fn consumer(name: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: Duration::from_secs(10),
        max_ack_pending: 100,
        ..pull::Config::default()
    }
}

fn message(subject: &str, headers: &[(&'static str, &str)]) -> Message {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    Message { subject: subject.into(), headers: map, payload: Bytes::from_static(b"x") }
}

#[tokio::test(start_paused = true)]
async fn an_unsettled_delivery_comes_again_after_the_ack_wait() {
    let bus = bus().await;
    bus.put_consumer("S", consumer("c")).await.unwrap();
    let mut pull = bus.pull("S", "c").await.unwrap();
    pull.want(5);
    let began = Instant::now();
    let first = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bus.store(message("a.b", &[])).await.unwrap();
        std::future::pending::<()>().await
    };
    let got = tokio::select! { got = pull.next() => got, () = first => unreachable!() };
    assert_eq!((got.receipt.seq, got.receipt.delivered, began.elapsed()), (1, 1, Duration::from_secs(1)));
    let again = pull.next().await;
    assert_eq!((again.receipt.delivered, began.elapsed().as_secs()), (2, 11));
    bus.answer(&again.receipt.subject, Answer::Nak(Some(Duration::from_secs(2)))).await;
    let third = pull.next().await;
    assert_eq!((third.receipt.delivered, began.elapsed().as_secs()), (3, 13));
    assert!(bus.confirmed(&third.receipt.subject).await);
    let info = bus.consumer("S", "c").await.unwrap().unwrap();
    assert_eq!((info.floor, info.ack_pending, info.waiting), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gives_back_what_was_on_its_way() {
    let bus = bus().await;
    bus.put_consumer("S", consumer("c")).await.unwrap();
    for _ in 0..4 {
        bus.store(message("a.b", &[])).await.unwrap();
    }
    let (mut one, mut two) = (bus.pull("S", "c").await.unwrap(), bus.pull("S", "c").await.unwrap());
    one.want(2);
    two.want(1);
    assert_eq!((one.next().await.receipt.seq, two.next().await.receipt.seq), (1, 3));
    assert_eq!(one.finish().await.len(), 1);
    two.want(1);
    assert_eq!(two.next().await.receipt.seq, 4);
    assert!(two.next().now_or_never().is_none(), "it has all it asked for");
}

#[tokio::test(start_paused = true)]
async fn a_queue_keeps_nothing_that_is_settled() {
    let bus = bus().await;
    let queue = Config { retention: RetentionPolicy::WorkQueue, ..stream("Q", "q.>") };
    bus.create_stream(&queue).await.unwrap();
    bus.put_consumer("Q", consumer("c")).await.unwrap();
    let rival = bus.put_consumer("Q", consumer("d")).await.unwrap_err();
    assert_eq!(rival.code, Code::BadConfig);
    bus.store(message("q.b", &[])).await.unwrap();
    let mut pull = bus.pull("Q", "c").await.unwrap();
    pull.want(1);
    let got = pull.next().await;
    bus.answer(&got.receipt.subject, Answer::Ack).await;
    assert_eq!(bus.stream("Q").await.unwrap().unwrap().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_when_the_pinned_one_is_silent() {
    let bus = bus().await;
    let pinned = pull::Config {
        priority_policy: PriorityPolicy::PinnedClient,
        priority_timeout: Duration::from_secs(3),
        max_ack_pending: 1,
        ack_wait: Duration::from_secs(2),
        ..consumer("c")
    };
    bus.put_consumer("S", pinned).await.unwrap();
    let (mut active, mut standby) = (bus.pull("S", "c").await.unwrap(), bus.pull("S", "c").await.unwrap());
    active.want(1);
    standby.want(1);
    bus.store(message("a.b", &[])).await.unwrap();
    assert_eq!(active.next().await.receipt.seq, 1);
    let since = Instant::now();
    let taken = standby.next().await;
    assert_eq!((taken.receipt.seq, taken.receipt.delivered), (1, 2));
    assert!(since.elapsed() <= Duration::from_secs(4), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_fires_into_the_stream_that_takes_it() {
    let bus = bus().await;
    let schedules =
        Config { allow_message_schedules: true, retention: RetentionPolicy::WorkQueue, ..stream("P", "p.>") };
    bus.create_stream(&schedules).await.unwrap();
    let rule = SubjectTransform { source: "p.due.>".into(), destination: "a.>".into() };
    let source = Source { name: "P".into(), subject_transforms: vec![rule], ..Source::default() };
    bus.update_stream(&Config { sources: Some(vec![source]), ..stream("S", "a.>") }).await.unwrap();
    bus.put_consumer("S", consumer("c")).await.unwrap();
    let mut pull = bus.pull("S", "c").await.unwrap();
    pull.want(3);
    let every = [(headers::SCHEDULE, "@every 5s"), (headers::SCHEDULE_TARGET, "p.due.b"), ("Ab-Type", "t")];
    bus.store(message("p.s.one", &every)).await.unwrap();
    // The same schedule again: it takes the place of the first.
    bus.store(message("p.s.one", &every)).await.unwrap();
    let began = Instant::now();
    for round in 1..=2 {
        let fired = pull.next().await;
        assert_eq!((&*fired.subject, began.elapsed().as_secs()), ("a.b", 5 * round));
        let header = |name| headers::get(Some(&fired.headers), name);
        assert_eq!((header(headers::SCHEDULER), header("Ab-Type")), (Some("p.s.one"), Some("t")));
        assert!(header(headers::STREAM_SOURCE).unwrap().starts_with("P "));
        assert_eq!(header(headers::SCHEDULE), None);
        bus.answer(&fired.receipt.subject, Answer::Ack).await;
    }
    assert_eq!(bus.stream("P").await.unwrap().unwrap().messages, 1, "only the schedule itself stays");
    bus.purge("P", u64::MAX, Some("p.s.one")).await.unwrap();
    let later = tokio::time::timeout(Duration::from_secs(60), pull.next()).await;
    assert!(later.is_err(), "cancelled");
}

#[tokio::test(start_paused = true)]
async fn what_was_due_while_the_stream_was_full_comes_when_there_is_room() {
    let bus = bus().await;
    let schedules =
        Config { allow_message_schedules: true, retention: RetentionPolicy::WorkQueue, ..stream("P", "p.>") };
    bus.create_stream(&schedules).await.unwrap();
    let rule = SubjectTransform { source: "p.due.>".into(), destination: "a.>".into() };
    let source = Source { name: "P".into(), subject_transforms: vec![rule], ..Source::default() };
    let config = Config { sources: Some(vec![source]), max_messages: 1, ..stream("S", "a.>") };
    bus.update_stream(&config).await.unwrap();
    bus.store(message("a.full", &[])).await.unwrap();
    let at = |id, event| {
        let headers = [(headers::SCHEDULE, "@at 1970-01-01T00:00:00Z"), (headers::SCHEDULE_TARGET, event)];
        message(id, &headers)
    };
    bus.store(at("p.s.one", "p.due.one")).await.unwrap();
    bus.store(at("p.s.two", "p.due.two")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut subjects = Vec::new();
    for below in 2..5 {
        let kept = bus.get("S", below - 1).await.unwrap();
        subjects.extend(kept.map(|record| record.subject));
        bus.purge("S", below, None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(subjects, ["a.full", "a.one", "a.two"]);
    assert_eq!(bus.stream("P").await.unwrap().unwrap().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn asks_are_answered_and_nobody_is_waited_for() {
    let bus = bus().await;
    let unheard = bus.request("svc.x", Bytes::new(), Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(unheard.code, Code::BrokerDown);
    let mut served = bus.subscribe("svc.*", Some("q")).await.unwrap();
    let answering = async {
        let asked = served.next().await.unwrap();
        let reply = asked.reply.unwrap();
        assert!(reply.starts_with("_INBOX.a."), "{reply}");
        bus.send_note(&reply, None, "yes".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(bus.request("svc.x", "?".into(), Duration::from_secs(5)), answering);
    assert_eq!(answer.unwrap().payload, "yes");
    let silent = bus.request("svc.x", "?".into(), Duration::from_secs(5)).await.unwrap_err();
    assert!(silent.message.contains("5000 ms"), "{silent}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_with_what_is_there() {
    let bus = bus().await;
    bus.put_bucket(kv::Config { bucket: "B".into(), ..kv::Config::default() }).await.unwrap();
    bus.put_key("B", "agents.x", "1".into()).await.unwrap();
    let mut watch = bus.watch("B", "agents.*").await.unwrap();
    let put =
        |revision, value: &'static str| Change::Put(Entry { key: "agents.x".into(), value: value.into(), revision });
    assert_eq!(watch.next().await.unwrap(), put(1, "1"));
    let writing = async {
        bus.put_key("B", "groups.y", "-".into()).await.unwrap();
        bus.put_key("B", "agents.x", "2".into()).await.unwrap();
    };
    let (seen, ()) = tokio::join!(watch.next(), writing);
    assert_eq!(seen.unwrap(), put(3, "2"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let bus = Memory::start(Options::default()).connect("a");
    bus.create_stream(&Config { max_bytes: 120, ..stream("S", "a.>") }).await.unwrap();
    let batch = |count| vec![message("a.b", &[]); count];
    assert_eq!(bus.store_all(batch(9)).await.unwrap_err().code, Code::StreamFull);
    assert_eq!(bus.stream("S").await.unwrap().unwrap().messages, 0);
    let stored = bus.store_all(batch(3)).await.unwrap();
    assert_eq!(stored.iter().map(|stored| stored.seq).collect::<Vec<_>>(), [1, 2, 3]);
    let mixed = vec![message("a.b", &[]), message("b", &[])];
    assert_eq!(bus.store_all(mixed).await.unwrap_err().code, Code::InvalidEvent);
}

#[tokio::test]
async fn the_keeper_ends_with_the_last_handle() {
    let memory = Memory::start(Options::default());
    let weak = Arc::downgrade(&memory.inner);
    let bus = memory.connect("a");
    drop(memory);
    assert!(weak.upgrade().is_some());
    drop(bus);
    assert!(weak.upgrade().is_none());
}
