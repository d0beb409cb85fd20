//! `agentbus agents list`: who runs here.

use agentbus_control_plane::api::Agents;
use agentbus_control_plane::status::{InstanceState, InstanceStatus};

use crate::instance::Global;
use crate::output::{self, Paint};
use crate::{show, size, table};

/// Agents of this bus
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List agents with their processes
    #[command(after_help = "Examples:\n  agentbus agents list\n  agentbus agents list --json | jq -r '.[].url'")]
    List,
}

/// Prints them.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let Command::List = args.command;
    let Agents { agents } = global.control()?.get("/v1/agents").await?;
    if global.json {
        return output::json(&agents);
    }
    for line in lines(&agents, Paint::stdout()) {
        output::line(line)?;
    }
    Ok(())
}

/// The table of agents.
pub fn lines(agents: &[InstanceStatus], paint: Paint) -> Vec<String> {
    let rows: Vec<Vec<String>> = agents.iter().map(row).collect();
    let header = ["AGENT", "RUNNER", "STATE", "PID", "SIDECAR", "URL", "RESTARTS", "SINCE", "LAST EXIT"];
    let mut lines = table::render(&header, &rows);
    // Coloured afterwards: the escape codes would count as width.
    for (line, agent) in lines.iter_mut().skip(1).zip(agents) {
        *line = match agent.state {
            InstanceState::Crashlooping => paint.red(&line),
            InstanceState::Backoff | InstanceState::Spawning => paint.yellow(&line),
            _ => std::mem::take(line),
        };
    }
    lines
}

/// What their sidecars keep or leave alone, a line each; nothing most of the time.
pub fn notes(agents: &[InstanceStatus]) -> Vec<String> {
    let mut notes = Vec::new();
    for agent in agents {
        let (name, report) = (&agent.instance, &agent.sidecar);
        if report.spool_events > 0 {
            let size = size::human(report.spool_bytes);
            notes.push(format!("{name}: {} events wait in the spool for the broker ({size})", report.spool_events));
        }
        if report.spool_refused > 0 {
            let refused = report.spool_refused;
            notes.push(format!(
                "{name}: {refused} events of the spool were refused for good, see refused.jsonl beside it"
            ));
        }
        for breaker in &report.breakers {
            let what = if breaker.side == "publish" { "publishing to" } else { "taking events of group" };
            notes.push(format!("{name}: {what} {} is left alone, breaker {}", breaker.name, breaker.state));
        }
    }
    notes.iter().map(|note| output::printable(note)).collect()
}

fn row(agent: &InstanceStatus) -> Vec<String> {
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let restarts = match agent.sidecar_restarts {
        0 => agent.restarts.to_string(),
        of_sidecar => format!("{}+{of_sidecar}", agent.restarts),
    };
    vec![
        agent.instance.clone(),
        agent.runner.clone(),
        agent.state.as_str().to_owned(),
        number(agent.pid),
        number(agent.sidecar_pid),
        agent.url.clone().unwrap_or_else(|| "-".to_owned()),
        restarts,
        show::moment(&agent.since),
        agent.last_exit.as_deref().map_or_else(|| "-".to_owned(), output::printable),
    ]
}

#[cfg(test)]
mod tests {
    use agentbus_nats::grant::{BreakerReport, SidecarReport};

    use super::*;

    #[test]
    fn a_spool_and_a_breaker_are_told() {
        let breaker = BreakerReport { side: "deliver".into(), name: "checkers".into(), state: "open".into() };
        let sidecar = SidecarReport { spool_events: 3, spool_bytes: 2048, spool_refused: 0, breakers: vec![breaker] };
        let agent = InstanceStatus { instance: "check".into(), sidecar, ..Default::default() };
        let expected = [
            "check: 3 events wait in the spool for the broker (2.00 KiB)",
            "check: taking events of group checkers is left alone, breaker open",
        ];
        assert_eq!(notes(&[agent, InstanceStatus::default()]), expected);
    }

    #[test]
    fn an_agent_is_a_row() {
        let agent =
            InstanceStatus { instance: "check-2".into(), pid: Some(7), sidecar_restarts: 1, ..Default::default() };
        let lines = lines(&[agent], Paint::default());
        assert!(lines[0].starts_with("AGENT"));
        assert!(lines[1].starts_with("check-2") && lines[1].contains("0+1"), "{}", lines[1]);
    }
}
