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
        Ok(cli) => {
            let json = cli.global.json;
            exit::finish(commands::run(&cli.global, cli.command), json)
        }
        Err(error) => exit::usage(&error, std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json")),
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
    fn mistakes_are_told_in_our_words() {
        let said = |args: &[&str]| {
            let error = Cli::try_parse_from(args).unwrap_err();
            exit::usage_line(&error)
        };
        assert_eq!(said(&["agentbus", "stauts"]), "unknown command `stauts`; did you mean `status`?");
        assert_eq!(said(&["agentbus", "nosuch"]), "unknown command `nosuch`; see `--help`");
        let wanted = "unexpected argument '--last'; to pass";
        assert!(said(&["agentbus", "replay", "a.b", "--last", "1"]).starts_with(wanted));
        assert!(said(&["agentbus", "dlq", "show", "0"]).contains("must be a number from 1"));
        assert!(said(&["agentbus", "receive", "--max", "x"]).contains("must be a number"));
    }

    #[test]
    fn launch_takes_any_argv_as_it_is() {
        let cli = Cli::try_parse_from(["agentbus", "launch", "--", "sh", "-c", "--json", "--", "x"]).unwrap();
        assert!(matches!(cli.command, Command::Launch(_)));
        assert!(!cli.global.json);
    }
}
