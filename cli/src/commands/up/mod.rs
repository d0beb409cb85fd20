//! `agentbus up`: a whole bus on this machine in one command.
//!
//! `project` says what is started, `keys` whether what is stored can be opened → `broker` obtains and keeps a nats-server (`beside`
//! shares another bus's) → `foreground` adds the control plane, which starts sidecars and agents, and stops everything in order →
//! `summary` says what runs. `demo` runs the audit on top (`watch` looks on, `progress` counts); `detach` does all of it in the
//! background.

mod beside;
mod broker;
mod demo;
mod detach;
mod foreground;
mod keys;
mod memory;
mod progress;
mod project;
mod summary;
mod watch;

use std::path::{Path, PathBuf};
use std::process::Command;

use agentbus_proto::Code;
use agentbus_runtime::state::InstanceLock;

use crate::exit::fault;
use crate::instance::Global;
use crate::output;

pub(crate) use broker::unix_now;
use project::Plan;

/// Start the bus: broker, control plane, a sidecar beside each agent
///
/// Starts what agentbus.yaml declares and stays up; Ctrl-C stops everything and leaves nothing behind. Without an agentbus.yaml only you are
/// on the bus (see `agentbus init`). nats-server is found (--nats-server, AGENTBUS_NATS_SERVER, PATH, our cache) or fetched, and said which.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  agentbus up --demo\n  agentbus up -d && eval \"$(agentbus env)\"")]
pub struct Args {
    /// Run in the background; `agentbus down` stops it, `agentbus logs -f` listens
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Run the demo: four agents audit the repository you are in
    #[arg(long, conflicts_with = "config")]
    pub demo: bool,
    /// What the demo audits [default: the repository of the current folder]
    #[arg(long, value_name = "FOLDER", requires = "demo")]
    pub input: Option<PathBuf>,
    /// Where the demo writes its report [default: in the state folder]
    #[arg(long, value_name = "FILE", requires = "demo")]
    pub report: Option<PathBuf>,
    /// Project file [default: agentbus.yaml in this folder or one above]
    #[arg(long, value_name = "FILE", env = "AGENTBUS_CONFIG")]
    pub config: Option<PathBuf>,
    /// No broker: the bus lives in this process and ends with it
    #[arg(long, conflicts_with = "nats_server")]
    pub memory: bool,
    /// Sidecars behind a wall, as `broker: {wall: true}` says it: the broker refuses them all but their own work
    #[arg(long, conflicts_with = "memory")]
    pub wall: bool,
    /// On the broker of the bus in this project or state folder; this project needs a namespace of its own
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["memory", "demo", "nats_server", "port"])]
    pub beside: Option<PathBuf>,
    /// The nats-server program to use
    #[arg(long, value_name = "FILE")]
    pub nats_server: Option<PathBuf>,
    /// Port of the broker [default: a free one]
    #[arg(long, value_name = "PORT", env = "AGENTBUS_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Send traces to this OTLP endpoint: http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "AGENTBUS_OTLP")]
    pub otlp: Option<String>,
    /// Stop after the demo's report (for tests)
    #[arg(long, hide = true, requires = "demo")]
    pub exit_when_done: bool,
    /// We are the background process of `up -d`
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub detached: bool,
}

impl Args {
    /// Gives the same options to another `up`, except those that say where it runs.
    fn repeat(&self, command: &mut Command) {
        for (given, flag) in [
            (self.demo, "--demo"),
            (self.memory, "--memory"),
            (self.wall, "--wall"),
            (self.exit_when_done, "--exit-when-done"),
        ] {
            if given {
                command.arg(flag);
            }
        }
        let files = [(&self.input, "--input"), (&self.report, "--report"), (&self.config, "--config")];
        for (value, flag) in files.into_iter().chain([(&self.beside, "--beside")]) {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        if let Some(port) = self.port {
            command.arg("--port").arg(port.to_string());
        }
        if let Some(otlp) = &self.otlp {
            // Not on the command line, which everybody can read: the address of a collector may hold a password.
            command.env("AGENTBUS_OTLP", otlp);
        }
    }
}

/// Starts the bus, here or in the background.
pub async fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    let state = Plan::state_dir(global, &args)?;
    project::make_state(&state)?;
    if !args.detach {
        return foreground::run(global, &args, &state).await;
    }
    if let Some(holder) = InstanceLock::holder(&state) {
        return Err(taken(&state, &holder));
    }
    // Mistakes show here, at once, and not through a log. The child reads again: it is the one who holds the lock.
    let plan = Plan::load(&args, &state)?;
    if args.beside.is_none() {
        keys::check(&state, &plan.project.namespace)?;
    }
    let server = match plan.in_memory(&args)? || args.beside.is_some() {
        true => None,
        false => Some(broker::obtain(args.nats_server.clone()).await?.path),
    };
    let instance = detach::start(global, &args, &state, server.as_deref()).await?;
    summary::print(global, &instance, &state, "agentbus status; agentbus logs -f; agentbus down stops it").await?;
    if args.demo && !global.json {
        output::say(format!("the demo's result comes in {}", detach::log_file(&state).display()));
    }
    Ok(())
}

/// Somebody is there already: who, and how to get rid of them.
fn taken(state: &Path, holder: &str) -> anyhow::Error {
    let message = format!(
        "a bus is running already in `{}` (process {holder}); `agentbus status` shows it, `agentbus down` stops it, --dir names another folder",
        state.display()
    );
    fault(Code::BadConfig, message)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_background_process_gets_the_same_options() {
        let given = "up --demo --wall --input /in --report r.md --port 4333 --otlp http://h:4317 -d";
        let mut command = Command::new("up");
        Only::try_parse_from(given.split(' ')).unwrap().args.repeat(&mut command);
        let repeated = std::iter::once(command.get_program()).chain(command.get_args());
        let again = Only::try_parse_from(repeated).unwrap().args;
        assert!(again.demo && again.wall && !again.detach && again.port == Some(4333));
        assert_eq!((again.input, again.report), (Some("/in".into()), Some("r.md".into())));
        let variables: Vec<_> = command.get_envs().collect();
        assert_eq!(variables, [("AGENTBUS_OTLP".as_ref(), Some("http://h:4317".as_ref()))]);
    }
}
