//! One bucket of keys: the newest value of each, and which change came when. Pure.

use std::collections::BTreeMap;

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::kv::Config;
use bytes::Bytes;

use super::super::{Change, Entry};
use super::filter;

/// The bucket.
pub(super) struct Bucket {
    pub config: Config,
    pub revision: u64,
    slots: BTreeMap<String, Slot>,
}

/// A key's newest change.
struct Slot {
    /// None once it was removed.
    value: Option<Bytes>,
    revision: u64,
}

impl Bucket {
    pub fn new(config: Config) -> Self {
        Self { config, revision: 0, slots: BTreeMap::new() }
    }

    pub fn get(&self, key: &str) -> Option<Entry> {
        let slot = self.slots.get(key)?;
        let value = slot.value.clone()?;
        Some(Entry { key: key.to_owned(), value, revision: slot.revision })
    }

    pub fn keys(&self) -> Vec<String> {
        self.slots.iter().filter(|(_, slot)| slot.value.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Keys and values, in bytes.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|(key, slot)| size(key, slot) as u64).sum()
    }

    /// Writes a key. `STREAM_FULL` when there is no room for it.
    pub fn put(&mut self, key: &str, value: Bytes) -> Result<u64, Fault> {
        let used: usize = self.slots.iter().filter(|(other, _)| *other != key).map(|(key, slot)| size(key, slot)).sum();
        let max = usize::try_from(self.config.max_bytes).ok().filter(|max| *max > 0);
        if max.is_some_and(|max| used + key.len() + value.len() > max) {
            let why = format!("the bucket `{}` is full (maximum bytes exceeded)", self.config.bucket);
            return Err(Fault::new(Code::StreamFull, why));
        }
        self.revision += 1;
        self.slots.insert(key.to_owned(), Slot { value: Some(value), revision: self.revision });
        Ok(self.revision)
    }

    /// Writes a key if its revision is `expected`; 0 = it has no value.
    pub fn swap(&mut self, key: &str, value: Bytes, expected: u64) -> Result<Option<u64>, Fault> {
        let current = self.get(key).map_or(0, |entry| entry.revision);
        if current == expected { self.put(key, value).map(Some) } else { Ok(None) }
    }

    pub fn delete(&mut self, key: &str) {
        if let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.value.is_some()) {
            self.revision += 1;
            *slot = Slot { value: None, revision: self.revision };
        }
    }

    /// The oldest change behind `after` that is still the newest of its key.
    pub fn change(&self, after: u64, wanted: &str) -> Option<Change> {
        let behind = self.slots.iter().filter(|(key, slot)| slot.revision > after && filter::matches(wanted, key));
        let (key, slot) = behind.min_by_key(|(_, slot)| slot.revision)?;
        let (key, revision) = (key.clone(), slot.revision);
        Some(match &slot.value {
            Some(value) => Change::Put(Entry { key, value: value.clone(), revision }),
            None => Change::Removed { key, revision },
        })
    }
}

fn size(key: &str, slot: &Slot) -> usize {
    key.len() + slot.value.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Bucket {
        Bucket::new(Config { bucket: "B".into(), max_bytes: 20, ..Config::default() })
    }

    #[test]
    fn a_stale_revision_changes_nothing() {
        let mut bucket = bucket();
        assert_eq!(bucket.swap("k", "a".into(), 0), Ok(Some(1)));
        assert_eq!(bucket.swap("k", "b".into(), 0), Ok(None));
        assert_eq!(bucket.swap("k", "b".into(), 1), Ok(Some(2)));
        bucket.delete("k");
        assert_eq!((bucket.get("k"), bucket.keys()), (None, vec![]));
        assert_eq!(bucket.swap("k", "c".into(), 0), Ok(Some(4)));
    }

    #[test]
    fn changes_are_told_once_and_in_order() {
        let mut bucket = bucket();
        for (key, value) in [("a.1", "x"), ("b.1", "x"), ("a.2", "x"), ("a.1", "y")] {
            bucket.put(key, value.into()).unwrap();
        }
        bucket.delete("a.2");
        let (mut after, mut seen) = (0, Vec::new());
        while let Some(change) = bucket.change(after, "a.*") {
            let (key, revision) = match change {
                Change::Put(entry) => (entry.key, entry.revision),
                Change::Removed { key, revision } => (format!("-{key}"), revision),
            };
            after = revision;
            seen.push(key);
        }
        assert_eq!(seen, ["a.1", "-a.2"]);
    }

    #[test]
    fn a_full_bucket_refuses() {
        let mut bucket = bucket();
        bucket.put("k", "0123456789".into()).unwrap();
        assert_eq!(bucket.put("l", "0123456789".into()).unwrap_err().code, Code::StreamFull);
        assert!(bucket.put("k", "0123456789012345".into()).is_ok(), "a key may grow into its own room");
    }
}
