//! Sizes in bytes as people write them: `1MiB`, `16 KiB`, `1GB`, `512`. Binary and decimal units keep their meaning.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units, largest first; each decimal one directly follows its binary twin.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes. In configuration: a plain number, or a string with a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// The text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad size `{text}`: write a number of bytes, or a number with kB, KiB, MB, MiB, GB, GiB, TB or TiB")]
pub struct Error {
    /// What was given.
    pub text: String,
}

/// Reads a size. Units in any case, `Ki` as short for `KiB`; a fraction is allowed with a unit and rounds down.
pub fn parse(text: &str) -> Result<u64, Error> {
    read(text.trim()).ok_or_else(|| Error { text: text.to_owned() })
}

fn read(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let factor = if unit.is_empty() {
        1
    } else {
        let named = |(name, _): &&(&str, u64)| {
            name.eq_ignore_ascii_case(unit) || (name.len() == 3 && name[..2].eq_ignore_ascii_case(unit))
        };
        UNITS.iter().find(named)?.1
    };
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(factor),
        Some((whole, fraction)) if factor > 1 && !fraction.is_empty() && fraction.len() <= 9 => {
            let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
            let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
            u64::try_from(digits.checked_mul(u128::from(factor))? / scale).ok()
        }
        Some(_) => None,
    }
}

/// Writes a size exactly, in the largest unit that divides it: `1MiB`, `1500kB`, `17B`. [`parse`] reads it back.
pub fn format(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match UNITS.iter().find(fits) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format(self.0))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a size: a number of bytes, or a string such as \"16MiB\"")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => parse(&text).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("17B", 17),
            ("16KiB", 16 << 10),
            ("16 kib", 16 << 10),
            ("16Ki", 16 << 10),
            ("1kB", 1000),
            ("1KB", 1000),
            (" 1MiB ", 1 << 20),
            ("1GB", 1_000_000_000),
            ("1.5MiB", 3 << 19),
            ("0.1kB", 100),
            ("16777215TiB", 16_777_215 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        for text in
            ["", "MiB", "-1", "1.5", "1.", ".5MiB5", "1 M iB", "1e3", "16777216TiB", "99999999999999999999", "1.2.3MB"]
        {
            assert_eq!(parse(text).unwrap_err().text, text);
        }
    }

    #[test]
    fn formatting_is_exact() {
        let cases =
            [(0, "0B"), (1 << 20, "1MiB"), (1000, "1kB"), (1025, "1025B"), (3 << 19, "1536KiB"), (1 << 40, "1TiB")];
        for (bytes, text) in cases {
            assert_eq!(format(bytes), text);
            assert_eq!(parse(text), Ok(bytes));
        }
    }

    #[test]
    fn configuration_takes_numbers_and_strings() {
        let sizes: Vec<ByteSize> = serde_json::from_str(r#"[1024, "1KiB"]"#).unwrap();
        assert_eq!(sizes, [ByteSize(1024), ByteSize(1024)]);
        assert!(serde_json::from_str::<ByteSize>(r#""big""#).unwrap_err().to_string().contains("bad size `big`"));
        assert_eq!(serde_json::to_string(&ByteSize(1024)).unwrap(), r#""1KiB""#);
    }
}
