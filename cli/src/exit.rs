//! How a command ends: `error: CODE: what; what to do` on stderr, and the exit code of the contract.
//!
//! Codes come from [`Fault`], wherever in the chain it is; what has none ends with 1 and `FAILED`. A reader that went away
//! (`agentbus tail | head -1`) is no failure.

use std::io;
use std::process::ExitCode;

use agentbus_nats::server::{find, process::StartError};
use agentbus_proto::{Code, Fault, did_you_mean, duration};
use agentbus_runtime::state;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::{Value, json};

use crate::output;

/// Exit code of a failure without a code.
const OTHER: u8 = 1;

/// A command that printed what there is to say by itself and only wants an exit code.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub struct Silent(pub u8);

/// A fault as an error, in one word.
pub fn fault(code: Code, message: impl Into<String>) -> anyhow::Error {
    Fault::new(code, message).into()
}

/// Says what went wrong, if something did, and gives the exit code. `json`: as one problem object on one line.
pub fn finish(result: anyhow::Result<()>, json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(Silent(code)) = error.downcast_ref() {
                return ExitCode::from(*code);
            }
            if json {
                output::say_json(&problem(&error))
            } else {
                output::say(text(&error))
            }
            ExitCode::from(code(&error))
        }
    }
}

/// What clap refused, in our form; help and version are data and no error.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(exit_code(Code::BadConfig))
        }
        _ => finish(Err(fault(Code::BadConfig, usage_line(error))), json),
    }
}

/// clap's words in our form: one line.
pub fn usage_line(error: &clap::Error) -> String {
    unknown_command(error).unwrap_or_else(|| usage_text(&error.render().to_string()))
}

/// A word that is no command, with the one that was meant.
fn unknown_command(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let meant = match error.get(ContextKind::SuggestedSubcommand) {
        // The nearest comes last.
        Some(ContextValue::Strings(words)) => words.last(),
        Some(ContextValue::String(word)) => Some(word),
        _ => None,
    };
    // clap suggests strangers, too.
    let meant = meant.filter(|meant| did_you_mean(word, &[meant.as_str()]).is_some());
    let hint = meant.map_or_else(|| "see `--help`".to_owned(), |meant| format!("did you mean `{meant}`?"));
    Some(format!("unknown command `{word}`; {hint}"))
}

