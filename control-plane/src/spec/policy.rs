//! How failures are handled, as it is written: `retry`, `ack_deadline`, `restart`. Used for `defaults` and for each agent.

use std::time::Duration;

use agentbus_nats::grant::Policy;
use agentbus_proto::duration;
use agentbus_runtime::restart;

use super::agent::Restart;
use super::read::{Map, Reader};

const DAY: Duration = Duration::from_secs(24 * 3600);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Most attempts that can be asked for.
const ATTEMPTS_MAX: u32 = 1000;
/// Most restarts that a budget can allow.
const RESTARTS_MAX: u32 = 10_000;

/// Reads `retry`, `ack_deadline` and `receipts` of `map` over `defaults`.
pub(super) fn read(reader: &mut Reader, map: &Map<'_>, defaults: &Policy) -> Policy {
    let mut policy = defaults.clone();
    if let Some(node) = map.get("ack_deadline")
        && let Some(value) = reader.duration(node, &map.name("ack_deadline"), SECOND, DAY)
    {
        policy.ack_deadline_ms = millis(value);
    }
    if let Some(node) = map.get("receipts")
        && let Some(value) = reader.boolean(node, &map.name("receipts"))
    {
        policy.receipts = value;
    }
    let allowed = ["max_attempts", "initial", "factor", "max"];
    let retry = map.get("retry").and_then(|node| reader.table(node, &map.name("retry"), &allowed, &["jitter"]));
    let Some(retry) = retry else { return policy };
    if let Some(node) = retry.get("max_attempts")
        && let Some(value) = reader.integer(node, &retry.name("max_attempts"), 1, ATTEMPTS_MAX)
    {
        policy.max_attempts = value;
    }
    if let Some(node) = retry.get("factor")
        && let Some(value) = reader.number(node, &retry.name("factor"), 1.0, 100.0)
    {
        policy.factor = value;
    }
    let mut time = |key: &str| {
        retry.get(key).and_then(|node| reader.duration(node, &retry.name(key), MILLISECOND, DAY)).map(millis)
    };
    let (initial, max) = (time("initial"), time("max"));
    policy.initial_ms = initial.unwrap_or(policy.initial_ms);
    policy.max_ms = max.unwrap_or(policy.max_ms);
    if policy.initial_ms > policy.max_ms {
        // Written together they are a mistake; a longer first wait alone just raises the default of the longest one.
        match (initial, max) {
            (Some(_), None) => policy.max_ms = policy.initial_ms,
            (None, Some(_)) => policy.initial_ms = policy.max_ms,
            _ => {
                let max = duration::format(Duration::from_millis(policy.max_ms));
                let at = retry.get("initial").map_or(retry.at, |node| node.at);
                reader.error(at, format!("{} is longer than max ({max})", retry.name("initial")));
            }
        }
    }
    policy
}

/// Reads `restart`.
pub(super) fn restart(reader: &mut Reader, map: &Map<'_>) -> Restart {
    let mut found = Restart::default();
    let path = map.name("restart");
    let allowed = ["policy", "max", "per"];
    let Some(map) = map.get("restart").and_then(|node| reader.table(node, &path, &allowed, &[])) else {
        return found;
    };
    let words = [
        ("always", restart::Policy::Always),
        ("on-failure", restart::Policy::OnFailure),
        ("never", restart::Policy::Never),
    ];
    if let Some(node) = map.get("policy")
        && let Some(value) = reader.choice(node, &map.name("policy"), &words, &[])
    {
        found.policy = value;
    }
    if let Some(node) = map.get("max")
        && let Some(value) = reader.integer(node, &map.name("max"), 1, RESTARTS_MAX)
    {
        found.budget.max = value;
    }
    if let Some(node) = map.get("per")
        && let Some(value) = reader.duration(node, &map.name("per"), SECOND, DAY)
    {
        found.budget.per = value;
    }
    found
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
