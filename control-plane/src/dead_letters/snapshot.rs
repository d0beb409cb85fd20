//! The fold of redrives, kept in the registry bucket: so that the facts it was made from can be removed.
//!
//! Letters are kept by number in parts of 512, one key each (`facts.redriven.<part>`): a value stays far below the largest one
//! a broker takes, and only parts that changed are written. The head (`facts.redriven`) comes last and says up to which fact
//! all of it reaches. A crash before that leaves parts that know more than the head: each part says itself up to which fact it
//! reaches, so none is counted twice.

use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_proto::{Code, Fault};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::facts::{Entry, Facts, Part, Redriven, Target};

/// Key of the head; those of the parts begin with it.
const HEAD: &str = "facts.redriven";

/// What the snapshot as a whole says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// Facts up to this one are in the parts.
    as_of_seq: u64,
    /// Of the audit stream that was made then, in nanoseconds since the Unix epoch.
    created: i64,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    head: Head,
    letters: Vec<Row>,
}

/// A letter: number, when it was stored, how often and when it was redriven, where to, its `Ab-Redrive`, its new number, and
/// when a redrive was begun whose end is not known. Times in milliseconds since the Unix epoch: 50 bytes, not 100.
type Row = (u64, Option<u64>, u32, u64, Target, u32, u64, Option<u64>);

/// Takes over what the snapshot knows better than the fold. Without one nothing changes.
pub(super) async fn load(bus: &dyn Bus, names: &Names, facts: &mut Facts) -> Result<(), Fault> {
    let bucket = names.registry();
    let Some(head) = read::<Head>(bus, &bucket, HEAD).await? else { return Ok(()) };
    let created = nanos(facts.created);
    let parts = format!("{HEAD}.");
    for key in bus.keys(&bucket).await? {
        let Some(number) = key.strip_prefix(&parts).and_then(|number| number.parse().ok()) else { continue };
        let Some(stored) = read::<Stored>(bus, &bucket, &key).await? else { continue };
        // Of another audit stream: true all the same, but it says nothing about the facts of this one.
        let as_of = if stored.head.created == created { stored.head.as_of_seq } else { 0 };
        if as_of > facts.seen || !facts.parts.contains_key(&number) {
            let letters = stored.letters.into_iter().map(|row| entry(row, names)).collect();
            facts.parts.insert(number, Part { as_of, letters });
        }
    }
    facts.seen = facts.seen.max(if head.created == created { head.as_of_seq } else { 0 });
    Ok(())
}

/// Writes what changed; when this returns, facts up to `facts.seen` are no longer needed.
pub(super) async fn save(bus: &dyn Bus, names: &Names, facts: &mut Facts) -> Result<(), Fault> {
    let bucket = names.registry();
    let head = Head { as_of_seq: facts.seen, created: nanos(facts.created) };
    if read::<Head>(bus, &bucket, HEAD).await?.is_none() {
        // The first one, or the bucket was lost.
        facts.changed.extend(facts.parts.keys());
    }
    for number in facts.changed.clone() {
        let key = format!("{HEAD}.{number}");
        let part = facts.parts.entry(number).or_default();
        if part.letters.is_empty() {
            bus.delete_key(&bucket, &key).await?;
            facts.parts.remove(&number);
        } else {
            part.as_of = head.as_of_seq;
            let letters = part.letters.iter().map(|((seq, stored), entry)| row(*seq, stored.as_deref(), entry));
            write(bus, &bucket, &key, &Stored { head, letters: letters.collect() }).await?;
        }
        facts.changed.remove(&number);
    }
    write(bus, &bucket, HEAD, &head).await
}

async fn read<T: for<'a> Deserialize<'a>>(bus: &dyn Bus, bucket: &str, key: &str) -> Result<Option<T>, Fault> {
    let Some(entry) = bus.key(bucket, key).await? else { return Ok(None) };
    // Taken for none, what it knows would be sent again.
    let damaged = |error| Fault::new(Code::BadConfig, format!("registry entry `{key}` cannot be read: {error}"));
    serde_json::from_slice(&entry.value).map(Some).map_err(damaged)
}

async fn write(bus: &dyn Bus, bucket: &str, key: &str, value: &impl Serialize) -> Result<(), Fault> {
    let bytes = serde_json::to_vec(value).map_err(|error| Fault::new(Code::BadConfig, error.to_string()))?;
    bus.put_key(bucket, key, bytes.into()).await.map(drop)
}

fn row(seq: u64, stored: Option<&str>, entry: &Entry) -> Row {
    let begun = entry.begun.as_deref().map(millis);
    match &entry.done {
        Some(Redriven { count, at, to, redrive, new_seq, .. }) => {
            (seq, stored.map(millis), *count, millis(at), *to, *redrive, *new_seq, begun)
        }
        None => (seq, stored.map(millis), 0, 0, Target::default(), 0, 0, begun),
    }
}

fn entry(row: Row, names: &Names) -> ((u64, Option<String>), Entry) {
    let (seq, stored, count, at, to, redrive, new_seq, begun) = row;
    let new_stream = match to {
        Target::Group => names.retry(),
        Target::Origin => names.events(),
    };
    let done = (count > 0).then(|| Redriven { count, at: text(at), to, redrive, new_stream, new_seq });
    ((seq, stored.map(text)), Entry { done, begun: begun.map(text) })
}

fn nanos(created: Option<OffsetDateTime>) -> i64 {
    created.and_then(|created| i64::try_from(created.unix_timestamp_nanos()).ok()).unwrap_or_default()
}

fn millis(time: &str) -> u64 {
    let since = OffsetDateTime::parse(time, &Rfc3339).map_or(0, |time| time.unix_timestamp_nanos() / 1_000_000);
    u64::try_from(since).unwrap_or_default()
}

