//! `agentbus completions`: what makes a shell complete commands and options.

use clap::{Command, CommandFactory};
use clap_complete::aot::{Shell as Dialect, generate};

use crate::cli::Cli;
use crate::output;

/// Print a completion script for your shell
///
/// The script is written to stdout; where it belongs is up to your shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus completions bash > ~/.local/share/bash-completion/completions/agentbus\n  agentbus completions zsh > ~/.zfunc/_agentbus\n  agentbus completions fish > ~/.config/fish/completions/agentbus.fish"
)]
pub struct Args {
    /// For which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

impl From<Shell> for Dialect {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

/// Prints it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    Ok(output::bytes(&script(args.shell))?)
}

fn script(shell: Shell) -> Vec<u8> {
    let all = Cli::command();
    // Without the commands that only other commands call.
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = Command::new("agentbus").args(all.get_arguments().cloned()).subcommands(shown);
    let mut script = Vec::new();
    generate(Dialect::from(shell), &mut command, "agentbus", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).unwrap();
            for word in ["publish", "completions", "ask", "timeout"] {
                assert!(script.contains(word), "{word} for {shell:?}");
            }
            assert!(!script.contains("run-exec"), "hidden commands stay hidden from {shell:?}");
        }
    }
}
