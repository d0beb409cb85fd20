//! Moments: between the contract, the system clock and RFC 3339 text (always UTC, `2026-11-20T10:00:00.5Z`).
//!
//! Only the years 0001 to 9999 exist, as in protobuf; what is outside becomes `None`, never a wrong moment.

use std::time::SystemTime;

use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The moment for the contract.
pub fn from_system(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// The moment for the clock.
pub fn to_system(time: &Timestamp) -> Option<SystemTime> {
    to_date(time).map(SystemTime::from)
}

/// Writes a moment; fractions of a second only as far as needed.
pub fn format(time: &Timestamp) -> Option<String> {
    to_date(time)?.format(&Rfc3339).ok()
}

/// Reads a moment; any offset is accepted and converted. A leap second counts as the moment before it.
pub fn parse(text: &str) -> Option<Timestamp> {
    let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let time = Timestamp { seconds: date.unix_timestamp(), nanos: i32::try_from(date.nanosecond()).ok()? };
    to_date(&time).map(|_| time)
}

fn to_date(time: &Timestamp) -> Option<OffsetDateTime> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let date = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?.replace_nanosecond(nanos).ok()?;
    (1..=9999).contains(&date.year()).then_some(date)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::any_timestamp;

    #[test]
    fn reads_and_writes_rfc3339() {
        let check = |text: &str, seconds: i64, nanos: i32, written: &str| {
            let time = Timestamp { seconds, nanos };
            assert_eq!(parse(text), Some(time), "{text}");
            assert_eq!(format(&time).as_deref(), Some(written));
        };
        check("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00Z");
        check("2026-11-20T11:00:00.5+01:00", 1_795_168_800, 500_000_000, "2026-11-20T10:00:00.5Z");
        check("1969-12-31T23:59:59.000000001Z", -1, 1, "1969-12-31T23:59:59.000000001Z");
        check("9999-12-31T23:59:59Z", 253_402_300_799, 0, "9999-12-31T23:59:59Z");
    }

    #[test]
    fn refuses_what_is_no_moment() {
        for text in ["", "now", "2026-11-20", "2026-11-20T10:00:00", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000), (253_402_300_800, 0)] {
            assert_eq!(format(&Timestamp { seconds, nanos }), None);
            assert_eq!(to_system(&Timestamp { seconds, nanos }), None);
        }
    }

    proptest! {
        #[test]
        fn every_moment_survives(time in any_timestamp()) {
            prop_assert_eq!(format(&time).and_then(|text| parse(&text)), Some(time));
            prop_assert_eq!(to_system(&time).map(from_system), Some(time));
        }
    }
}