fn text(millis: u64) -> String {
    rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentbus_nats::bus::{Memory, memory};
    use agentbus_nats::topology::{self, Sizes};

    use super::super::facts::{Fact, Kind, PART_LETTERS};
    use super::*;

    const STORED: &str = "2026-11-20T09:00:00.001Z";

    fn fact(seq: u64, kind: Kind, dlq_seq: u64) -> (u64, String, Vec<u8>) {
        let fact = Fact {
            dlq_seq,
            dlq_stored: Some(STORED.into()),
            group: "readers".into(),
            to: Target::Group,
            new_stream: "AB_default_RETRY".into(),
            new_seq: 4,
            by: "api".into(),
            at: "2026-11-20T10:00:00.000Z".into(),
            redrive: 1,
        };
        (seq, format!("aba.default.{}", kind.name()), serde_json::to_vec(&fact).unwrap())
    }

    fn take(facts: &mut Facts, (seq, subject, body): (u64, String, Vec<u8>)) {
        facts.take(seq, &subject, &body);
    }

    async fn bucket() -> (Arc<dyn Bus>, Names) {
        let names = Names::new("default");
        let bus = Memory::start(memory::Options::default()).connect("t");
        bus.put_bucket(topology::registry(&names, &Sizes::within(64 << 20))).await.unwrap();
        (bus, names)
    }

    fn of(created: OffsetDateTime) -> Facts {
        Facts { created: Some(created), ..Facts::default() }
    }

    const MADE: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[tokio::test]
    async fn what_is_saved_is_read_again() {
        let (bus, names) = bucket().await;
        let mut facts = of(MADE);
        take(&mut facts, fact(3, Kind::Done, 7));
        take(&mut facts, fact(4, Kind::Begun, 7 + PART_LETTERS));
        save(&*bus, &names, &mut facts).await.unwrap();
        assert!(facts.changed.is_empty());
        let mut again = of(MADE);
        load(&*bus, &names, &mut again).await.unwrap();
        assert_eq!((&again.parts, again.seen), (&facts.parts, 4));
        assert!(again.of(7, STORED).is_some() && again.begun(7 + PART_LETTERS, STORED).is_some());
        // Gone letters leave nothing behind.
        facts.forget_below(8);
        save(&*bus, &names, &mut facts).await.unwrap();
        assert_eq!(bus.keys(&names.registry()).await.unwrap(), ["facts.redriven", "facts.redriven.1"]);
    }

    #[tokio::test]
    async fn a_crash_before_the_head_counts_nothing_twice() {
        let (bus, names) = bucket().await;
        let mut facts = of(MADE);
        save(&*bus, &names, &mut facts).await.unwrap();
        let head = bus.key(&names.registry(), HEAD).await.unwrap().unwrap();
        take(&mut facts, fact(3, Kind::Done, 7));
        save(&*bus, &names, &mut facts).await.unwrap();
        bus.put_key(&names.registry(), HEAD, head.value).await.unwrap();
        let mut again = of(MADE);
        load(&*bus, &names, &mut again).await.unwrap();
        assert_eq!(again.seen, 0);
        take(&mut again, fact(3, Kind::Done, 7));
        assert_eq!(again.of(7, STORED).unwrap().count, 1);
        take(&mut again, fact(5, Kind::Done, 7));
        assert_eq!(again.of(7, STORED).unwrap().count, 2);
    }

    #[tokio::test]
    async fn an_older_snapshot_takes_nothing_away() {
        let (bus, names) = bucket().await;
        let (mut older, mut newer) = (of(MADE), of(MADE));
        for facts in [&mut older, &mut newer] {
            take(facts, fact(3, Kind::Done, 7));
        }
        save(&*bus, &names, &mut older).await.unwrap();
        take(&mut newer, fact(4, Kind::Done, 8));
        load(&*bus, &names, &mut newer).await.unwrap();
        assert!(newer.of(7, STORED).is_some() && newer.of(8, STORED).is_some());
        assert_eq!(newer.seen, 4);
        // A newer one does know better.
        take(&mut newer, fact(5, Kind::Done, 9));
        save(&*bus, &names, &mut newer).await.unwrap();
        load(&*bus, &names, &mut older).await.unwrap();
        assert_eq!((older.seen, &older.parts), (5, &newer.parts));
    }

    #[tokio::test]
    async fn of_another_audit_stream_it_is_true_and_reaches_nowhere() {
        let (bus, names) = bucket().await;
        let mut facts = of(MADE);
        take(&mut facts, fact(3, Kind::Done, 7));
        save(&*bus, &names, &mut facts).await.unwrap();
        let mut again = of(MADE + time::Duration::SECOND);
        load(&*bus, &names, &mut again).await.unwrap();
        take(&mut again, fact(1, Kind::Done, 8));
        assert_eq!((again.of(7, STORED).unwrap().count, again.of(8, STORED).unwrap().count), (1, 1));
    }

    #[test]
    fn a_full_part_is_a_small_value() {
        let entry = Entry {
            done: Some(Redriven {
                count: 100,
                at: STORED.into(),
                to: Target::Origin,
                redrive: 100,
                new_stream: "AB_default_EVENTS".into(),
                new_seq: u64::MAX,
            }),
            begun: Some(STORED.into()),
        };
        let letters = vec![row(u64::MAX, Some(STORED), &entry); PART_LETTERS as usize];
        let head = Head { as_of_seq: u64::MAX, created: i64::MAX };
        assert!(serde_json::to_vec(&Stored { head, letters }).unwrap().len() < 64 * 1024);
    }
}
