//! How long history is kept, as it is written: `retention`, `topics`, and the `retention` of a channel.

use std::collections::BTreeMap;
use std::time::Duration;

use agentbus_nats::pattern::Pattern;
use agentbus_proto::duration;
use agentbus_runtime::bytesize;

use super::read::{Map, Reader};
use super::yaml::{Node, Value};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Shortest age: below it, looking would cost more than what it frees.
const AGE_MIN: Duration = Duration::from_secs(1);
/// Smallest history.
const BYTES_MIN: u64 = 64 * 1024;
/// Most topic patterns with an age of their own: each is a command to the broker, again and again.
const TOPICS_MAX: usize = 64;

/// How long events are kept once no group needs them any more, and what happens to a group that does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Events older than this are removed. None: kept as long as there is room.
    pub age: Option<Duration>,
    /// Most bytes of events; none = four fifths of the events stream.
    pub bytes: Option<u64>,
    /// What happens to a group that holds up the others.
    pub on_lag: OnLag,
    /// A group whose oldest unread event is older than this holds up the others.
    pub lag: Duration,
    /// Dead letters older than this are removed, whatever became of them. None: kept as long as there is room.
    pub dead_letters: Option<Duration>,
    /// Topic patterns with an age of their own; no two of them overlap.
    pub topics: Vec<(String, Duration)>,
    /// Channels with an age of their own, by name.
    pub channels: BTreeMap<String, Duration>,
}

/// What happens to a group that does not read, so that nothing behind its first unread event can be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLag {
    /// Its unread events become dead letters, class `RETENTION`: the others go on.
    #[default]
    Park,
    /// Nothing: the stream fills up, and whoever publishes hears why.
    Block,
}

impl OnLag {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Park => "park",
            Self::Block => "block",
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        // A week: longer than any weekend nobody looks at.
        let lag = 7 * DAY;
        let (topics, channels) = (Vec::new(), BTreeMap::new());
        Self { age: None, bytes: None, on_lag: OnLag::Park, lag, dead_letters: None, topics, channels }
    }
}

/// Reads what the file says about it; `map` is the whole file.
pub(super) fn read(reader: &mut Reader, map: &Map<'_>) -> Retention {
    let mut retention = Retention::default();
    if let Some(node) = map.get("retention") {
        namespace(reader, node, &mut retention);
    }
    if let Some(map) = map.get("topics").and_then(|node| reader.map(node, "topics")) {
        topics(reader, &map, &mut retention);
    }
    // The other keys of a channel, and its name, are read elsewhere.
    if let Some(Value::Map(entries)) = map.get("channels").map(|node| &node.value) {
        for entry in entries {
            let Value::Map(keys) = &entry.value.value else { continue };
            let Some(node) = keys.iter().find(|key| key.key == "retention").map(|key| &key.value) else { continue };
            let path = format!("channels.{}.retention", entry.key);
            retention.channels.extend(one_age(reader, node, &path).map(|age| (entry.key.clone(), age)));
        }
    }
    retention
}

fn namespace(reader: &mut Reader, node: &Node, retention: &mut Retention) {
    if matches!(node.value, Value::Scalar { .. }) {
        retention.age = age(reader, node, "retention");
        return;
    }
    let Some(map) = reader.table(node, "retention", &["age", "bytes", "on_lag", "lag", "dead_letters"], &[]) else {
        return;
    };
    retention.age = map.get("age").and_then(|node| age(reader, node, "retention.age"));
    retention.bytes = map.get("bytes").and_then(|node| bytes(reader, node, "retention.bytes"));
    retention.dead_letters = map.get("dead_letters").and_then(|node| age(reader, node, "retention.dead_letters"));
    if let Some(lag) = map.get("lag").and_then(|node| age(reader, node, "retention.lag")) {
        retention.lag = lag;
    }
    let words = [("park", OnLag::Park), ("block", OnLag::Block)];
    if let Some(on_lag) = map.get("on_lag").and_then(|node| reader.choice(node, "retention.on_lag", &words, &[])) {
        retention.on_lag = on_lag;
    }
}

