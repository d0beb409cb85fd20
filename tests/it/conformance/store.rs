//! Storing, reading and removing.

use std::time::Duration;

use agentbus_nats::plan;
use agentbus_nats::read::{From, Query};
use agentbus_nats::topology::Sizes;
use agentbus_proto::Code;

use super::stage::{Kind, Stage, message, now, subject};

pub async fn an_id_is_stored_once(kind: Kind) {
    let stage = Stage::new(kind).await;
    let first = stage.bus.store(message("notes", "one", "id-1")).await.unwrap();
    let again = stage.bus.store(message("notes", "one", "id-1")).await.unwrap();
    let other = stage.bus.store(message("notes", "two", "id-2")).await.unwrap();
    assert_eq!((first.seq, first.duplicate), (1, false));
    assert_eq!((again.seq, again.duplicate), (1, true), "the earlier one's number");
    assert_eq!((other.seq, other.duplicate), (2, false));
    assert_eq!(first.stream, stage.names.events());
    assert_eq!(stage.records(&stage.names.events()).await.len(), 2);
}

pub async fn a_full_stream_refuses_and_takes_again(kind: Kind) {
    let stage = Stage::with(kind, Sizes { events_bytes_max: 64 * 1024, ..Sizes::within(16 << 20) }).await;
    let text = "x".repeat(10_000);
    let mut stored = 0;
    let refused = loop {
        match stage.bus.store(message("notes", &text, "")).await {
            Ok(_) => stored += 1,
            Err(fault) => break fault,
        }
        assert!(stored < 10, "64 KiB hold six of these");
    };
    assert_eq!((refused.code, stored), (Code::StreamFull, 6));
    assert!(refused.retry_after.is_some() && refused.message.contains("maximum bytes exceeded"), "{refused}");
    assert_eq!(stage.bus.purge(&stage.names.events(), 3, None).await.unwrap(), 2);
    assert_eq!(stage.event("notes", &text).await, 7, "numbers go on");
}

pub async fn what_is_too_large_is_said_so(kind: Kind) {
    let stage = Stage::new(kind).await;
    let info = stage.bus.stream(&stage.names.events()).await.unwrap().unwrap();
    let most = usize::try_from(info.config.max_message_size).unwrap();
    let refused = stage.bus.store(message("notes", &"x".repeat(most + 1), "")).await.unwrap_err();
    assert_eq!(refused.code, Code::TooLarge);
    assert_eq!(stage.event("notes", &"x".repeat(most / 2)).await, 1);
}

pub async fn a_subject_without_a_stream_is_not_stored(kind: Kind) {
    let stage = Stage::new(kind).await;
    let nowhere = agentbus_nats::publisher::Message { subject: "nowhere.at.all".into(), ..message("x", "x", "") };
    let refused = stage.bus.store(nowhere).await.unwrap_err();
    assert_eq!(refused.code, Code::BrokerDown);
    assert!(refused.message.contains("no stream takes this subject"), "{refused}");
}

pub async fn a_batch_is_whole_or_nothing(kind: Kind) {
    let stage = Stage::with(kind, Sizes { events_bytes_max: 64 * 1024, ..Sizes::within(16 << 20) }).await;
    let batch = |ids: [&str; 3], bytes: usize| ids.map(|id| message("notes", &"x".repeat(bytes), id)).to_vec();
    let stored = stage.bus.store_all(batch(["a", "b", "c"], 10)).await.unwrap();
    assert_eq!(
        stored.iter().map(|stored| (stored.seq, stored.duplicate)).collect::<Vec<_>>(),
        [(1, false), (2, false), (3, false)]
    );
    // What is known already counts as stored; the rest is.
    let again = stage.bus.store_all(batch(["b", "c", "d"], 10)).await.unwrap();
    assert_eq!(again.iter().map(|stored| stored.duplicate).collect::<Vec<_>>(), [true, true, false]);
    let refused = stage.bus.store_all(batch(["e", "f", "g"], 30_000)).await.unwrap_err();
    assert_eq!(refused.code, Code::StreamFull);
    assert_eq!(stage.records(&stage.names.events()).await.len(), 4);
}