/// clap's several lines as one.
fn usage_text(rendered: &str) -> String {
    let mut what: Vec<&str> = Vec::new();
    let mut usage = "";
    for line in rendered.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("Usage: ") {
            usage = rest;
        } else if !line.starts_with("For more information") && usage.is_empty() {
            what.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    let what = what.join(" ").replace(" tip: ", "; ").replace(" found; ", "; ");
    // The words of Rust's number parser are for programmers.
    let what = ["invalid digit found in string", "cannot parse integer from empty string"]
        .iter()
        .fold(what, |what, said| what.replace(said, "must be a number"));
    if usage.is_empty() { format!("{what}; see `--help`") } else { format!("{what}; usage: {usage}") }
}

/// The line for stderr.
pub fn text(error: &anyhow::Error) -> String {
    let label = known(error).map_or("FAILED", |fault| fault.code.as_str());
    let mut text = format!("error: {label}: {}", detail(error));
    if let Some(after) = error.downcast_ref::<Fault>().and_then(|fault| fault.retry_after) {
        text.push_str(&format!("; try again in {}", duration::format(after)));
    }
    text
}

/// The same for programs: the problem object of the HTTP API, with the exit code as `exit`.
pub fn problem(error: &anyhow::Error) -> Value {
    let mut problem = match known(error) {
        Some(fault) => Fault { message: detail(error), ..fault }.problem_json(),
        None => json!({"type": "about:blank", "title": "it failed", "detail": detail(error), "code": "FAILED"}),
    };
    problem["exit"] = code(error).into();
    problem
}

/// The error and its causes, each once.
fn detail(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = cause.downcast_ref::<Fault>().map_or_else(|| cause.to_string(), |fault| fault.message.clone());
        // Many errors repeat their cause in their own text.
        if !parts.iter().any(|earlier| earlier.contains(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ")
}

/// The exit code of the contract.
pub fn code(error: &anyhow::Error) -> u8 {
    known(error).map_or(OTHER, |fault| exit_code(fault.code))
}

/// A stable code as the process ends with it.
pub fn exit_code(code: Code) -> u8 {
    u8::try_from(code.exit()).unwrap_or(OTHER)
}

/// The fault in the chain, or what an error of another kind amounts to.
fn known(error: &anyhow::Error) -> Option<Fault> {
    if let Some(fault) = error.chain().find_map(|cause| cause.downcast_ref::<Fault>()) {
        return Some(fault.clone());
    }
    let code = error.chain().find_map(|cause| {
        if let Some(start) = cause.downcast_ref::<StartError>() {
            return Some(of_start(start));
        }
        if let Some(state) = cause.downcast_ref::<state::Error>() {
            return Some(of_state(state));
        }
        if cause.is::<find::Error>() {
            return Some(Code::BadConfig);
        }
        cause.downcast_ref::<io::Error>().and_then(of_io)
    })?;
    Some(Fault::new(code, String::new()))
}

fn of_state(error: &state::Error) -> Code {
    match error {
        state::Error::Folder { source, .. } | state::Error::Write { source, .. } => {
            of_io(source).unwrap_or(Code::BadConfig)
        }
        _ => Code::BadConfig,
    }
}

fn of_start(error: &StartError) -> Code {
    match error {
        StartError::Folder { source, .. } | StartError::Store { source, .. } => {
            of_io(source).unwrap_or(Code::BadConfig)
        }
        StartError::PortTaken { .. } | StartError::Path { .. } | StartError::Spawn { .. } => Code::BadConfig,
        StartError::Exited { .. } | StartError::NotReady { .. } | StartError::Control(_) => Code::BrokerDown,
    }
}

/// A full disk passes when somebody makes room; a file that is not there or not ours is a matter of settings.
fn of_io(error: &io::Error) -> Option<Code> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Code::CapacityExceeded),
        // The latter three: something else lies where a folder or file of ours belongs.
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::AlreadyExists => Some(Code::BadConfig),
        _ => None,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(pipe)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Context;

    use super::*;

    #[test]
    fn a_fault_gives_its_code_wherever_it_is() {
        let fault = Fault::new(Code::StreamFull, "stream `X` is full").with_retry_after(Duration::from_secs(2));
        let error = Err::<(), _>(fault).context("cannot publish").unwrap_err();
        assert_eq!(text(&error), "error: STREAM_FULL: cannot publish: stream `X` is full; try again in 2s");
        assert_eq!(code(&error), 75);
    }

    #[test]
    fn programs_get_a_problem_object() {
        let error = Err::<(), _>(Fault::new(Code::StreamFull, "full")).context("cannot publish").unwrap_err();
        let problem = problem(&error);
        assert_eq!((&problem["code"], &problem["exit"]), (&json!("STREAM_FULL"), &json!(75)));
        assert_eq!(problem["detail"], "cannot publish: full");
        let other = super::problem(&anyhow::anyhow!("odd"));
        assert_eq!((&other["code"], &other["exit"]), (&json!("FAILED"), &json!(1)));
    }

    #[test]
    fn what_has_no_code_ends_with_one() {
        let error = anyhow::anyhow!("odd");
        assert_eq!((text(&error).as_str(), code(&error)), ("error: FAILED: odd", 1));
    }

    #[test]
    fn a_full_disk_and_a_forbidden_folder_are_told_apart() {
        let check = |kind: io::ErrorKind, wanted: u8| {
            let error = anyhow::Error::from(io::Error::from(kind)).context("cannot write `x`");
            assert_eq!(code(&error), wanted, "{kind:?}");
        };
        check(io::ErrorKind::StorageFull, 75);
        check(io::ErrorKind::PermissionDenied, 64);
        check(io::ErrorKind::NotFound, 1);
    }

    #[test]
    fn usage_errors_are_one_line() {
        let rendered = "error: the following required arguments were not provided:\n  <TO>\n\nUsage: agentbus publish <TO> [DATA]\n\n\
                        For more information, try '--help'.\n";
        let wanted = "the following required arguments were not provided: <TO>; usage: agentbus publish <TO> [DATA]";
        assert_eq!(usage_text(rendered), wanted);
    }
}
