//! Cron expressions as the broker understands them: checked before it is asked, and when they come due next.
//!
//! The broker itself computes and fires every occurrence, in the time zone it is given; this is the same rule, step by
//! step, so that what is refused is refused with a reason and what is promised is what happens. Six fields (second,
//! minute, hour, day, month, weekday) or five (without seconds), `*`, lists, ranges, steps, names of months and weekdays.
//! A time that a clock change skips does not come that day; one that it repeats comes twice.

use std::time::{Duration, SystemTime};

use agentbus_proto::{Code, Fault};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// A field was `*`: then the other one of day and weekday alone decides.
const STAR: u64 = 1 << 63;
/// What does not come within so many years never comes.
const YEARS_MAX: i16 = 5;
/// Longest expression, in bytes.
const BYTES_MAX: usize = 256;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What one field may hold.
struct Bounds {
    name: &'static str,
    min: u8,
    max: u8,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 6] = [
    Bounds { name: "second", min: 0, max: 59, names: &[] },
    Bounds { name: "minute", min: 0, max: 59, names: &[] },
    Bounds { name: "hour", min: 0, max: 23, names: &[] },
    Bounds { name: "day", min: 1, max: 31, names: &[] },
    Bounds { name: "month", min: 1, max: 12, names: &MONTHS },
    Bounds { name: "weekday", min: 0, max: 6, names: &DAYS },
];

/// A checked expression in a time zone.
#[derive(Debug, Clone)]
pub struct Cron {
    pattern: String,
    zone: TimeZone,
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
}

impl Cron {
    /// Reads an expression; `time_zone` is an IANA name, empty = UTC. `INVALID_EVENT` says which field is wrong.
    pub fn parse(expression: &str, time_zone: &str) -> Result<Self, Fault> {
        let wrong = |why: String| {
            let shown: String = expression.chars().take(BYTES_MAX).collect();
            Fault::new(Code::InvalidEvent, format!("`cron` is `{}`: {why}", shown.escape_debug()))
        };
        if expression.len() > BYTES_MAX {
            return Err(wrong(format!("more than {BYTES_MAX} bytes")));
        }
        let zone = zone(time_zone)?;
        let named = named(expression.trim());
        let mut fields: Vec<&str> = named.unwrap_or(expression).split_ascii_whitespace().collect();
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        if fields.len() != FIELDS.len() {
            let why = "write five fields, minute hour day month weekday, or six with seconds in front: `0 9 * * 1-5`";
            return Err(wrong(why.to_owned()));
        }
        let mut bits = [0; 6];
        for ((bits, text), bounds) in bits.iter_mut().zip(&fields).zip(&FIELDS) {
            *bits = field(text, bounds).map_err(|why| wrong(format!("{} `{text}`: {why}", bounds.name)))?;
        }
        let [second, minute, hour, day, month, weekday] = bits;
        Ok(Self { pattern: fields.join(" "), zone, second, minute, hour, day, month, weekday })
    }

    /// The six fields, as the broker takes them.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The first occurrence after a moment; none within five years.
    pub fn next(&self, after: SystemTime) -> Option<SystemTime> {
        let seconds = after.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let start = Timestamp::from_second(i64::try_from(seconds).ok()?.checked_add(1)?).ok()?;
        let found = self.search(start.to_zoned(self.zone.clone()))?;
        let seconds = u64::try_from(found.timestamp().as_second()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// Field by field from the largest: what does not match is moved on, and where that carries into a larger field, all
    /// begin again.
    fn search(&self, mut at: Zoned) -> Option<Zoned> {
        let last_year = at.year() + YEARS_MAX;
        // Whether the smaller fields have been set to their beginning.
        let mut cut = false;
        'again: loop {
            if at.year() > last_year {
                return None;
            }
            while !has(self.month, at.month()) {
                if !cut {
                    cut = true;
                    at = self.on(Date::new(at.year(), at.month(), 1).ok()?, &at, false)?;
                }
                at = self.on(at.date().checked_add(1.month()).ok()?, &at, true)?;
                if at.month() == 1 {
                    continue 'again;
                }
            }
            while !self.day_matches(&at) {
                if !cut {
                    cut = true;
                    at = self.on(at.date(), &at, false)?;
                }
                at = self.on(at.date().checked_add(1.day()).ok()?, &at, true)?;
                if at.day() == 1 {
                    continue 'again;
                }
            }
            while !has(self.hour, at.hour()) {
                if !cut {
                    cut = true;
                    at = back(at.clone(), i64::from(at.minute()) * 60 + i64::from(at.second()))?;
                }
                at = at.checked_add(1.hour()).ok()?;
                if at.hour() == 0 {
                    continue 'again;
                }
            }
            while !has(self.minute, at.minute()) {
                if !cut {
                    cut = true;
                    at = back(at.clone(), i64::from(at.second()))?;
                }
                at = at.checked_add(1.minute()).ok()?;
                if at.minute() == 0 {
                    continue 'again;
                }
            }
            while !has(self.second, at.second()) {
                cut = true;
                at = at.checked_add(1.second()).ok()?;
                if at.second() == 0 {
                    continue 'again;
                }
            }
            return Some(at);
        }
    }

    /// A day at the time of day of `at`, or at its beginning.
    fn on(&self, date: Date, at: &Zoned, keep_time: bool) -> Option<Zoned> {
        let time = if keep_time { at.time() } else { jiff::civil::Time::midnight() };
        date.to_datetime(time).to_zoned(self.zone.clone()).ok()
    }

    fn day_matches(&self, at: &Zoned) -> bool {
        let weekday = at.weekday().to_sunday_zero_offset();
        let (day, weekday) = (has(self.day, at.day()), has(self.weekday, weekday));
        if self.day & STAR > 0 || self.weekday & STAR > 0 { day && weekday } else { day || weekday }
    }
}

fn back(at: Zoned, seconds: i64) -> Option<Zoned> {
    at.checked_sub(seconds.seconds()).ok()
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

/// An IANA time zone. Only names: `UTC+2` or a file would mean something else to the broker.
fn zone(name: &str) -> Result<TimeZone, Fault> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let plain = name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte));
    let known = if plain { jiff::tz::db().get(name).ok() } else { None };
    // The broker takes names as they are written, this database in any case.
    known.filter(|zone| zone.iana_name() == Some(name)).ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        let why = format!("`time_zone` is `{}`: write an IANA name like `Europe/Berlin`", shown.escape_debug());
        Fault::new(Code::InvalidEvent, why)
    })
}

