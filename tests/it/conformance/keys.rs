//! Keys with values.

use agentbus_nats::bus::{Change, Watch};
use agentbus_tests::wait::PATIENCE;

use super::stage::{Kind, Stage};

pub async fn keys_have_revisions(kind: Kind) {
    let stage = Stage::new(kind).await;
    let (bus, bucket) = (&stage.bus, stage.names.registry());
    assert!(bus.key(&bucket, "agents.a").await.unwrap().is_none());
    let first = bus.put_key(&bucket, "agents.a", "1".into()).await.unwrap();
    let second = bus.put_key(&bucket, "agents.a", "2".into()).await.unwrap();
    assert!(second > first);
    let entry = bus.key(&bucket, "agents.a").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), &entry.value[..], entry.revision), ("agents.a", &b"2"[..], second));
    assert_eq!(bus.swap_key(&bucket, "agents.a", "3".into(), first).await.unwrap(), None, "stale");
    let third = bus.swap_key(&bucket, "agents.a", "3".into(), second).await.unwrap().unwrap();
    assert!(third > second);
    assert_eq!(bus.swap_key(&bucket, "agents.a", "4".into(), 0).await.unwrap(), None, "it is there");
    assert!(bus.swap_key(&bucket, "agents.b", "1".into(), 0).await.unwrap().is_some());
    let mut keys = bus.keys(&bucket).await.unwrap();
    keys.sort();
    assert_eq!(keys, ["agents.a", "agents.b"]);
    bus.delete_key(&bucket, "agents.a").await.unwrap();
    bus.delete_key(&bucket, "agents.none").await.unwrap();
    assert!(bus.key(&bucket, "agents.a").await.unwrap().is_none());
    assert_eq!(bus.keys(&bucket).await.unwrap(), ["agents.b"]);
    assert!(bus.swap_key(&bucket, "agents.a", "5".into(), 0).await.unwrap().is_some(), "free again");
    assert!(bus.key("NO_BUCKET", "agents.a").await.is_err());
}

async fn change(watch: &mut Watch) -> (String, Option<String>) {
    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("a change").expect("no interruption") {
        Change::Put(entry) => (entry.key, Some(String::from_utf8_lossy(&entry.value).into_owned())),
        Change::Removed { key, .. } => (key, None),
    }
}

pub async fn a_watch_tells_what_is_there_and_what_changes(kind: Kind) {
    let stage = Stage::new(kind).await;
    let (bus, bucket) = (&stage.bus, stage.names.registry());
    bus.put_key(&bucket, "agents.a", "1".into()).await.unwrap();
    bus.put_key(&bucket, "groups.a", "-".into()).await.unwrap();
    let mut watch = bus.watch(&bucket, "agents.*").await.unwrap();
    let put = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    assert_eq!(change(&mut watch).await, put("agents.a", "1"));
    bus.put_key(&bucket, "groups.a", "-".into()).await.unwrap();
    bus.put_key(&bucket, "agents.b", "2".into()).await.unwrap();
    assert_eq!(change(&mut watch).await, put("agents.b", "2"));
    bus.delete_key(&bucket, "agents.a").await.unwrap();
    assert_eq!(change(&mut watch).await, ("agents.a".to_owned(), None));
}
