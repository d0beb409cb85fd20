//! One stream: a bounded log of records, what it refuses, and the ids it remembers. Pure: the time comes in.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::time::Instant;

use super::cursor::Cursor;
use super::filter;
use crate::headers;
use crate::publisher::Message;

/// Bytes that a broker's file store adds to each record; counted here, too, so that a stream is full at the same size.
const RECORD_BYTES: usize = 34;
/// Ids remembered at most, the oldest forgotten first: the window bounds them by time only.
const IDS_MAX: usize = 500_000;

/// Both clocks at one moment: due times count on one, records are dated by the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub mono: Instant,
    pub wall: SystemTime,
}

/// A record.
#[derive(Debug)]
pub(super) struct Kept {
    pub subject: Subject,
    pub headers: HeaderMap,
    pub payload: Bytes,
    pub at: SystemTime,
    bytes: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Appended {
    pub seq: u64,
    pub duplicate: bool,
}

/// A refusal as the broker numbers and words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(pub u64, pub &'static str);

const FULL: Refused = Refused(10_077, "maximum bytes exceeded");
const FULL_COUNT: Refused = Refused(10_077, "maximum messages exceeded");
const TOO_LARGE: Refused = Refused(10_054, "message size exceeds maximum allowed");

/// The stream.
pub(super) struct Log {
    pub config: Config,
    pub created: SystemTime,
    pub records: BTreeMap<u64, Arc<Kept>>,
    pub bytes: u64,
    pub last_seq: u64,
    pub cursors: BTreeMap<String, Cursor>,
    ids: HashMap<String, u64>,
    /// When each id may be forgotten, oldest first.
    windows: VecDeque<(Instant, String)>,
}

impl Log {
    pub fn new(config: Config, created: SystemTime) -> Self {
        Self {
            config,
            created,
            records: BTreeMap::new(),
            bytes: 0,
            last_seq: 0,
            cursors: BTreeMap::new(),
            ids: HashMap::new(),
            windows: VecDeque::new(),
        }
    }

    /// Whether the stream takes this subject.
    pub fn takes(&self, subject: &str) -> bool {
        self.config.subjects.iter().any(|wanted| filter::matches(wanted, subject))
    }

    pub fn first_seq(&self) -> u64 {
        self.records.first_key_value().map_or(self.last_seq + 1, |(seq, _)| *seq)
    }

    /// Stores a message, unless its id is remembered.
    pub fn append(&mut self, message: Message, now: Now) -> Result<Appended, Refused> {
        self.forget(now.mono);
        let id = headers::get(Some(&message.headers), headers::MSG_ID).map(str::to_owned);
        if let Some(seq) = id.as_ref().and_then(|id| self.ids.get(id)) {
            return Ok(Appended { seq: *seq, duplicate: true });
        }
        let bytes = self.fits(&message)?;
        self.last_seq += 1;
        if let Some(id) = id {
            self.ids.insert(id.clone(), self.last_seq);
            self.windows.push_back((now.mono + self.config.duplicate_window, id));
        }
        let Message { subject, headers, payload } = message;
        let kept = Kept { subject: subject.into(), headers, payload, at: now.wall, bytes };
        self.records.insert(self.last_seq, Arc::new(kept));
        self.bytes += bytes;
        self.make_room();
        Ok(Appended { seq: self.last_seq, duplicate: false })
    }

    /// Whether all of these would be stored now, duplicates aside.
    pub fn fit<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) -> Result<(), Refused> {
        let (mut bytes, mut count) = (0, 0);
        for message in messages {
            bytes += self.fits(message)?;
            count += 1;
        }
        self.room(bytes, count)
    }

    /// The record's size, if there is room for it.
    fn fits(&self, message: &Message) -> Result<u64, Refused> {
        let size = size(message);
        if usize::try_from(self.config.max_message_size).is_ok_and(|max| max > 0 && size > max) {
            return Err(TOO_LARGE);
        }
        let bytes = (size + message.subject.len() + RECORD_BYTES) as u64;
        self.room(bytes, 1)?;
        Ok(bytes)
    }

    fn room(&self, bytes: u64, count: u64) -> Result<(), Refused> {
        if self.config.discard != DiscardPolicy::New {
            return Ok(());
        }
        if limit(self.config.max_bytes).is_some_and(|max| self.bytes + bytes > max) {
            return Err(FULL);
        }
        let records = self.records.len() as u64;
        if limit(self.config.max_messages).is_some_and(|max| records + count > max) {
            return Err(FULL_COUNT);
        }
        Ok(())
    }

    /// Where old ones give way to new ones.
    fn make_room(&mut self) {
        if let Some(max) = limit(self.config.max_messages_per_subject)
            && let Some(newest) = self.records.get(&self.last_seq)
        {
            let same = self.records.iter().rev().filter(|(_, kept)| kept.subject == newest.subject);
            let gone: Vec<u64> = same.map(|(seq, _)| *seq).skip(usize::try_from(max).unwrap_or(usize::MAX)).collect();
            gone.into_iter().for_each(|seq| drop(self.remove(seq)));
        }
        let over = |log: &Self| {
            limit(log.config.max_bytes).is_some_and(|max| log.bytes > max)
                || limit(log.config.max_messages).is_some_and(|max| log.records.len() as u64 > max)
        };
        while self.records.len() > 1 && over(self) {
            let oldest = self.first_seq();
            self.remove(oldest);
        }
    }

