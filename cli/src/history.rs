//! The stored events, to look at: from the control plane, or from the broker itself where only its address is known.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_control_plane::events::{self, ListQuery, Listing};
use agentbus_nats::bus::Bus;
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_proto::{Code, Fault, duration, timestamp};

use crate::broker::Access;
use crate::control::{Api, encode};
use crate::instance::Global;

/// Where stored events are read.
pub enum History {
    /// The control plane reads them for us.
    Api(Api),
    /// With the person's own credentials.
    Bus(Arc<dyn Bus>, Names),
}

impl History {
    /// Of the running instance; without one, of the broker that NATS_URL and NATS_CREDS name.
    pub async fn find(global: &Global, what: &str) -> anyhow::Result<Self> {
        if let Ok(instance) = global.instance() {
            return Ok(Self::Api(instance.control()));
        }
        let access = Access::find(global)?;
        Ok(Self::Bus(access.bus(what).await?, Names::new(&access.namespace)))
    }

    /// A part of it.
    pub async fn list(&self, query: &ListQuery) -> Result<Listing, Fault> {
        match self {
            Self::Api(api) => api.get(&format!("/v1/events?{}", encoded(query))).await,
            Self::Bus(bus, names) => events::list(&**bus, names, query).await,
        }
    }
}

fn encoded(query: &ListQuery) -> String {
    let number = |key: &str, value: Option<u64>| value.map(|value| format!("{key}={value}"));
    let text = |key: &str, value: Option<&str>| value.map(|value| format!("{key}={}", encode(value)));
    let size = |value: Option<usize>| value.and_then(|value| u64::try_from(value).ok());
    let parts = [
        number("from_seq", query.from_seq),
        text("since", query.since.as_deref()),
        number("last", size(query.last)),
        text("pattern", Some(&query.pattern)),
        number("limit", size(query.limit)),
        number("wait_ms", Some(query.wait_ms)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("&")
}

/// `10m` ago, or a moment in RFC 3339; as RFC 3339.
pub fn since(text: &str, now: SystemTime) -> anyhow::Result<String> {
    if timestamp::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    let wrong = || {
        let why = format!("--since: `{text}` is neither how long ago (10m, 2h) nor a moment (2026-11-20T10:00:00Z)");
        Fault::new(Code::InvalidEvent, why)
    };
    let ago: Duration = duration::parse(text).map_err(|_| wrong())?;
    Ok(rfc3339(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_an_age_or_a_moment() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        assert_eq!(since("10m", now).unwrap(), "1970-01-01T00:50:00.000Z");
        assert_eq!(since("2026-11-20T10:00:00+01:00", now).unwrap(), "2026-11-20T10:00:00+01:00");
        assert_eq!(since("2h", now).unwrap(), "1970-01-01T00:00:00.000Z");
        assert!(since("yesterday", now).unwrap_err().to_string().contains("--since"));
    }

    #[test]
    fn a_query_is_encoded() {
        let query = ListQuery { last: Some(2), pattern: "notes.>,#all".into(), wait_ms: 5, ..ListQuery::default() };
        assert_eq!(encoded(&query), "last=2&pattern=notes.%3E%2C%23all&wait_ms=5");
    }
}
