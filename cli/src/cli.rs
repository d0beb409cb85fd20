//! The command line as a whole.

use std::process::ExitCode;

use clap::Parser;

use crate::commands::{self, Command};
use crate::exit;
use crate::instance::Global;

/// A message bus for agents: events, kept and delivered at least once, through a sidecar beside each agent
///
/// Start with `agentbus up --demo`, or `agentbus init` and `agentbus up`.
///
/// stdout is data, stderr is talk. Exit codes: 0 ok, 64 bad configuration or usage, 65 bad input, 69 nobody serves, 75 try again,
/// 77 denied, 124 timeout, 1 anything else.
#[derive(Debug, Parser)]
#[command(name = "agentbus", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Everything between the operating system and a command.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => exit::finish(commands::run(&cli.global, cli.command)),
        Err(error) => exit::usage(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn launch_takes_any_argv_as_it_is() {
        let cli = Cli::try_parse_from(["agentbus", "launch", "--", "sh", "-c", "--json", "--", "x"]).unwrap();
        assert!(matches!(cli.command, Command::Launch(_)));
        assert!(!cli.global.json);
    }
}
