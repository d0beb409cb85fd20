//! `up --demo`: an audit of a repository by four small agents, written into the state folder and run once.
//!
//! The scripts are part of this program, so that an installed one can do it without a checkout. The audit is started like anybody would: an
//! event, published through the person's own sidecar. What is shown on the way is only watched (as `tail` does), never taken.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentbus_nats::bus::Memory;
use agentbus_proto::event::v1::Event;
use agentbus_proto::json::content::JSON;
use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::{Address, Code, Fault};
use agentbus_runtime::state;
use serde_json::json;
use uuid::Uuid;

use super::progress::{Letter, Progress, Totals};
use super::watch::{Seen, Watch};
use crate::exit::{Silent, fault};
use crate::instance::{Global, Instance};
use crate::{client, output};

const FILES: [(&str, &str); 6] = [
    ("agentbus.yaml", include_str!("../../../../examples/demo/agentbus.yaml")),
    ("list.py", include_str!("../../../../examples/demo/list.py")),
    ("check.py", include_str!("../../../../examples/demo/check.py")),
    ("report.py", include_str!("../../../../examples/demo/report.py")),
    ("render.py", include_str!("../../../../examples/demo/render.py")),
    ("notify.sh", include_str!("../../../../examples/demo/notify.sh")),
];

/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Without a terminal, a line at least this far apart.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Letters named one by one.
const NAMED_MAX: usize = 10;

/// One audit.
#[derive(Debug, Clone)]
pub(super) struct Audit {
    /// What is audited.
    pub input: PathBuf,
    /// Where the report goes.
    pub report: PathBuf,
    /// End after the report, or when it cannot be completed.
    pub once: bool,
}

/// Writes the demo's files; those of an earlier version are replaced.
pub(super) fn write(state: &Path) -> anyhow::Result<PathBuf> {
    let folder = state.join("demo");
    state::create_private(&folder)?;
    for (name, text) in FILES {
        state::write_private(&folder.join(name), text.as_bytes())?;
    }
    Ok(folder)
}

impl Audit {
    /// Checks the input before anything is started. Default: the repository that the current folder lies in.
    pub(super) fn plan(input: Option<&Path>, report: Option<&Path>, state: &Path, once: bool) -> anyhow::Result<Self> {
        let here = crate::instance::current_dir()?;
        let input = match input {
            Some(input) => std::path::absolute(input)?,
            None => here.ancestors().find(|folder| folder.join(".git").exists()).unwrap_or(&here).to_owned(),
        };
        if !input.is_dir() {
            return Err(fault(Code::InvalidEvent, format!("--input `{}` is no folder", input.display())));
        }
        let report = report.map_or_else(|| Ok(state.join("demo").join("report.md")), std::path::absolute)?;
        Ok(Self { input, report, once })
    }

    /// Publishes the request and watches until the report is there. Cancelled by dropping.
    pub(super) async fn run(
        &self,
        global: &Global,
        instance: &Instance,
        memory: Option<&Memory>,
    ) -> anyhow::Result<()> {
        let run = Uuid::now_v7().to_string();
        let mut watch = Watch::start(instance, memory).await?;
        self.request(instance, &run).await?;
        output::say(format!("auditing {}", self.input.display()));
        let (began, mut progress) = (Instant::now(), Progress::new(&run));
        let mut display = Display::new();
        let mut explained = false;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            // Events that lose stay in their stream.
            tokio::select! {
                seen = watch.next() => match seen? {
                    Seen::Event(topic, data) => progress.event(&topic, &data),
                    Seen::Letter(letter) => progress.dead(letter),
                },
                _ = ticks.tick() => display.show(&progress),
            }
            if let Some(totals) = progress.totals() {
                display.end();
                return self.done(global, totals, began.elapsed());
            }
            if progress.stuck() && !explained {
                display.end();
                explain(&progress);
                explained = true;
                if self.once {
                    return Err(Silent(1).into());
                }
                output::say("waiting: the report is written when they are through");
            }
        }
    }

    async fn request(&self, instance: &Instance, run: &str) -> anyhow::Result<()> {
        let mut client = client::connect(&instance.me.url, &instance.me.token).await?;
        let data = json!({"input": self.input, "report": self.report, "run": run});
        let event = Event {
            id: run.to_owned(),
            to: Some(Address::Topic("audit.requested".to_owned()).into()),
            content_type: JSON.to_owned(),
            data: data.to_string().into(),
            ..Event::default()
        };
        client
            .publish(PublishRequest { event: Some(event), ..PublishRequest::default() })
            .await
            .map_err(Fault::from)?;
        Ok(())
    }

    fn done(&self, global: &Global, totals: &Totals, took: Duration) -> anyhow::Result<()> {
        let report = &self.report;
        if global.json {
            return output::json(
                &json!({"input": self.input, "report": report, "seconds": took.as_secs_f64(), "totals": totals}),
            );
        }
        let Totals { files, markers, broken_links, duplicate_groups } = totals;
        output::line(format!(
            "audit done in {:.1} s: {}, {}, {}, {}",
            took.as_secs_f64(),
            output::count(*files, "file", "files"),
            output::count(*markers, "TODO/FIXME marker", "TODO/FIXME markers"),
            output::count(*broken_links, "broken link", "broken links"),
            output::count(*duplicate_groups, "group of duplicates", "groups of duplicates"),
        ))?;
        Ok(output::line(format!("report: {}", report.display()))?)
    }
}

/// Says which files hold the report up, and what to do.
fn explain(progress: &Progress) {
    let letters: Vec<&Letter> = progress.open().collect();
    output::say(format!(
        "the report waits for {}:",
        output::count(letters.len() as u64, "dead letter", "dead letters")
    ));
    for letter in letters.iter().take(NAMED_MAX) {
        let cause = output::printable(&letter.cause);
        output::say(format!("  {}  {}  {}: {cause}", letter.seq, output::printable(&letter.what), letter.class));
    }
    if letters.len() > NAMED_MAX {
        output::say("  …");
    }
    output::say("look:   agentbus dlq list");
    output::say("repair what the cause names, then send them again:   agentbus dlq redrive --all");
}

/// One line that is overwritten on a terminal; now and then a line elsewhere.
struct Display {
    terminal: bool,
    last: String,
    at: Instant,
}

impl Display {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new(), at: Instant::now() }
    }

    fn show(&mut self, progress: &Progress) {
        let text = progress.to_string();
        if text == self.last || text.is_empty() {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else if self.at.elapsed() < LINE_EVERY {
            return;
        } else {
            output::say(&text);
        }
        (self.last, self.at) = (text, Instant::now());
    }

    fn end(&mut self) {
        if self.terminal && !self.last.is_empty() {
            eprint!("\r\x1b[K");
        }
        self.last.clear();
    }
}
