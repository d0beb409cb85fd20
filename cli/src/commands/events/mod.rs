//! `agentbus events`: single events.

mod show;

use crate::instance::Global;

/// Look at single events
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Show(show::Args),
}

/// Runs the one that was asked for.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Show(args) => show::run(global, args).await,
    }
}