pub async fn a_purge_takes_what_it_is_told_to(kind: Kind) {
    let stage = Stage::new(kind).await;
    let (bus, events) = (&stage.bus, stage.names.events());
    for topic in ["a", "b", "a", "b", "a"] {
        stage.event(topic, topic).await;
    }
    assert_eq!(bus.purge(&events, 5, Some(&subject("a"))).await.unwrap(), 2);
    assert_eq!(bus.purge(&events, 1, None).await.unwrap(), 0, "below the first there is nothing");
    assert_eq!((bus.delete(&events, 2).await.unwrap(), bus.delete(&events, 2).await.unwrap()), (true, false));
    let left: Vec<u64> = stage.records(&events).await.iter().map(|record| record.seq).collect();
    assert_eq!(left, [4, 5]);
    let info = bus.stream(&events).await.unwrap().unwrap();
    assert_eq!((info.messages, info.first_seq, info.last_seq), (2, 4, 5));
}

pub async fn assets_are_made_once_and_described(kind: Kind) {
    let stage = Stage::new(kind).await;
    let sizes = Sizes::within(64 << 20);
    let steps = plan::plan(&*stage.bus, &stage.names, &sizes).await.unwrap();
    assert!(!steps.iter().any(plan::Step::changes_something), "applied before: {steps:?}");
    let larger = Sizes { audit_bytes_max: sizes.audit_bytes_max + 1024, ..sizes };
    let steps = plan::apply(&*stage.bus, &stage.names, &larger).await.unwrap();
    assert_eq!(steps.iter().filter(|step| step.changes_something()).count(), 1, "{steps:?}");
    let audit = stage.bus.stream(&stage.names.audit()).await.unwrap().unwrap();
    assert_eq!(audit.config.max_bytes, larger.audit_bytes_max);
    assert!(stage.bus.stream("AB_other_EVENTS").await.unwrap().is_none());
    let names = stage.bus.stream_names().await.unwrap();
    assert!(names.contains(&stage.names.events()) && names.contains(&format!("KV_{}", stage.names.registry())));
}

pub async fn pages_go_by_number_time_and_filter(kind: Kind) {
    let stage = Stage::new(kind).await;
    let (bus, events) = (&stage.bus, stage.names.events());
    for n in 1..=4 {
        stage.event(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string()).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let later = now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stage.event("odd", "5").await;
    let seqs = async |query: Query| {
        let page = bus.read(&events, &query).await.unwrap();
        (page.records.iter().map(|record| record.seq).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(seqs(Query { limit: 2, ..Query::all() }).await, (vec![1, 2], Some(3)));
    assert_eq!(seqs(Query { from: From::Seq(3), to_seq: Some(4), ..Query::all() }).await, (vec![3, 4], None));
    assert_eq!(seqs(Query { from: From::Time(later), ..Query::all() }).await, (vec![5], None), "by time");
    let odd = Query { filters: vec![subject("odd")], from: From::Seq(2), ..Query::all() };
    assert_eq!(seqs(odd).await, (vec![3, 5], None));
    let bare = bus.read(&events, &Query { headers_only: true, ..Query::all() }).await.unwrap();
    assert!(bare.records.iter().all(|record| record.payload.is_empty()) && bare.records.len() == 5);

    let found = bus.find(&events, &subject("even"), 3).await.unwrap().unwrap();
    assert_eq!((found.seq, &found.payload[..], found.subject.as_str()), (4, &b"4"[..], subject("even").as_str()));
    assert!(bus.find(&events, &subject("even"), 5).await.unwrap().is_none());
    assert_eq!(bus.get(&events, 5).await.unwrap().unwrap().payload, "5");
    assert!(bus.get(&events, 6).await.unwrap().is_none() && bus.get(&events, 0).await.unwrap().is_none());
    let mut counts = bus.subjects(&events, "ab.default.>").await.unwrap();
    counts.sort();
    assert_eq!(counts, [(subject("even"), 2), (subject("odd"), 3)]);
}
