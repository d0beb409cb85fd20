//! `agentbus agents list`: who runs here.

use agentbus_control_plane::api::Agents;
use agentbus_control_plane::status::{InstanceState, InstanceStatus};

use crate::instance::Global;
use crate::output::{self, Paint};
use crate::{show, table};

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
    use super::*;

    #[test]
    fn an_agent_is_a_row() {
        let agent =
            InstanceStatus { instance: "check-2".into(), pid: Some(7), sidecar_restarts: 1, ..Default::default() };
        let lines = lines(&[agent], Paint::default());
        assert!(lines[0].starts_with("AGENT"));
        assert!(lines[1].starts_with("check-2") && lines[1].contains("0+1"), "{}", lines[1]);
    }
}