fn topics(reader: &mut Reader, map: &Map<'_>, retention: &mut Retention) {
    let mut known: Vec<Pattern> = Vec::new();
    if map.entries.len() > TOPICS_MAX {
        reader.error(map.at, format!("topics has {} patterns; at most {TOPICS_MAX} are taken", map.entries.len()));
        return;
    }
    for entry in map.entries {
        let path = map.name(&entry.key);
        let pattern = match Pattern::topic(&entry.key) {
            Ok(pattern) => pattern,
            Err(fault) => {
                reader.error(entry.at, format!("topics: {}", fault.message));
                continue;
            }
        };
        if let Some(other) = known.iter().find(|other| other.overlaps(&pattern)) {
            let why = format!("topics: `{pattern}` overlaps `{other}`: a topic can have one retention only");
            reader.error(entry.at, why);
        }
        known.push(pattern);
        let Some(map) = reader.table(&entry.value, &path, &["retention"], &[]) else { continue };
        match map.get("retention") {
            Some(node) => {
                let age = one_age(reader, node, &map.name("retention"));
                retention.topics.extend(age.map(|age| (entry.key.clone(), age)));
            }
            None => reader.error(map.at, format!("{path} has no `retention`, for example {{retention: 30d}}")),
        }
    }
}

/// `24h`, or `{age: 24h}`.
fn one_age(reader: &mut Reader, node: &Node, path: &str) -> Option<Duration> {
    if matches!(node.value, Value::Scalar { .. }) {
        return age(reader, node, path);
    }
    let map = reader.table(node, path, &["age"], &[])?;
    map.get("age").and_then(|node| age(reader, node, &map.name("age")))
}

fn age(reader: &mut Reader, node: &Node, path: &str) -> Option<Duration> {
    reader.duration(node, path, AGE_MIN, duration::MAX)
}

fn bytes(reader: &mut Reader, node: &Node, path: &str) -> Option<u64> {
    let text = reader.text(node, path)?;
    match bytesize::parse(text) {
        Err(error) => {
            reader.error(node.at, format!("{path}: {error}"));
            None
        }
        Ok(bytes) if bytes >= BYTES_MIN => Some(bytes),
        Ok(_) => {
            reader.wrong(node, path, "64KiB or more");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Project;

    fn project(text: &str) -> Result<Retention, String> {
        let project = Project::parse(&format!("version: 1\n{text}"), "f").map_err(|errors| errors.to_string())?;
        Ok(project.retention)
    }

    #[test]
    fn nothing_said_means_as_long_as_there_is_room() {
        let retention = project("").unwrap();
        assert_eq!(retention, Retention::default());
        assert_eq!(
            (retention.age, retention.bytes, retention.on_lag, retention.lag),
            (None, None, OnLag::Park, 7 * DAY)
        );
    }

    #[test]
    fn every_key_is_read() {
        let text = "retention: {age: 7d, bytes: 512MiB, on_lag: block, lag: 2d, dead_letters: 30d}\n\
                    channels: {engineering: {retention: 24h}, ops: {retention: {age: 1h}}, all: {}}\n\
                    topics: {\"audit.>\": {retention: 30d}, file.found: {retention: {age: 60s}}}\n";
        let retention = project(text).unwrap();
        assert_eq!((retention.age, retention.bytes), (Some(7 * DAY), Some(512 << 20)));
        assert_eq!((retention.on_lag, retention.lag), (OnLag::Block, 2 * DAY));
        assert_eq!(retention.dead_letters, Some(30 * DAY));
        let topics = [("audit.>".to_owned(), 30 * DAY), ("file.found".to_owned(), Duration::from_secs(60))];
        assert_eq!(retention.topics, topics);
        let channels = [("engineering".to_owned(), DAY), ("ops".to_owned(), DAY / 24)];
        assert_eq!(retention.channels, channels.into());
        assert_eq!(project("retention: 3d\n").unwrap().age, Some(3 * DAY));
    }

    #[test]
    fn all_mistakes_are_told_with_their_line() {
        let text = "retention:\n  age: 7\n  bytes: 1KiB\n  on_lag: drop\n  keep: 1\n\
                    topics:\n  a.>: {retention: 0s}\n  a.b: {retention: 1d}\n  '@x': {retention: 1d}\n  c: {age: 1d}\n";
        let said = project(text).unwrap_err();
        for wanted in [
            "f:4:10: retention.bytes must be 64KiB or more, not `1KiB`",
            "f:5:11: retention.on_lag must be one of: park, block, not `drop`",
            "f:6:3: unknown key `keep` in retention; allowed here: age, bytes, on_lag, lag, dead_letters",
            "f:8:20: topics.a.>.retention must be from 1s to 10000d, not `0s`",
            "f:9:3: topics: `a.b` overlaps `a.>`: a topic can have one retention only",
            "f:10:3: topics: pattern `@x`",
            "f:11:7: unknown key `age` in topics.c; allowed here: retention",
            "f:11:6: topics.c has no `retention`",
        ] {
            assert!(said.contains(wanted), "{wanted}\nin {said}");
        }
    }
}
