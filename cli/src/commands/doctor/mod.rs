//! `agentbus doctor`: looks for what is wrong or weak, and says what to do about it. Changes nothing.
//!
//! Each check gives ok, warn or fail within 2 s, and is printed as it comes. Exit code 0 when nothing failed, else 1.

mod broker;
mod machine;
mod memory;

use std::time::Duration;

use serde::Serialize;

use crate::exit::Silent;
use crate::instance::Global;
use crate::output::{self, Paint};

/// Check this machine and the running bus
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus doctor\n  agentbus doctor --json | jq '.[] | select(.level != \"ok\")'")]
pub struct Args {
    /// The nats-server program to check
    #[arg(long, value_name = "FILE")]
    pub nats_server: Option<std::path::PathBuf>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but you should know.
    Warn,
    /// Does not work.
    Fail,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it came out.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), advice: String::new() }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, found: found.into(), advice: advice.into() }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, found: found.into(), advice: advice.into() }
    }
}

/// Longest time one check may take: a part that hangs must not hide what is wrong with the others.
const LIMIT: Duration = Duration::from_secs(2);

/// What was found so far. Text is printed as it comes, JSON at the end.
struct Report {
    json: bool,
    paint: Paint,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, finding: Finding) -> anyhow::Result<()> {
        if !self.json {
            for line in lines(&finding, self.paint) {
                output::line(line)?;
            }
        }
        self.findings.push(finding);
        Ok(())
    }
}

/// Runs all checks.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let mut report = Report { json: global.json, paint: Paint::stdout(), findings: Vec::new() };
    machine::check(global, args, &mut report).await?;
    broker::check(global, &mut report).await?;
    if global.json {
        output::json(&report.findings)?;
    }
    let failed = report.findings.iter().filter(|finding| finding.level == Level::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    if !global.json {
        output::say(format!("{} failed", output::count(failed as u64, "check", "checks")));
    }
    Err(Silent(1).into())
}

fn lines(finding: &Finding, paint: Paint) -> Vec<String> {
    let mark = match finding.level {
        Level::Ok => paint.green("ok  "),
        Level::Warn => paint.yellow("warn"),
        Level::Fail => paint.red("FAIL"),
    };
    let mut lines = vec![format!("{mark}  {:<16} {}", finding.check, finding.found)];
    if !finding.advice.is_empty() {
        lines.push(format!("{:22} {}", "", finding.advice));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_to_do() {
        let finding = Finding::warn("disk", "1 GiB free", "make room");
        assert_eq!(
            lines(&finding, Paint::default()),
            ["warn  disk             1 GiB free", "                       make room"]
        );
        assert_eq!(lines(&Finding::ok("disk", "fine"), Paint::default()).len(), 1);
    }
}
