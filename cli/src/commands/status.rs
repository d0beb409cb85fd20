//! `agentbus status`: the whole bus on one screen.

use std::collections::HashMap;
use std::time::Duration;

use agentbus_control_plane::api::Agents;
use agentbus_control_plane::dead_letters::Causes;
use agentbus_control_plane::status::{BrokerStatus, GroupStatus, StreamStatus, SystemStatus};
use agentbus_nats::names::Names;
use agentbus_proto::Code;
use serde_json::Value;

use super::agents;
use crate::exit::fault;
use crate::instance::{Global, Instance};
use crate::output::{self, Paint};
use crate::{probe, show, size, table};

/// Show the broker, the streams, the groups and the agents
///
/// LAG is what a group has not been given yet, IN FLIGHT what its members hold, RETRYING what waits for its next attempt, DEAD what it gave
/// up and nobody has sent again (see `agentbus dlq list`). The groups of agents' own addresses (`check--inbox`) are shown when there is
/// something in them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus status\n  agentbus status --json | jq .groups")]
pub struct Args {}

/// Longest wait for an answer, once the broker has shown that it is there.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for the count of open dead letters: there may be many to read.
const COUNT_LIMIT: Duration = Duration::from_secs(5);

/// Prints it; ends with 75 when the broker does not answer.
pub async fn run(global: &Global, _args: &Args) -> anyhow::Result<()> {
    let instance = global.instance()?;
    let hung = probe::greets(&instance.broker.url).await.err();
    let (status, open) = match &hung {
        None => healthy(&instance).await?,
        Some(why) => (without_broker(&instance, why).await?, None),
    };
    if global.json {
        output::json(&json(&status, open.as_ref())?)?;
    } else {
        print(&instance, &status, open.as_ref())?;
    }
    let away = hung.or_else(|| status.broker.problem.as_ref().map(|why| format!("the broker does not answer: {why}")));
    away.map_or(Ok(()), |why| Err(fault(Code::BrokerDown, format!("{why}; `agentbus doctor` says more"))))
}

async fn healthy(instance: &Instance) -> anyhow::Result<(SystemStatus, Option<Open>)> {
    let status: SystemStatus = instance.control().with_limit(LIMIT).get("/v1/status").await?;
    if status.groups.iter().all(|group| group.dead_letters == 0) {
        return Ok((status, Some(Open::default())));
    }
    let counted = instance.control().with_limit(COUNT_LIMIT).get::<Causes>("/v1/dead-letters/groups").await;
    Ok((status, counted.ok().map(Open::from)))
}

/// What the control plane knows by itself.
async fn without_broker(instance: &Instance, why: &str) -> anyhow::Result<SystemStatus> {
    let Agents { agents } = instance.control().with_limit(LIMIT).get("/v1/agents").await?;
    let (url, version) = (instance.broker.url.clone(), instance.broker.version.clone());
    let (layout, problem) = (instance.broker.layout, Some(why.to_owned()));
    let broker = BrokerStatus { url, version, layout, connected: false, problem };
    Ok(SystemStatus { namespace: instance.namespace.clone(), broker, agents, ..SystemStatus::default() })
}

/// Dead letters that wait for a decision, by group.
#[derive(Debug, Default)]
struct Open {
    counts: HashMap<String, u64>,
    /// There are more.
    truncated: bool,
}

impl From<Causes> for Open {
    fn from(causes: Causes) -> Self {
        let mut counts = HashMap::new();
        for cause in causes.causes {
            *counts.entry(cause.group).or_default() += cause.open;
        }
        Self { counts, truncated: causes.truncated }
    }
}

impl Open {
    fn of(&self, group: &str) -> u64 {
        self.counts.get(group).copied().unwrap_or(0)
    }
}

/// The API's object, with the number of open dead letters added to each group.
fn json(status: &SystemStatus, open: Option<&Open>) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(status)?;
    if let (Some(open), Some(groups)) = (open, value["groups"].as_array_mut()) {
        for (entry, group) in groups.iter_mut().zip(&status.groups) {
            entry["dead_letters_open"] = open.of(&group.group).into();
        }
    }
    Ok(value)
}

fn print(instance: &Instance, status: &SystemStatus, open: Option<&Open>) -> anyhow::Result<()> {
    let paint = Paint::stdout();
    let started = show::moment(&instance.started);
    output::line(format!("namespace {}, up since {started} (process {})", status.namespace, instance.pid))?;
    output::line(broker(&status.broker, paint))?;
    if !status.streams.is_empty() {
        let rows: Vec<_> = status.streams.iter().map(stream).collect();
        section("", table::render(&["STREAM", "EVENTS", "SIZE", "OF"], &rows))?;
    }
    if status.broker.problem.is_none() {
        let header = ["GROUP", "LAG", "IN FLIGHT", "RETRYING", "DEAD", "LISTENING", "NOTE"];
        let shown = status.groups.iter().filter(|group| !is_idle_own(group));
        let rows: Vec<_> = shown.map(|status| group(status, open)).collect();
        section("", table::render(&header, &rows))?;
    }
    section("", agents::lines(&status.agents, paint))?;
    let notes = agents::notes(&status.agents);
    if notes.is_empty() { Ok(()) } else { section("", notes) }
}

fn section(before: &str, lines: Vec<String>) -> anyhow::Result<()> {
    output::line(before)?;
    for line in lines {
        output::line(line)?;
    }
    Ok(())
}

fn broker(broker: &BrokerStatus, paint: Paint) -> String {
    let state = if broker.connected { paint.green("connected") } else { paint.red("not connected") };
    let problem = broker.problem.as_deref().map(|why| format!(": {}", output::printable(why))).unwrap_or_default();
    if broker.url == agentbus_nats::bus::memory::URL {
        return "broker none: the bus is in memory, and nothing on it survives `up`".to_owned();
    }
    format!(
        "broker {} (nats-server {}) {state}, layout {}{problem}",
        broker.url,
        broker.version,
        broker.layout.as_str()
    )
}

fn stream(stream: &StreamStatus) -> Vec<String> {
    let most = u64::try_from(stream.max_bytes).map_or_else(|_| "-".to_owned(), size::human);
    vec![stream.name.clone(), stream.messages.to_string(), size::human(stream.bytes), most]
}

/// Every agent has groups for its own addresses: most of the time there is nothing to say about them.
pub(super) fn is_idle_own(group: &GroupStatus) -> bool {
    let nothing = group.lag + group.in_flight + group.retrying + group.dead_letters == 0 && group.problem.is_none();
    Names::is_reserved(&group.group) && nothing
}

fn group(group: &GroupStatus, open: Option<&Open>) -> Vec<String> {
    let note = group.problem.as_deref().map(output::printable).unwrap_or_default();
    let listening = if group.waiting > 0 { "yes" } else { "no" };
    let dead = match open {
        Some(open) if open.truncated => format!("{}+", open.of(&group.group)),
        Some(open) => open.of(&group.group).to_string(),
        // They could not be counted in time.
        None => "-".to_owned(),
    };
    let numbers = [group.lag, group.in_flight, group.retrying].map(|number| number.to_string());
    [group.group.clone()].into_iter().chain(numbers).chain([dead, listening.to_owned(), note]).collect()
}
