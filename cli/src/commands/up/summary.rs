//! What `up` says when it is ready: what runs where, how well it is fenced in, and what to do next.

use std::path::Path;

use agentbus_control_plane::api::Agents;
use agentbus_control_plane::status::InstanceStatus;
use serde_json::json;

use crate::instance::{Global, Instance};
use crate::output::{self, Paint};
use crate::table;

/// Said plainly until there is more.
const ISOLATION: &str = "process groups; no sandbox in this version";

/// Prints it. `hint` is the last line.
pub(super) async fn print(global: &Global, instance: &Instance, state: &Path, hint: &str) -> anyhow::Result<()> {
    let Agents { agents } = instance.control().get("/v1/agents").await?;
    if global.json {
        return output::json(&json!({
            "pid": instance.pid,
            "namespace": instance.namespace,
            "broker": {"url": instance.broker.url, "version": instance.broker.version},
            "control_plane": instance.control.url,
            "me": instance.me.url,
            "agents": agents,
            "isolation": ISOLATION,
            "state": state,
        }));
    }
    for line in lines(instance, &agents, state, hint, Paint::stdout()) {
        output::line(line)?;
    }
    Ok(())
}

fn lines(instance: &Instance, agents: &[InstanceStatus], state: &Path, hint: &str, paint: Paint) -> Vec<String> {
    let field = |name: &str, value: String| format!("  {:<14} {value}", name);
    let broker = if instance.broker.in_memory() {
        "none: the bus is in this process, and nothing on it survives it".to_owned()
    } else {
        format!("{} (nats-server {}, authentication on)", instance.broker.url, instance.broker.version)
    };
    let mut lines = vec![
        paint.bold(format!("agentbus is up, namespace {}", instance.namespace)),
        field("broker", broker),
        field("control plane", instance.control.url.clone()),
        field("you (me)", instance.me.url.clone()),
    ];
    let rows: Vec<Vec<String>> = agents
        .iter()
        // `me` has its own line.
        .filter(|agent| agent.url.as_ref() != Some(&instance.me.url))
        .map(|agent| {
            let url = agent.url.clone().unwrap_or_else(|| "-".to_owned());
            vec![agent.instance.clone(), agent.state.as_str().to_owned(), agent.runner.clone(), url]
        })
        .collect();
    if !rows.is_empty() {
        let table = table::render(&["AGENT", "STATE", "RUNNER", "SIDECAR"], &rows);
        lines.extend(table.into_iter().enumerate().map(|(at, row)| field(if at == 0 { "agents" } else { "" }, row)));
    }
    lines.push(field("isolation", ISOLATION.to_owned()));
    lines.push(field("state", state.display().to_string()));
    lines.push(field("next", hint.to_owned()));
    lines
}
