//! `agentbus streams plan|apply|export`: the streams on the broker, and the table they should follow.
//!
//! Goes through the control plane while one runs, because it alone knows the sizes; with `--server` straight to a broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentbus_control_plane::api::{Change, Step, Streams};
use agentbus_nats::bus::JetStream;
use agentbus_nats::connect::{Identity, Options};
use agentbus_nats::identity::Layout;
use agentbus_nats::names::Names;
use agentbus_nats::topology::Sizes;
use agentbus_nats::{plan, subject};
use agentbus_proto::{Code, name};
use agentbus_runtime::bytesize::ByteSize;
use anyhow::Context;
use serde_json::{Value, json};

use crate::exit::fault;
use crate::instance::Global;
use crate::output::{self, Paint};

/// Compare the streams on the broker with the table, and bring them in line
///
/// Nothing is ever deleted or made anew: a stream is created, updated, or reported.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus streams plan\n  agentbus streams apply\n  agentbus streams export ./streams    # for `nats stream add --config`"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what apply would do
    #[command(after_help = "Examples:\n  agentbus streams plan\n  agentbus streams plan --json")]
    Plan(Where),
    /// Create and update streams
    #[command(
        after_help = "Examples:\n  agentbus streams apply\n  agentbus streams apply --server nats://broker:4222 --creds admin.creds --replicas 3"
    )]
    Apply(Where),
    /// Write the table as JSON files that the nats CLI reads
    Export {
        /// Folder to write to; printed when not given
        folder: Option<PathBuf>,
        #[command(flatten)]
        place: Where,
    },
}

/// A broker without a running control plane.
#[derive(Debug, clap::Args)]
struct Where {
    /// Broker to ask directly, instead of the running control plane
    #[arg(long, value_name = "URL", env = "AGENTBUS_SERVER")]
    server: Option<String>,
    /// Credentials with rights on streams
    #[arg(long, value_name = "FILE", requires = "server")]
    creds: Option<PathBuf>,
    /// Namespace
    #[arg(long, default_value = "default", requires = "server")]
    namespace: String,
    /// Space for all streams together: 10GiB
    #[arg(long, default_value = "2GiB", requires = "server", value_name = "SIZE")]
    quota: ByteSize,
    /// Copies of each stream in a cluster
    #[arg(long, default_value_t = 1, requires = "server", value_name = "N")]
    replicas: usize,
}

/// Runs one of the three.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Plan(place) => print(global, &ask(global, place, false).await?, "to do"),
        Command::Apply(place) => print(global, &ask(global, place, true).await?, "done"),
        Command::Export { folder, place } => export(global, folder.as_deref(), place).await,
    }
}

async fn ask(global: &Global, place: &Where, apply: bool) -> anyhow::Result<Streams> {
    let Some(server) = &place.server else {
        let api = global.control()?;
        return Ok(if apply {
            api.post("/v1/streams/apply", &json!({})).await?
        } else {
            api.get("/v1/streams/plan").await?
        });
    };
    let (names, sizes) = place.table()?;
    let bus = place.connect(server).await?;
    let steps =
        if apply { plan::apply(&*bus, &names, &sizes).await? } else { plan::plan(&*bus, &names, &sizes).await? };
    Ok(Streams { steps: steps.into_iter().map(Step::from).collect(), table: plan::table(&names, &sizes)? })
}

impl Where {
    fn table(&self) -> anyhow::Result<(Names, Sizes)> {
        name::lower_name("namespace", &self.namespace)?;
        let quota = i64::try_from(self.quota.0).map_err(|_| fault(Code::BadConfig, "--quota is too large"))?;
        Ok((Names::new(&self.namespace), Sizes { replicas: self.replicas, ..Sizes::within(quota) }))
    }

    async fn connect(&self, server: &str) -> anyhow::Result<Arc<JetStream>> {
        let Some(creds) = &self.creds else {
            return Err(fault(Code::BadConfig, "--server needs --creds FILE with rights on streams"));
        };
        let text = std::fs::read_to_string(creds)
            .map_err(|error| fault(Code::BadConfig, format!("cannot read `{}`: {error}", creds.display())))?;
        let options = Options {
            servers: vec![server.to_owned()],
            name: "agentbus streams".to_owned(),
            inbox: subject::inbox("control-plane"),
            layout: Layout::Plain,
            identity: Identity::from_creds(&text)?,
        };
        Ok(JetStream::connect(options).await?)
    }
}

fn print(global: &Global, streams: &Streams, verb: &str) -> anyhow::Result<()> {
    if global.json {
        return output::json(&streams.steps);
    }
    let paint = Paint::stdout();
    for step in &streams.steps {
        for line in lines(step, paint) {
            output::line(line)?;
        }
    }
    let changes = streams.steps.iter().filter(|step| step.changes_something()).count();
    output::say(if changes == 0 {
        "nothing to do: the streams are as they should be".to_owned()
    } else {
        format!("{changes} {verb}")
    });
    Ok(())
}

fn lines(step: &Step, paint: Paint) -> Vec<String> {
    let (sign, note) = match step.action.as_str() {
        "create" => (paint.green("+"), "create"),
        "update" => (paint.yellow("~"), "update"),
        "same" => (paint.dim("="), "as it should be"),
        _ => (paint.yellow("?"), "not in the table, left alone"),
    };
    let mut lines = vec![format!("{sign} {} {}", step.name, paint.dim(note))];
    lines.extend(step.changes.iter().map(|Change { field, from, to }| format!("    {field}: {from} -> {to}")));
    lines
}

async fn export(global: &Global, folder: Option<&Path>, place: &Where) -> anyhow::Result<()> {
    let table = match &place.server {
        // The table depends on the sizes only: no broker is asked.
        Some(_) => place.table().and_then(|(names, sizes)| Ok(plan::table(&names, &sizes)?))?,
        None => ask(global, place, false).await?.table,
    };
    let Some(folder) = folder else { return output::json(&table) };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let mut written = Vec::new();
    for stream in &table {
        let name = stream.get("name").and_then(Value::as_str).unwrap_or("stream");
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(stream)?)
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        if !global.json {
            output::line(path.display())?;
        }
        written.push(path);
    }
    if global.json { output::json(&written) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_says_what_changes() {
        let change = Change { field: "max_bytes".into(), from: 1.into(), to: 2.into() };
        let step = Step { action: "update".into(), name: "S".into(), changes: vec![change] };
        assert_eq!(lines(&step, Paint::default()), ["~ S update", "    max_bytes: 1 -> 2"]);
    }
}
