//! A nats-server version, as `nats-server --version` prints it, and the oldest one we accept.
//!
//! Ordering is that of semantic versions: `2.14.0-RC.1` is older than `2.14.0`. Two pre-releases of one version compare by their text,
//! which is right for the names nats-server uses up to `RC.9`; nothing depends on more.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Version of a nats-server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
    /// What follows the hyphen (`RC.1`, `dev`); empty for a release.
    pub pre_release: String,
}

impl Version {
    /// The oldest server that has everything the topology asks for (fast-ingest batches, consumer reset).
    pub const MINIMUM: Version = Version::new(2, 14, 0);

    /// A release version.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Version { major, minor, patch, pre_release: String::new() }
    }

    /// Reads the output of `nats-server --version` (`nats-server: v2.15.2`); `None` when that is not what it is.
    pub fn from_output(output: &str) -> Option<Self> {
        output.lines().find_map(|line| line.trim().strip_prefix("nats-server: ")?.trim().parse().ok())
    }
}

impl FromStr for Version {
    type Err = ();

    /// Accepts `2.15.2`, `v2.15.2` and `v2.15.0-RC.1`; nothing shorter.
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().map_err(|_| ()));
        let mut next = || parts.next().ok_or(())?;
        let version = Version { major: next()?, minor: next()?, patch: next()?, pre_release: pre_release.to_owned() };
        if parts.next().is_some() { Err(()) } else { Ok(version) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.pre_release.is_empty() { Ok(()) } else { write!(out, "-{}", self.pre_release) }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = |v: &Version| (v.major, v.minor, v.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| match (self.pre_release.as_str(), other.pre_release.as_str()) {
            (mine, theirs) if mine == theirs => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (mine, theirs) => mine.cmp(theirs),
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_prints_is_read() {
        for (output, expected) in [
            ("nats-server: v2.15.2\n", Some("2.15.2")),
            ("warning: something\nnats-server: v2.14.0-RC.1\n", Some("2.14.0-RC.1")),
            ("nats-server: 2.10.3", Some("2.10.3")),
            ("nats-server: v2.15", None),
            ("nats-server: v2.15.2.1", None),
            ("hello", None),
            ("", None),
        ] {
            assert_eq!(Version::from_output(output).map(|v| v.to_string()).as_deref(), expected, "{output:?}");
        }
    }

    #[test]
    fn versions_are_ordered_like_semantic_versions() {
        let order = ["2.9.30", "2.14.0-RC.1", "2.14.0-RC.2", "2.14.0", "2.14.5", "2.15.0", "3.0.0"];
        let versions: Vec<Version> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted() && versions.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(versions[2] < Version::MINIMUM && versions[3] == Version::MINIMUM);
    }
}
