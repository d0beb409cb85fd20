//! What bounds an agent: `limits`, what it does while the broker is away: `spool`, and when something that keeps failing is
//! left alone: `breaker`. Used for `defaults` and for each agent.

use std::time::Duration;

use agentbus_nats::grant::{AgentLimits, BreakerPolicy, Fsync, SpoolOptions};
use agentbus_runtime::bytesize;

use super::read::{Map, Reader};
use super::yaml::Node;

/// The keys of this file, for the tables that contain them.
pub(super) const KEYS: [&str; 3] = ["limits", "spool", "breaker"];

/// A spool without `bytes`: an hour of ten events of 1 KiB per second, and half as much again.
const SPOOL_BYTES: u64 = 64 << 20;
/// Smallest and largest spool.
const SPOOL_BYTES_RANGE: (u64, u64) = (1 << 20, 1 << 40);
/// Most events per second that can be asked for: above it a limit is none.
const RATE_MAX: f64 = 1e9;
const IN_FLIGHT_MAX: u32 = 20_000;
const FAILURES_MAX: u32 = 10_000;

/// Everything that bounds one agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// What each of its instances may use.
    pub limits: AgentLimits,
    /// Keep events on disk while the broker is away; none = refuse them.
    pub spool: Option<SpoolOptions>,
    /// When something that keeps failing is left alone; none = never.
    pub breaker: Option<BreakerPolicy>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { limits: AgentLimits::default(), spool: None, breaker: Some(BreakerPolicy::default()) }
    }
}

/// Reads the three keys of `map` over `defaults`.
pub(super) fn read(reader: &mut Reader, map: &Map<'_>, defaults: &Bounds) -> Bounds {
    let mut bounds = defaults.clone();
    if let Some(node) = map.get("limits") {
        limits(reader, node, &map.name("limits"), &mut bounds.limits);
    }
    if let Some(node) = map.get("spool") {
        bounds.spool = spool(reader, node, &map.name("spool"));
    }
    if let Some(node) = map.get("breaker") {
        bounds.breaker = breaker(reader, node, &map.name("breaker"));
    }
    bounds
}

fn limits(reader: &mut Reader, node: &Node, path: &str, limits: &mut AgentLimits) {
    let allowed = ["publish_rate", "event_bytes", "in_flight", "stored_bytes"];
    let Some(map) = reader.table(node, path, &allowed, &["memory", "cpu", "open_files"]) else { return };
    if let Some(node) = map.get("publish_rate") {
        limits.publish_per_second = match is_off(node) {
            true => Some(RATE_MAX),
            false => rate(reader, node, &map.name("publish_rate")),
        };
    }
    if let Some(node) = map.get("event_bytes") {
        let bytes = size(reader, node, &map.name("event_bytes"), (1, 1 << 40));
        limits.event_bytes_max = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    }
    if let Some(node) = map.get("in_flight") {
        limits.in_flight_max = reader.integer(node, &map.name("in_flight"), 1, IN_FLIGHT_MAX).map(|most| most as usize);
    }
    if let Some(node) = map.get("stored_bytes") {
        limits.stored_bytes_max = match is_off(node) {
            true => Some(u64::MAX),
            false => size(reader, node, &map.name("stored_bytes"), (1, 1 << 60)),
        };
    }
}

/// The word for no limit where there is one unless something is said, and for no breaker.
fn is_off(node: &Node) -> bool {
    matches!(&node.value, super::yaml::Value::Scalar { text, .. } if text == "off")
}

/// `100/s`, `30/m`, `5/h`; events per second.
fn rate(reader: &mut Reader, node: &Node, path: &str) -> Option<f64> {
    let text = reader.text(node, path)?;
    let parsed = text.split_once('/').and_then(|(number, unit)| {
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        number.trim().parse::<f64>().ok().map(|number| number / seconds)
    });
    let rate = parsed.filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
    if rate.is_none() {
        reader.wrong(node, path, "a rate such as 100/s, 30/m or 5/h");
    }
    rate
}

fn size(reader: &mut Reader, node: &Node, path: &str, (least, most): (u64, u64)) -> Option<u64> {
    let text = reader.text(node, path)?;
    match bytesize::parse(text) {
        Err(error) => {
            reader.error(node.at, format!("{path}: {error}"));
            None
        }
        Ok(bytes) if (least..=most).contains(&bytes) => Some(bytes),
        Ok(_) => {
            let range = format!("from {} to {}", bytesize::format(least), bytesize::format(most));
            reader.wrong(node, path, &range);
            None
        }
    }
}

