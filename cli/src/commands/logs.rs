//! `agentbus logs`: what the agents said, from the files the supervisor keeps, merged by time.
//!
//! Works on a bus that is stopped, too. Lines are framed by the runtime (`<time> <stream> <text>`); fixed-width times in UTC sort as text.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentbus_proto::Code;
use serde_json::json;

use crate::exit::fault;
use crate::instance::{self, Global};
use crate::output::{self, Paint};

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

/// One line of one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    time: String,
    source: String,
    stream: String,
    text: String,
}

/// Prints the last lines, then what comes.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let folder = instance::state_dir(global)?.join("logs");
    let mut files = Files::default();
    files.look(&folder, &|source| args.wants(source));
    if files.files.is_empty() && !args.follow {
        return Err(nothing(&folder, args.agent.as_deref()));
    }
    let mut past: VecDeque<Line> = VecDeque::new();
    let mut lines = files.read(true);
    lines.sort();
    for line in lines {
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
    loop {
        tokio::time::sleep(TICK).await;
        files.look(&folder, &|source| args.wants(source));
        printer.widen(files.files.keys());
        let mut lines = files.read(false);
        lines.sort();
        for line in &lines {
            printer.print(line)?;
        }
    }
}

fn nothing(folder: &Path, agent: Option<&str>) -> anyhow::Error {
    let whose = agent.map(|agent| format!(" of `{agent}`")).unwrap_or_default();
    let message = format!(
        "no logs{whose} in `{}`; is it the right project? `agentbus agents list` shows the names",
        folder.display()
    );
    fault(Code::NoResponder, message)
}

/// The log files that are of interest, and how far each has been read.
#[derive(Default)]
struct Files {
    files: BTreeMap<String, Reading>,
}

struct Reading {
    path: PathBuf,
    offset: u64,
    inode: u64,
}

impl Files {
    /// Finds files that are new since the last look.
    fn look(&mut self, folder: &Path, wanted: &dyn Fn(&str) -> bool) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(source) = name.strip_suffix(".log").filter(|source| wanted(source)) {
                self.files.entry(source.to_owned()).or_insert_with(|| Reading {
                    path: entry.path(),
                    offset: 0,
                    inode: 0,
                });
            }
        }
    }

    /// Reads what was added. `old` also reads the rotated halves.
    fn read(&mut self, old: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        for (source, file) in &mut self.files {
            if old {
                let rotated = PathBuf::from(format!("{}.1", file.path.display()));
                read_from(&rotated, &mut 0, source, &mut lines);
            }
            file.read(source, &mut lines);
        }
        lines
    }
}

impl Reading {
    fn read(&mut self, source: &str, lines: &mut Vec<Line>) {
        let inode = self.path.metadata().map(|meta| meta.ino()).unwrap_or_default();
        if inode != self.inode {
            if self.inode != 0 {
                // Rotated meanwhile: the rest of the old one first.
                let rotated = PathBuf::from(format!("{}.1", self.path.display()));
                read_from(&rotated, &mut self.offset, source, lines);
            }
            (self.inode, self.offset) = (inode, 0);
        }
        read_from(&self.path, &mut self.offset, source, lines);
    }
}

/// Adds the complete lines behind `offset` and moves it. A file that is not there adds none.
fn read_from(path: &Path, offset: &mut u64, source: &str, lines: &mut Vec<Line>) {
    let Ok(mut file) = File::open(path) else { return };
    if file.seek(SeekFrom::Start(*offset)).is_err() {
        return;
    }
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) && bytes.last() == Some(&b'\n') {
        *offset += bytes.len() as u64;
        lines.push(parse(source, String::from_utf8_lossy(&bytes).trim_end_matches('\n')));
        bytes.clear();
    }
}

fn parse(source: &str, line: &str) -> Line {
    let mut parts = line.splitn(3, ' ');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (time, stream, text) = (next(), next(), next());
    Line { time, source: source.to_owned(), stream, text }
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
    use std::io::Write;

    use super::*;

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

    #[test]
    fn half_a_line_waits_and_rotation_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut files = Files::default();
        let mut texts = |old| {
            files.look(folder.path(), &|_| true);
            files.read(old).into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        append("t stdout one\nt stdout tw");
        assert_eq!(texts(true), ["one"]);
        append("o\nt stdout three\n");
        std::fs::rename(&path, folder.path().join("a.log.1")).unwrap();
        append("t stdout four\n");
        assert_eq!(texts(false), ["two", "three", "four"]);
        assert!(texts(false).is_empty());
    }
}
