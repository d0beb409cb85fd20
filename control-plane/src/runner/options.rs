//! What the exec runner is told: on its command line, and in the environment every agent gets.

use std::ffi::OsString;
use std::str::FromStr;

/// How the runner runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The command: program and arguments as a JSON array.
    #[arg(long, value_name = "JSON")]
    pub command_json: Argv,
    /// What stdout is: `none` = a log, `events` = one event per line, `reply` = the answer to an ask.
    #[arg(long, value_enum, default_value = "none")]
    pub output: Output,
    /// A command that runs longer is killed, in milliseconds.
    #[arg(long, default_value = "60000", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_ms: u64,
    /// Commands at once.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: u32,
    /// Time for running commands to finish when the runner is stopped, in milliseconds.
    #[arg(long, default_value = "10000")]
    pub grace_ms: u64,
    /// Base URL of the sidecar.
    #[arg(long, env = "AGENTBUS_URL", hide = true)]
    pub url: String,
    /// Token of the sidecar.
    #[arg(long, env = "AGENTBUS_TOKEN", hide = true, hide_env_values = true)]
    pub token: String,
    /// Put before the command: `agentbus_runtime::launch::prefix()`, so that a killed runner leaves no orphans. Empty:
    /// none.
    #[arg(skip)]
    pub launcher: Vec<OsString>,
}

/// What a command's stdout is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A log.
    #[default]
    None,
    /// One event per line, in the JSON form of `POST /v1/publish`.
    Events,
    /// The answer to an ask; a log where nobody asks. What `None` does, in so many words.
    Reply,
}

/// Program and arguments, written as a JSON array of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argv(pub Vec<String>);

impl FromStr for Argv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let argv: Vec<String> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON array of text: {error}"))?;
        match argv.first().map(String::as_str) {
            None | Some("") => Err("no program".to_owned()),
            Some(_) => Ok(Self(argv)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(more: &[&str]) -> Result<Options, clap::Error> {
        let line = ["x", "--url", "http://127.0.0.1:1", "--token", "t"].iter().chain(more);
        Line::try_parse_from(line).map(|line| line.options)
    }

    #[test]
    fn options_have_sound_defaults() {
        let options = parse(&["--command-json", r#"["sh","-c","true"]"#]).unwrap();
        assert_eq!(options.command_json.0, ["sh", "-c", "true"]);
        assert_eq!((options.output, options.concurrency, options.timeout_ms), (Output::None, 1, 60_000));
        let options = parse(&["--command-json", r#"["a"]"#, "--output", "events", "--concurrency", "4"]).unwrap();
        assert_eq!((options.output, options.concurrency), (Output::Events, 4));
    }

    #[test]
    fn bad_options_are_refused() {
        for bad in ["[]", "sh", r#"[""]"#, r#"[1]"#] {
            assert!(parse(&["--command-json", bad]).is_err(), "{bad}");
        }
        assert!(parse(&["--command-json", r#"["a"]"#, "--concurrency", "0"]).is_err());
        assert!(parse(&["--command-json", r#"["a"]"#, "--timeout-ms", "0"]).is_err());
    }
}
