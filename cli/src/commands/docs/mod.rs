//! `agentbus docs`: documents made from what the project declares.

mod asyncapi;

use agentbus_control_plane::spec::Project;
use agentbus_proto::{Code, Fault};

use crate::exit::fault;
use crate::instance::{self, PROJECT_FILE};
use crate::output;

/// Documents about this project, from agentbus.yaml
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// AsyncAPI 3: the declared addresses, and who sends and receives what
    ///
    /// Nothing needs to run. The document is JSON; every AsyncAPI tool reads it.
    #[command(
        after_help = "Examples:\n  agentbus docs asyncapi > asyncapi.json\n  agentbus docs asyncapi | jq '.operations | keys'"
    )]
    Asyncapi {
        /// Project file [default: agentbus.yaml of this project]
        #[arg(long, value_name = "FILE")]
        config: Option<std::path::PathBuf>,
    },
}

/// Prints the document.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Command::Asyncapi { config } = &args.command;
    let file = match config {
        Some(file) => file.clone(),
        None => instance::project_dir(&instance::current_dir()?).join(PROJECT_FILE),
    };
    if !file.exists() {
        let why = format!("there is no `{}`; `agentbus init` makes one", file.display());
        return Err(fault(Code::BadConfig, why));
    }
    let project = Project::load(&file).map_err(Fault::from)?;
    output::json(&asyncapi::document(&project)?)
}