fn spool(reader: &mut Reader, node: &Node, path: &str) -> Option<SpoolOptions> {
    let map = reader.table(node, path, &["mode", "bytes", "fsync"], &[])?;
    let modes = [("spool", true), ("fail_fast", false)];
    let on = map.get("mode").map_or(Some(true), |node| reader.choice(node, &map.name("mode"), &modes, &[]));
    let bytes = map.get("bytes").and_then(|node| size(reader, node, &map.name("bytes"), SPOOL_BYTES_RANGE));
    let words = [("always", Fsync::Always), ("interval", Fsync::Interval), ("never", Fsync::Never)];
    let fsync = map.get("fsync").and_then(|node| reader.choice(node, &map.name("fsync"), &words, &[]));
    let options = SpoolOptions { bytes_max: bytes.unwrap_or(SPOOL_BYTES), fsync: fsync.unwrap_or_default() };
    (on == Some(true)).then_some(options)
}

fn breaker(reader: &mut Reader, node: &Node, path: &str) -> Option<BreakerPolicy> {
    // `breaker: off` is the one value that is no mapping.
    if is_off(node) {
        return None;
    }
    let map = reader.table(node, path, &["failures", "open"], &[])?;
    let mut policy = BreakerPolicy::default();
    if let Some(node) = map.get("failures") {
        policy.failures = reader.integer(node, &map.name("failures"), 2, FAILURES_MAX).unwrap_or(policy.failures);
    }
    if let Some(node) = map.get("open") {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(24 * 3600));
        let open = reader.duration(node, &map.name("open"), least, most);
        policy.open_ms = open.and_then(|open| u64::try_from(open.as_millis()).ok()).unwrap_or(policy.open_ms);
    }
    Some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Project;

    fn project(defaults: &str, keys: &str) -> Result<Project, String> {
        let text =
            format!("version: 1\ndefaults: {{{defaults}}}\nagents:\n  a: {{runner: process, command: [x]{keys}}}\n");
        Project::parse(&text, "t").map_err(|errors| errors.to_string())
    }

    #[test]
    fn an_agent_s_keys_go_over_the_defaults() {
        let defaults = "limits: {publish_rate: 30/m, in_flight: 2}, spool: {bytes: 2MiB}";
        let keys = ", limits: {publish_rate: 100/s, event_bytes: 1MiB, stored_bytes: 1GiB}, breaker: {open: 2s}";
        let bounds = project(defaults, keys).unwrap().agents.remove(0).bounds;
        let limits = AgentLimits {
            publish_per_second: Some(100.0),
            event_bytes_max: Some(1 << 20),
            in_flight_max: Some(2),
            stored_bytes_max: Some(1 << 30),
        };
        assert_eq!(bounds.limits, limits);
        assert_eq!(bounds.spool, Some(SpoolOptions { bytes_max: 2 << 20, fsync: Fsync::Always }));
        assert_eq!(bounds.breaker, Some(BreakerPolicy { failures: 5, open_ms: 2000 }));
        let project = project(defaults, ", spool: {mode: fail_fast}, breaker: off").unwrap();
        let bounds = &project.agents[0].bounds;
        assert_eq!((bounds.limits.publish_per_second, bounds.spool, bounds.breaker), (Some(0.5), None, None));
        assert_eq!(project.bounds.spool.map(|spool| spool.bytes_max), Some(2 << 20));
    }

    #[test]
    fn without_keys_there_are_no_limits_and_no_spool() {
        assert_eq!(project("", "").unwrap().agents[0].bounds, Bounds::default());
    }

    #[test]
    fn bad_values_are_told_with_what_is_meant() {
        for (keys, wanted) in [
            (", limits: {publish_rate: 100}", "a rate such as 100/s"),
            (", limits: {publish_rate: -1/s}", "a rate such as 100/s"),
            (", limits: {event_bytes: big}", "bad size `big`"),
            (", limits: {in_flight: 0}", "a whole number from 1"),
            (", limits: {memory: 1GiB}", "`memory` in agents.a.limits is not supported in this version"),
            (", spool: {mode: disk}", "must be one of: spool, fail_fast"),
            (", spool: {bytes: 1KiB}", "from 1MiB to 1TiB"),
            (", breaker: {failures: 1}", "a whole number from 2"),
            (", breaker: on", "a mapping"),
        ] {
            let error = project("", keys).unwrap_err();
            assert!(error.contains(wanted), "{keys}: {error}");
        }
    }
}
