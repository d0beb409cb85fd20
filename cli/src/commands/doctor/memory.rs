//! What the broker itself takes of this machine: asked of it, as its operator, with the keys in the state folder.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentbus_control_plane::authority;
use agentbus_nats::connect::{Identity, Link, Options};
use agentbus_nats::identity::{Authority, Layout};
use agentbus_nats::subject;
use serde::Deserialize;

use super::{Finding, LIMIT};
use crate::instance::Instance;
use crate::{output, size};

/// Where every server answers how it is.
const STATS: &str = "$SYS.REQ.SERVER.PING.STATSZ";
/// Above this a broker on one machine has too much to remember.
const MEMORY_WEAK: u64 = 1 << 30;

#[derive(Debug, Deserialize)]
struct Answer {
    statsz: Stats,
}

#[derive(Debug, Deserialize)]
struct Stats {
    /// Resident memory, in bytes.
    mem: u64,
    connections: u64,
}

/// The broker's memory. `state`: where its keys are.
pub(super) async fn check(instance: &Instance, state: &Path) -> Finding {
    let asked = tokio::time::timeout(LIMIT, ask(&instance.broker.url, state)).await;
    match asked.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs()))) {
        Err(why) => Finding::warn("broker memory", format!("not known: {why}"), "look at the nats-server process"),
        Ok(Stats { mem, connections }) => {
            let connections = output::count(connections, "connection", "connections");
            let found = format!("{} for {connections}", size::human(mem));
            if mem > MEMORY_WEAK {
                let advice = "every remembered id costs 240 bytes for a minute, every consumer some 35 KiB";
                return Finding::warn("broker memory", found, advice);
            }
            Finding::ok("broker memory", found)
        }
    }
}

async fn ask(url: &str, state: &Path) -> Result<Stats, String> {
    let path = authority::file(state);
    let keys = std::fs::read_to_string(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let keys = Authority::from_json(&keys).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let credentials = keys.watcher(now).map_err(|error| error.to_string())?;
    let link = Link::connect(Options {
        servers: vec![url.to_owned()],
        name: "agentbus doctor".to_owned(),
        inbox: subject::inbox("doctor"),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials).map_err(|fault| fault.message)?,
    });
    let link = link.await.map_err(|fault| fault.message)?;
    let answer = link.client.request(STATS, "".into()).await.map_err(|error| error.to_string())?;
    let answer: Answer = serde_json::from_slice(&answer.payload).map_err(|error| format!("unreadable: {error}"))?;
    Ok(answer.statsz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_words_are_understood() {
        let text = r#"{"server":{"name":"x"},"statsz":{"start":"2026","mem":22147072,"cores":2,"cpu":0.5,"connections":24,
            "total_connections":30,"active_accounts":2,"subscriptions":310,"slow_consumers":0}}"#;
        let stats = serde_json::from_str::<Answer>(text).unwrap().statsz;
        assert_eq!((stats.mem, stats.connections), (22_147_072, 24));
    }
}
