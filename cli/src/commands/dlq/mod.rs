//! `agentbus dlq`: events that were given up: look at them, find out why, send them again.

mod list;
mod redrive;
mod show;

use agentbus_control_plane::dead_letters::Filter;

use crate::instance::Global;

/// Dead letters: list, show, send again
///
/// An event becomes a dead letter when its attempts are used up, when an agent rejects it, or when it cannot be read. It is kept, byte for
/// byte, until you decide.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus dlq list\n  agentbus dlq list --by cause\n  agentbus dlq show 12\n  agentbus dlq redrive 12\n  agentbus dlq redrive --group check --cause \"No such file\""
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Redrive(redrive::Args),
}

/// A letter's number as the list shows it.
fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a number from 1".to_owned())
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Which {
    /// Only of this group
    #[arg(long)]
    pub group: Option<String>,
    /// Only of this class: EXHAUSTED, REJECTED, EXPIRED, UNDECODABLE, CRASH
    #[arg(long)]
    pub class: Option<String>,
    /// Only event types that match this pattern: notes.*, notes.>
    #[arg(long = "type", value_name = "PATTERN")]
    pub event_type: Option<String>,
    /// Only where the cause contains this text
    #[arg(long, value_name = "TEXT")]
    pub cause: Option<String>,
}

impl Which {
    fn is_empty(&self) -> bool {
        self.group.is_none() && self.class.is_none() && self.event_type.is_none() && self.cause.is_none()
    }

    fn filter(&self, all: bool) -> Filter {
        let Self { group, class, event_type, cause } = self.clone();
        Filter { group, class, event_type, cause, all }
    }
}

/// Runs one of the three.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::List(args) => list::run(global, args).await,
        Command::Show(args) => show::run(global, args).await,
        Command::Redrive(args) => redrive::run(global, args).await,
    }
}