fn named(text: &str) -> Option<&'static str> {
    Some(match text {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * 0",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        _ => return None,
    })
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, part| Ok(bits | range(part, bounds)?))
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let (span, step) = text.split_once('/').map_or((text, None), |(span, step)| (span, Some(step)));
    let step = match step {
        None => 1,
        Some(step) => step.parse().ok().filter(|step: &u8| *step > 0).ok_or("a step is a number from 1".to_owned())?,
    };
    if span == "*" || span == "?" {
        return Ok(bits(bounds.min, bounds.max, step) | if step > 1 { 0 } else { STAR });
    }
    let (start, end) = match span.split_once('-') {
        Some((start, end)) => (value(start, bounds)?, value(end, bounds)?),
        // `5/10` means from 5 on.
        None if text.contains('/') => (value(span, bounds)?, bounds.max),
        None => (value(span, bounds)?, value(span, bounds)?),
    };
    if start > end {
        return Err(format!("{start} is after {end}"));
    }
    Ok(bits(start, end, step))
}

fn value(text: &str, bounds: &Bounds) -> Result<u8, String> {
    let named = bounds.names.iter().position(|name| name.eq_ignore_ascii_case(text));
    let named = named.and_then(|at| u8::try_from(at).ok()).map(|at| at + bounds.min);
    let number = || text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let Bounds { min, max, .. } = bounds;
    named
        .or_else(number)
        .filter(|value| (*min..=*max).contains(value))
        .ok_or_else(|| format!("{min} to {max} are allowed"))
}

fn bits(start: u8, end: u8, step: u8) -> u64 {
    (start..=end).step_by(step.into()).fold(0, |bits, value| bits | 1 << value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, zone: &str, after: &str) -> String {
        let after: Timestamp = after.parse().unwrap();
        let cron = Cron::parse(expression, zone).unwrap();
        let found = cron.next(SystemTime::from(after));
        found.map_or_else(|| "never".to_owned(), |at| Timestamp::try_from(at).unwrap().to_string())
    }

    #[test]
    fn the_next_time_is_the_brokers() {
        for (expression, zone, after, expected) in [
            ("0 9 * * 1-5", "", "2026-11-20T08:59:59Z", "2026-11-20T09:00:00Z"),
            ("0 9 * * 1-5", "", "2026-11-20T09:00:00Z", "2026-11-23T09:00:00Z"),
            ("0 9 * * mon-fri", "Europe/Berlin", "2026-11-20T07:00:00Z", "2026-11-20T08:00:00Z"),
            ("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z"),
            ("*/15 * * * *", "", "2026-11-20T10:01:00Z", "2026-11-20T10:15:00Z"),
            ("* * * * * *", "", "2026-12-31T23:59:59.7Z", "2027-01-01T00:00:00Z"),
            ("30 5 10 29 2 *", "", "2026-01-01T00:00:00Z", "2028-02-29T10:05:30Z"),
            ("0 0 1 * *", "", "2026-11-20T10:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 13 * 5", "", "2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("@hourly", "", "2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z"),
            ("5/20 * * * *", "", "2026-11-20T10:06:00Z", "2026-11-20T10:25:00Z"),
            ("0 0 31 2 *", "", "2026-11-20T10:00:00Z", "never"),
        ] {
            assert_eq!(next(expression, zone, after), expected, "{expression} {zone} {after}");
        }
    }

    #[test]
    fn a_clock_change_skips_and_repeats() {
        // 2027-03-28: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z"), "2027-03-29T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-25T01:30:00Z");
    }

    #[test]
    fn five_fields_get_a_second_and_mistakes_get_a_reason() {
        assert_eq!(Cron::parse(" 0  9 * * 1-5 ", "Europe/Berlin").unwrap().pattern(), "0 0 9 * * 1-5");
        for (expression, zone, why) in [
            ("", "", "five fields"),
            ("* * * *", "", "five fields"),
            ("60 * * * *", "", "minute `60`: 0 to 59 are allowed"),
            ("0 9 * * 7", "", "weekday `7`: 0 to 6 are allowed"),
            ("0 9 * * 5-1", "", "5 is after 1"),
            ("*/0 * * * *", "", "a step is a number from 1"),
            ("0 9 * foo *", "", "month `foo`"),
            ("+1 * * * *", "", "minute `+1`"),
            ("1,, * * * *", "", "minute `1,,`"),
            ("0 9 * * *", "Europe/Berln", "`time_zone` is `Europe/Berln`"),
            ("0 9 * * *", "europe/berlin", "`time_zone` is `europe/berlin`"),
            ("0 9 * * *", "../etc/passwd", "`time_zone`"),
        ] {
            let fault = Cron::parse(expression, zone).unwrap_err();
            assert_eq!(fault.code, Code::InvalidEvent);
            assert!(fault.message.contains(why), "{expression} {zone}: {fault}");
        }
    }
}
