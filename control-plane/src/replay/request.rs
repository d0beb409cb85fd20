//! What can be asked of a replay that stores copies, and what it answers. The command line uses the same types.

use std::collections::BTreeMap;
use std::time::SystemTime;

use agentbus_nats::read::From;
use agentbus_proto::{Code, Fault, name, timestamp};
use serde::{Deserialize, Serialize};

/// Copies per second unless told otherwise.
pub const RATE_DEFAULT: u32 = 500;
const RATE_MAX: u32 = 10_000;
/// Space of a sandbox's streams together, in bytes, unless told otherwise.
pub const SPACE_DEFAULT: u64 = 64 * 1024 * 1024;
const SPACE_MIN: u64 = 1024 * 1024;
/// Events looked at by one request; it answers with where to go on.
pub(super) const BATCH_MAX: usize = 1000;
const SPEED_MAX: f64 = 1_000_000.0;

/// Which events, where to, and how fast. Exactly one of `to_group` and `into`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Address patterns.
    pub patterns: Vec<String>,
    /// Begin at this sequence; goes before `since`. Neither: at the oldest event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Begin with what was stored at this moment, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last sequence; none = the newest one when this is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// The last moment, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// To this group, and nobody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_group: Option<String>,
    /// Into this namespace, to the same addresses there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
    /// Make that namespace's streams if it has none.
    pub create: bool,
    /// Space for them together, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space_bytes: Option<u64>,
    /// 1 = with the original pauses, 10 = ten times as fast, 0 = only the rate counts.
    pub speed: f64,
    /// Most copies per second, 1 to 10 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Tell what would be copied; store nothing.
    pub dry_run: bool,
    /// Go on with this run: from the answer before, together with `from_seq`, `to_seq` and `clock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The pace of the run so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
}

/// When a run began, and what was stored at that point of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds since the Unix epoch, by the control plane's clock.
    pub began_ms: u64,
    /// The same of the first event.
    pub stored_ms: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Names the run; the copies' ids begin with it.
    pub run: String,
    /// Nothing was stored.
    pub dry_run: bool,
    /// Events copied, or that would be.
    pub copied: u64,
    /// Events left out.
    pub skipped: BTreeMap<Skipped, u64>,
    /// The namespace's streams were made.
    pub created: bool,
    /// Sequence of the first and the last event that was looked at; 0 = none.
    pub first_seq: u64,
    /// See `first_seq`.
    pub last_seq: u64,
    /// Where the run ends.
    pub to_seq: u64,
    /// Set when there is more: ask again with this as `from_seq`, and with `run`, `to_seq` and `clock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Why it ended early: the broker took no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Why an event is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// Its time is over: whoever got it would not hand it out.
    Expired,
    /// The group does not read this address.
    NotRead,
    /// It is no event, or it is a reply.
    NoEvent,
}

impl Skipped {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotRead => "not read by the group",
            Self::NoEvent => "no events",
        }
    }
}

/// Where copies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Group(&'a str),
    Namespace(&'a str),
}

impl Request {
    /// Refuses with `INVALID_EVENT` what is out of bounds or not clear; tells where to.
    pub(super) fn target(&self, own: &str) -> Result<Target<'_>, Fault> {
        let invalid = |why: &str| Err(Fault::new(Code::InvalidEvent, format!("replay: {why}")));
        if !(0.0..=SPEED_MAX).contains(&self.speed) {
            return invalid("`speed` is 0 to 1000000");
        }
        if self.rate.is_some_and(|rate| !(1..=RATE_MAX).contains(&rate)) {
            return invalid("`rate` is 1 to 10000 per second");
        }
        if self.space_bytes.is_some_and(|space| space < SPACE_MIN) {
            return invalid("`space_bytes` is 1 MiB or more");
        }
        if self.run.as_deref().is_some_and(|run| name::token(run).is_err()) {
            return invalid("`run` is not from an answer before");
        }
        match (self.to_group.as_deref(), self.into.as_deref()) {
            (Some(group), None) => name::token(group).map(|()| Target::Group(group)),
            (None, Some(into)) if into == own => invalid("`into` is the namespace the events are in"),
            (None, Some(into)) => name::lower_name("namespace", into).map(|()| Target::Namespace(into)),
            _ => invalid("say where to: exactly one of `to_group` and `into`"),
        }
    }

    /// Where reading begins.
    pub(super) fn from(&self) -> Result<From, Fault> {
        match (self.from_seq, &self.since) {
            (Some(seq), _) => Ok(From::Seq(seq)),
            (None, Some(text)) => moment("since", text).map(From::Time),
            (None, None) => Ok(From::Seq(1)),
        }
    }

    /// The last moment.
    pub(super) fn until(&self) -> Result<Option<SystemTime>, Fault> {
        self.until.as_deref().map(|text| moment("until", text)).transpose()
    }
}

fn moment(what: &str, text: &str) -> Result<SystemTime, Fault> {
    timestamp::parse(text).and_then(|time| timestamp::to_system(&time)).ok_or_else(|| {
        let shown = text.escape_debug();
        Fault::new(Code::InvalidEvent, format!("replay: `{what}` is no moment such as 2026-11-20T10:00:00Z: {shown}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_place_and_a_pace() {
        let good = Request { to_group: Some("readers".into()), ..Request::default() };
        let into = |name: &str| Request { into: Some(name.into()), ..Request::default() };
        let check =
            |request: Request, wanted: bool| assert_eq!(request.target("default").is_ok(), wanted, "{request:?}");
        check(good.clone(), true);
        check(into("sandbox"), true);
        check(into("default"), false);
        check(into("Sand box"), false);
        check(Request::default(), false);
        check(Request { into: Some("sandbox".into()), ..good.clone() }, false);
        check(Request { speed: -1.0, ..good.clone() }, false);
        check(Request { speed: f64::NAN, ..good.clone() }, false);
        check(Request { rate: Some(0), ..good.clone() }, false);
        check(Request { run: Some("a b".into()), ..good.clone() }, false);
        assert!(Request { since: Some("yesterday".into()), ..good }.from().is_err());
    }
}
