use agentbus_nats::publisher::Message;
use agentbus_proto::Code;
use async_nats::HeaderMap;

use super::*;

const MIB: u64 = 1 << 20;

fn body(id: &str, bytes: usize) -> Vec<u8> {
    let payload = vec![b'x'; bytes].into();
    record::encode(id, &Message { subject: "ab.x".into(), headers: HeaderMap::new(), payload })
}

fn ids(log: &Log) -> Vec<String> {
    log.read(usize::MAX).unwrap().into_iter().map(|(_, record)| record.id).collect()
}

fn with(dir: &Path, count: usize) -> Log {
    let mut log = Log::open(dir, MIB).unwrap();
    (0..count).for_each(|n| log.append(&body(&n.to_string(), 10)).unwrap());
    log.sync().unwrap();
    log
}

fn last_segment(dir: &Path) -> PathBuf {
    segments(dir).unwrap().pop_last().unwrap().1
}

#[test]
fn what_was_kept_is_there_after_a_restart_in_order_without_what_was_drained() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = with(dir.path(), 5);
    log.done(&[0, 2], true).unwrap();
    assert_eq!(ids(&log), ["1", "3", "4"]);
    drop(log);
    let mut log = Log::open(dir.path(), MIB).unwrap();
    assert_eq!((ids(&log), log.waiting()), (vec!["1".to_owned(), "3".to_owned(), "4".to_owned()], 3));
    log.append(&body("5", 10)).unwrap();
    log.done(&[1, 3, 4, 5], true).unwrap();
    assert_eq!((log.waiting(), segments(dir.path()).unwrap().len()), (0, 0));
    drop(log);
    // Indices go on where they were: the place that was noted stays true.
    let mut log = Log::open(dir.path(), MIB).unwrap();
    log.append(&body("6", 10)).unwrap();
    drop(log);
    assert_eq!(ids(&Log::open(dir.path(), MIB).unwrap()), ["6"]);
}

#[test]
fn a_torn_end_is_cut_off_at_every_byte_and_nothing_before_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    drop(with(dir.path(), 3));
    let path = last_segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let frame = whole.len() / 3;
    for cut in 1..=frame {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let mut log = Log::open(dir.path(), MIB).unwrap();
        assert_eq!(ids(&log), ["0", "1"], "{cut} bytes cut");
        log.append(&body("new", 10)).unwrap();
        drop(log);
        assert_eq!(ids(&Log::open(dir.path(), MIB).unwrap()), ["0", "1", "new"], "{cut} bytes cut");
    }
}

#[test]
fn a_flipped_bit_ends_the_segment_there() {
    let dir = tempfile::tempdir().unwrap();
    drop(with(dir.path(), 3));
    let path = last_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(ids(&Log::open(dir.path(), MIB).unwrap()), ["0", "1"]);
}

#[test]
fn the_bound_holds_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), MIB).unwrap();
    let mut kept = Vec::new();
    let full = loop {
        match log.append(&body("x", 60_000)) {
            Ok(()) => kept.push(kept.len() as u64),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full) && log.bytes() <= MIB && kept.len() > 10);
    let files: u64 = segments(dir.path()).unwrap().values().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(files, log.bytes());
    log.done(&kept[..4], true).unwrap();
    log.append(&body("y", 60_000)).unwrap();
}

#[test]
fn what_could_not_be_made_to_last_is_not_sent_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = with(dir.path(), 3);
    log.take_back(2);
    log.append(&body("after", 10)).unwrap();
    assert_eq!(ids(&log), ["0", "after"]);
    drop(log);
    assert_eq!(ids(&Log::open(dir.path(), MIB).unwrap()), ["0", "after"]);
}

#[test]
fn a_refused_one_is_written_down_with_its_reason_and_the_event() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = with(dir.path(), 1);
    let (index, record) = log.read(usize::MAX).unwrap().remove(0);
    log.refuse(&record, &Fault::new(Code::ScopeDenied, "not \"yours\""), "2026-11-20T10:00:00.000Z").unwrap();
    log.done(&[index], true).unwrap();
    let text = std::fs::read_to_string(dir.path().join(REFUSED)).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!((&line["id"], &line["code"]), (&"0".into(), &"SCOPE_DENIED".into()));
    assert_eq!(line["event_base64"], STANDARD.encode(b"xxxxxxxxxx"));
    assert_eq!((log.refused(), Log::open(dir.path(), MIB).unwrap().refused()), (1, 1));
}
