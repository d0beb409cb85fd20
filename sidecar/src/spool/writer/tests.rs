use std::path::Path;
use std::sync::mpsc::sync_channel;

use agentbus_nats::publisher::Message;
use agentbus_runtime::state::InstanceLock;
use async_nats::HeaderMap;
use tokio::sync::Notify;

use super::*;
use crate::metrics::Metrics;
use crate::spool::record;

const OPTIONS: SpoolOptions = SpoolOptions { bytes_max: 1 << 20, fsync: Fsync::Always };

fn writer(dir: &Path, log: Log) -> Writer {
    let lock = InstanceLock::acquire(dir).unwrap();
    let shared = Shared { front: Default::default(), changed: Notify::new(), metrics: Metrics::new(), _lock: lock };
    Writer::new(log, OPTIONS, Arc::new(shared))
}

fn entry(id: &str) -> (Entry, oneshot::Receiver<Result<(), Fault>>) {
    let (answer, kept) = oneshot::channel();
    let payload = vec![b'x'; 60_000].into();
    let message = Message { subject: "ab.x".into(), headers: HeaderMap::new(), payload };
    (Entry { body: record::encode(id, &message), answer }, kept)
}

/// Runs a writer on events that come together; whether each is kept.
fn keep(writer: Writer, ids: &[&str]) -> Vec<bool> {
    let (orders, inbox) = sync_channel(ids.len());
    let (entries, answers): (Vec<_>, Vec<_>) = ids.iter().map(|id| entry(id)).unzip();
    orders.send(Order::Keep(entries)).unwrap();
    drop(orders);
    writer.run(&inbox);
    answers.into_iter().map(|mut answer| answer.try_recv().unwrap().is_ok()).collect()
}

/// A failed fsync may have thrown away what was written since the last one, and the next one says nothing of it.
#[test]
fn what_a_failed_fsync_was_for_is_never_told_as_kept_also_across_segments() {
    // Two of them fill a segment.
    for ids in [&["a"][..], &["a", "b", "c", "d", "e"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), OPTIONS.bytes_max).unwrap();
        let mut failed = false;
        log.sync_with(move |file| {
            if std::mem::replace(&mut failed, true) { file.sync_data() } else { Err(io::Error::other("no disk")) }
        });
        assert!(keep(writer(dir.path(), log), ids).iter().all(|kept| !kept));
        // Those that were refused are not sent later, and the next ones are kept.
        let log = Log::open(dir.path(), OPTIONS.bytes_max).unwrap();
        assert_eq!(log.waiting(), 0, "{ids:?}");
        assert_eq!(keep(writer(dir.path(), log), ids), vec![true; ids.len()]);
        let log = Log::open(dir.path(), OPTIONS.bytes_max).unwrap();
        let there: Vec<String> = log.read(usize::MAX).unwrap().into_iter().map(|(_, record)| record.id).collect();
        assert_eq!(there, ids);
    }
}
