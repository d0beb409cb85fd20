//! `agentbus logs`: what the agents said, from the files the supervisor keeps, merged by time.
//!
//! Works on a bus that is stopped, too. Lines are framed by the runtime (`<time> <stream> <text>`); fixed-width times in UTC sort as text.

mod files;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use agentbus_proto::Code;
use serde_json::json;

use crate::exit::fault;
use crate::instance::{self, Global};
use crate::output::{self, Paint};

use files::{Files, Line};

/// How often `-f` looks again: quick for a reader, nothing for the machine.
const TICK: Duration = Duration::from_millis(200);

/// End of the names of sidecars' logs.
const SIDECAR: &str = ".sidecar";

/// Show what agents print
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus logs\n  agentbus logs -f check\n  agentbus logs -n 1000 report")]
pub struct Args {
    /// Only this agent, or one of its instances such as check-2
    pub agent: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Their sidecars, too
    #[arg(long)]
    pub sidecars: bool,
    /// Lines from the past
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub lines: usize,
}

impl Args {
    fn wants(&self, source: &str) -> bool {
        let sidecar = source.ends_with(SIDECAR);
        match &self.agent {
            Some(agent) if agent == source => true,
            Some(agent) => belongs(source, agent) && (self.sidecars || !sidecar),
            None => self.sidecars || !sidecar,
        }
    }
}

/// Prints the last lines, then what comes.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    instance::for_person()?;
    let state = instance::state_dir(global)?;
    let folder = state.join("logs");
    let mut files = Files::default();
    files.look(&folder, &|source| args.wants(source));
    if files.files.is_empty() && !args.follow {
        return Err(nothing(&folder, args.agent.as_deref()));
    }
    let mut past: VecDeque<Line> = VecDeque::new();
    for line in merged(files.read(true)) {
        past.push_back(line);
        if past.len() > args.lines {
            past.pop_front();
        }
    }
    let mut printer = Printer { json: global.json, paint: Paint::stdout(), sources: Vec::new(), width: 0 };
    printer.widen(files.files.keys());
    for line in past {
        printer.print(&line)?;
    }
    if !args.follow {
        return Ok(());
    }
    if let Err(fault) = instance::running(&state) {
        output::say(format!("{}; waiting for what comes, Ctrl-C ends", fault.message));
    }
    loop {
        tokio::time::sleep(TICK).await;
        files.look(&folder, &|source| args.wants(source));
        printer.widen(files.files.keys());
        for line in merged(files.read(false)) {
            printer.print(&line)?;
        }
    }
}

/// By time, but never against the order within a file: what a program printed first comes first, also when the clock was set back.
fn merged(lines: Vec<Line>) -> Vec<Line> {
    let mut latest: HashMap<String, String> = HashMap::new();
    let mut keyed: Vec<(String, Line)> = Vec::with_capacity(lines.len());
    for line in lines {
        let last = latest.entry(line.source.clone()).or_default();
        if line.time > *last {
            last.clone_from(&line.time);
        }
        keyed.push((last.clone(), line));
    }
    // Stable: equal times stay in the order of the files.
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    keyed.into_iter().map(|(_, line)| line).collect()
}

fn nothing(folder: &Path, agent: Option<&str>) -> anyhow::Error {
    let whose = agent.map(|agent| format!(" of `{agent}`")).unwrap_or_default();
    let message = format!(
        "no logs{whose} in `{}`; is it the right project? `agentbus agents list` shows the names",
        folder.display()
    );
    fault(Code::NoResponder, message)
}

/// `check` means check and its instances `check-1`, `check-2`, and their sidecars `check-1.sidecar`.
fn belongs(source: &str, agent: &str) -> bool {
    match source.strip_prefix(agent) {
        Some("") => true,
        Some(rest) => {
            rest.starts_with(['.', '-']) && {
                let number = rest.trim_start_matches('-').split('.').next().unwrap_or_default();
                number.bytes().all(|byte| byte.is_ascii_digit())
            }
        }
        None => false,
    }
}

struct Printer {
    json: bool,
    paint: Paint,
    sources: Vec<String>,
    width: usize,
}

impl Printer {
    fn widen<'a>(&mut self, sources: impl Iterator<Item = &'a String>) {
        self.width = sources.map(String::len).max().unwrap_or(0).max(self.width);
    }

    fn print(&mut self, line: &Line) -> anyhow::Result<()> {
        if self.json {
            let (time, text) = (&line.time, &line.text);
            return output::json_line(
                &json!({"time": time, "instance": line.source, "stream": line.stream, "text": text}),
            );
        }
        let number = self.sources.iter().position(|source| *source == line.source).unwrap_or_else(|| {
            self.sources.push(line.source.clone());
            self.sources.len() - 1
        });
        let source = self.paint.nth(number, format!("{:<width$}", line.source, width = self.width));
        let text = output::printable(&line.text);
        // stderr is where most programs talk; only what the supervisor adds stands out.
        let text = if line.stream == "agentbus" { self.paint.dim(format!("· {text}")) } else { text };
        Ok(output::line(format!("{} {source} {text}", self.paint.dim(&line.time)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_within_a_file_stays() {
        let line = |time: &str, source: &str, stream: &str, text: &str| Line {
            time: time.into(),
            source: source.into(),
            stream: stream.into(),
            text: text.into(),
        };
        let lines = vec![
            line("2", "a", "stdout", "1"),
            line("2", "a", "stderr", "2"),
            line("1", "a", "stdout", "3"),
            line("1", "b", "stdout", "0"),
            line("3", "b", "stdout", "4"),
        ];
        let texts: Vec<String> = merged(lines).into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    }

    #[test]
    fn an_agent_means_its_instances_and_no_namesake() {
        for (source, agent, wanted) in [
            ("check", "check", true),
            ("check-2", "check", true),
            ("check-2.sidecar", "check", true),
            ("check-2", "check-2", true),
            ("check-20", "check-2", false),
            ("checker", "check", false),
            ("check-list", "check", false),
        ] {
            assert_eq!(belongs(source, agent), wanted, "{source} {agent}");
        }
    }
}