    /// Takes a record out; its id stays remembered.
    pub fn remove(&mut self, seq: u64) -> Option<Arc<Kept>> {
        let kept = self.records.remove(&seq)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }

    /// Takes all below `below` out that match; tells how many.
    pub fn purge(&mut self, below: u64, wanted: Option<&str>) -> u64 {
        let meant = |kept: &Kept| wanted.is_none_or(|wanted| filter::matches(wanted, &kept.subject));
        let gone: Vec<u64> = self.records.range(..below).filter(|(_, kept)| meant(kept)).map(|(seq, _)| *seq).collect();
        gone.iter().for_each(|seq| drop(self.remove(*seq)));
        gone.len() as u64
    }

    /// Whether settled records go away.
    pub fn is_queue(&self) -> bool {
        self.config.retention == RetentionPolicy::WorkQueue
    }

    fn forget(&mut self, now: Instant) {
        while let Some((until, _)) = self.windows.front() {
            if *until > now && self.windows.len() <= IDS_MAX {
                return;
            }
            if let Some((_, id)) = self.windows.pop_front() {
                self.ids.remove(&id);
            }
        }
    }
}

/// Headers as they would be on the wire, and payload.
fn size(message: &Message) -> usize {
    let line = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| -> usize {
        values.iter().map(|value| AsRef::<str>::as_ref(name).len() + value.as_str().len() + 4).sum()
    };
    let headers: usize = message.headers.iter().map(line).sum();
    message.payload.len() + if headers > 0 { headers + 14 } else { 0 }
}

fn limit(config: i64) -> Option<u64> {
    u64::try_from(config).ok().filter(|max| *max > 0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn now(base: Instant, ms: u64) -> Now {
        let since = Duration::from_millis(ms);
        Now { mono: base + since, wall: SystemTime::UNIX_EPOCH + since }
    }

    pub(crate) fn log(change: impl FnOnce(&mut Config)) -> Log {
        let mut config = Config {
            name: "S".into(),
            subjects: vec!["a.>".into()],
            discard: DiscardPolicy::New,
            duplicate_window: Duration::from_secs(60),
            ..Config::default()
        };
        change(&mut config);
        Log::new(config, SystemTime::UNIX_EPOCH)
    }

    pub(crate) fn message(subject: &str, id: &str) -> Message {
        let mut headers = HeaderMap::new();
        if !id.is_empty() {
            headers.insert(headers::MSG_ID, id);
        }
        Message { subject: subject.into(), headers, payload: Bytes::from_static(b"0123456789") }
    }

    #[test]
    fn an_id_is_stored_once_within_its_window() {
        let (mut log, base) = (log(|_| {}), Instant::now());
        let mut append = |ms| log.append(message("a.b", "x"), now(base, ms)).unwrap();
        assert_eq!(append(0), Appended { seq: 1, duplicate: false });
        assert_eq!(append(59_000), Appended { seq: 1, duplicate: true });
        assert_eq!(append(60_001), Appended { seq: 2, duplicate: false });
    }

    #[test]
    fn a_full_stream_refuses_and_has_room_again_after_a_purge() {
        let (mut log, at) = (log(|config| config.max_bytes = 100), now(Instant::now(), 0));
        assert!(log.append(message("a.b", ""), at).is_ok());
        assert!(log.append(message("a.b", ""), at).is_ok());
        assert_eq!(log.append(message("a.b", ""), at), Err(FULL));
        assert_eq!(log.purge(2, None), 1);
        assert_eq!(log.append(message("a.b", ""), at), Ok(Appended { seq: 3, duplicate: false }));
        assert_eq!((log.first_seq(), log.records.len()), (2, 2));
    }

    #[test]
    fn a_batch_fits_as_a_whole_or_not_at_all() {
        let log = log(|config| config.max_bytes = 100);
        let batch = |count| vec![message("a.b", ""); count];
        assert_eq!(log.fit(&batch(2)), Ok(()));
        assert_eq!(log.fit(&batch(3)), Err(FULL));
    }

    #[test]
    fn a_message_above_the_streams_limit_is_too_large() {
        let mut log = log(|config| config.max_message_size = 9);
        assert_eq!(log.append(message("a.b", ""), now(Instant::now(), 0)), Err(TOO_LARGE));
    }

    #[test]
    fn a_purge_takes_only_what_matches() {
        let (mut log, at) = (log(|_| {}), now(Instant::now(), 0));
        for subject in ["a.x", "a.y", "a.x", "a.x"] {
            log.append(message(subject, ""), at).unwrap();
        }
        assert_eq!(log.purge(4, Some("a.x")), 2);
        assert_eq!(log.records.keys().copied().collect::<Vec<_>>(), [2, 4]);
    }
}
