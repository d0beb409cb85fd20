//! Durations as people write them: `30s`, `500ms`, `1h30m`, `1.5s`, or a bare number of seconds.
//!
//! Units: `d`, `h`, `m`, `s`, `ms`, `us`, `ns`. Never negative; at most `MAX`. Used for the HTTP API, the configuration
//! and the command line, so that a duration looks the same everywhere.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest duration accepted: 10 000 days. More is a mistake, and it keeps all sums with dates in range.
pub const MAX: Duration = Duration::from_secs(10_000 * 86_400);

const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The text is not a duration; the message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of the form number and unit.
    #[error("`{0}` is not a duration; write for example \"500ms\", \"30s\", \"1h30m\", or a number of seconds")]
    Malformed(String),
    /// More than `MAX`.
    #[error("`{0}` is too long; a duration is at most 10000d")]
    TooLong(String),
}

/// A duration in JSON or YAML: written as text, read from text or from a number of seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub Duration);

/// Reads a duration. Parts add up: `1h30m`. A fraction is allowed, down to nanoseconds.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let malformed = || Error::Malformed(text.to_owned());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(malformed());
    }
    if rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return bounded(text, amount(rest, 1_000_000_000).ok_or_else(malformed)?);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        nanos = nanos.saturating_add(amount(number, *scale).ok_or_else(malformed)?);
        rest = next;
    }
    bounded(text, nanos)
}

/// Writes a duration exactly, in the largest units: `1h30m`, `1s500ms`, `0s`. `parse` reads it back unchanged.
pub fn format(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if nanos >= scale {
            text.push_str(&format!("{}{unit}", nanos / scale));
            nanos %= scale;
        }
    }
    text
}

/// For the contract. Longer than the contract can say becomes the longest it can.
pub fn to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 })
}

/// From the contract. `None` when negative or out of range.
pub fn from_proto(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like \"30s\" or a number of seconds")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        parse(text).map(Text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Text, E> {
        self.visit_str(&seconds.to_string())
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Text, E> {
        self.visit_str(&seconds.to_string())
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Text, E> {
        self.visit_str(&seconds.to_string())
    }
}

/// `number` × `scale` in nanoseconds; digits of a fraction below a nanosecond are an error, not rounded away.
fn amount(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let bad_point = number.contains('.') && (fraction.is_empty() || fraction.contains('.'));
    if whole.is_empty() || bad_point || whole.len() > 20 || fraction.len() > 15 {
        return None;
    }
    let part = if fraction.is_empty() {
        0
    } else {
        let product = fraction.parse::<u128>().ok()?.checked_mul(scale)?;
        let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        (product % divisor == 0).then_some(product / divisor)?
    };
    whole.parse::<u128>().ok()?.checked_mul(scale)?.checked_add(part)
}

fn bounded(text: &str, nanos: u128) -> Result<Duration, Error> {
    if nanos > MAX.as_nanos() {
        return Err(Error::TooLong(text.to_owned()));
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| Error::TooLong(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        let check = |text: &str, millis: u64| assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        check("500ms", 500);
        check("30s", 30_000);
        check("1h30m", 5_400_000);
        check("1.5s", 1_500);
        check("5", 5_000);
        check("0.25", 250);
        check(" 2d ", 172_800_000);
        check("0s", 0);
        check("0", 0);
        check("10000d", 864_000_000_000);
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in ["", " ", "s", "-1s", "1x", "1s2", "1.s", ".5s", "1..5s", "1 s", "1e3", "0.1ns", "ten", "1S", "+1s"]
        {
            assert_eq!(parse(text), Err(Error::Malformed(text.into())), "{text}");
        }
        for text in ["10001d", "99999999999999999999s", "99999999999999999999d99999999999999999999d"] {
            assert_eq!(parse(text), Err(Error::TooLong(text.into())), "{text}");
        }
    }

    #[test]
    fn in_json_it_is_text_or_a_number_of_seconds() {
        let check = |json: &str, millis: u64| {
            assert_eq!(serde_json::from_str::<Text>(json).unwrap(), Text(Duration::from_millis(millis)), "{json}");
        };
        check(r#""1h30m""#, 5_400_000);
        check("5", 5_000);
        check("0.5", 500);
        for bad in ["-5", "null", "true", "1e300", r#""soon""#, "[]"] {
            assert!(serde_json::from_str::<Text>(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Text(Duration::from_millis(1500))).unwrap(), r#""1s500ms""#);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_unchanged(nanos in 0..=u64::try_from(MAX.as_nanos()).unwrap()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
            prop_assert_eq!(from_proto(&to_proto(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            let _ = parse(&text);
        }
    }
}
