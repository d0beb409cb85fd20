//! `agentbus status`: the whole bus on one screen.

use agentbus_control_plane::status::{BrokerStatus, GroupStatus, StreamStatus, SystemStatus};

use super::agents;
use crate::instance::Global;
use crate::output::{self, Paint};
use crate::{size, table};

/// Show the broker, the streams, the groups and the agents
///
/// LAG is what a group has not been given yet, IN FLIGHT what its members hold, RETRYING what waits for its next attempt, DEAD what it gave
/// up (see `agentbus dlq list`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus status\n  agentbus status --json | jq .groups")]
pub struct Args {}

/// Prints it.
pub async fn run(global: &Global, _args: &Args) -> anyhow::Result<()> {
    let instance = global.instance()?;
    let status: SystemStatus = instance.control().get("/v1/status").await?;
    if global.json {
        return output::json(&status);
    }
    let paint = Paint::stdout();
    output::line(format!("namespace {}, up since {} (process {})", status.namespace, instance.started, instance.pid))?;
    output::line(broker(&status.broker, paint))?;
    section(
        "",
        table::render(&["STREAM", "EVENTS", "SIZE", "OF"], &status.streams.iter().map(stream).collect::<Vec<_>>()),
    )?;
    let header = ["GROUP", "LAG", "IN FLIGHT", "RETRYING", "DEAD", "LISTENING", "NOTE"];
    section("", table::render(&header, &status.groups.iter().map(group).collect::<Vec<_>>()))?;
    section("", agents::lines(&status.agents, paint))
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
    format!("broker {} (nats-server {}) {state}{problem}", broker.url, broker.version)
}

fn stream(stream: &StreamStatus) -> Vec<String> {
    let most = u64::try_from(stream.max_bytes).map_or_else(|_| "-".to_owned(), size::human);
    vec![stream.name.clone(), stream.messages.to_string(), size::human(stream.bytes), most]
}

fn group(group: &GroupStatus) -> Vec<String> {
    let note = group.problem.as_deref().map(output::printable).unwrap_or_default();
    let listening = if group.waiting > 0 { "yes" } else { "no" };
    let numbers = [group.lag, group.in_flight, group.retrying, group.dead_letters].map(|number| number.to_string());
    [group.group.clone()].into_iter().chain(numbers).chain([listening.to_owned(), note]).collect()
}
