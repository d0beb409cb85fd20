//! How far an audit is: a fold of the events seen. Pure; events may come twice and in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::output;

/// What `audit.completed` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub files: u64,
    pub markers: u64,
    pub broken_links: u64,
    pub duplicate_groups: u64,
}

/// A dead letter of some run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    /// Number in the dead-letter stream.
    pub seq: u64,
    /// The run it belongs to.
    pub run: String,
    /// The file, or what else was asked for.
    pub what: String,
    /// Class.
    pub class: String,
    /// Cause.
    pub cause: String,
}

/// The state of one run.
#[derive(Debug, Default)]
pub(super) struct Progress {
    run: String,
    count: Option<u64>,
    checked: BTreeSet<String>,
    /// By what failed: the last letter about it.
    dead: BTreeMap<String, Letter>,
    totals: Option<Totals>,
}

impl Progress {
    pub(super) fn new(run: &str) -> Self {
        Self { run: run.to_owned(), ..Self::default() }
    }

    /// Takes an event of any run.
    pub(super) fn event(&mut self, topic: &str, data: &Value) {
        if data.get("run").and_then(Value::as_str) != Some(&self.run) {
            return;
        }
        match topic {
            "audit.started" => self.count = data.get("count").and_then(Value::as_u64),
            "file.checked" => {
                // Two names that are not UTF-8 may look alike; their bytes tell them apart.
                let bytes = data.get("path_base64").and_then(Value::as_str).unwrap_or_default();
                let path = data.get("path").and_then(Value::as_str).unwrap_or_default();
                self.dead.remove(path);
                self.checked.insert(format!("{path}\0{bytes}"));
            }
            "audit.completed" => self.totals = serde_json::from_value(data.clone()).ok(),
            _ => {}
        }
    }

    /// Takes a dead letter of any run.
    pub(super) fn dead(&mut self, letter: Letter) {
        if letter.run == self.run {
            self.dead.insert(letter.what.clone(), letter);
        }
    }

    /// The result, once the report is written.
    pub(super) fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    /// Dead letters that hold the report up.
    pub(super) fn open(&self) -> impl Iterator<Item = &Letter> {
        self.dead.values()
    }

    /// Nothing is left to come by itself: each file was checked or given up, and some were given up.
    pub(super) fn stuck(&self) -> bool {
        let through = (self.checked.len() + self.dead.len()) as u64;
        self.totals.is_none() && !self.dead.is_empty() && self.count.is_none_or(|count| through >= count)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(count) = self.count else { return f.write_str("listing files") };
        write!(f, "{} of {count} files checked", self.checked.len())?;
        if !self.dead.is_empty() {
            write!(f, ", {}", output::count(self.dead.len() as u64, "dead letter", "dead letters"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(path: &str) -> Value {
        json!({"run": "r", "path": path})
    }

    fn letter(what: &str) -> Letter {
        Letter { seq: 1, run: "r".into(), what: what.into(), class: "EXHAUSTED".into(), cause: "no".into() }
    }

    #[test]
    fn repetitions_and_other_runs_count_for_nothing() {
        let mut progress = Progress::new("r");
        progress.event("file.checked", &checked("a"));
        progress.event("file.checked", &checked("a"));
        progress.event("file.checked", &json!({"run": "other", "path": "b"}));
        progress.event("audit.started", &json!({"run": "r", "count": 2}));
        assert_eq!(progress.to_string(), "1 of 2 files checked");
        assert!(!progress.stuck() && progress.totals().is_none());
    }

    #[test]
    fn a_redriven_file_frees_the_report() {
        let mut progress = Progress::new("r");
        progress.event("audit.started", &json!({"run": "r", "count": 2}));
        progress.dead(letter("b"));
        assert!(!progress.stuck(), "a is still under way");
        progress.event("file.checked", &checked("a"));
        assert!(progress.stuck());
        progress.event("file.checked", &checked("b"));
        assert!(!progress.stuck());
        let totals =
            json!({"run": "r", "report": "x", "files": 2, "markers": 1, "broken_links": 0, "duplicate_groups": 0});
        progress.event("audit.completed", &totals);
        assert_eq!(progress.totals().map(|totals| totals.files), Some(2));
    }

    #[test]
    fn a_request_that_was_given_up_is_stuck_at_once() {
        let mut progress = Progress::new("r");
        progress.dead(letter("/input"));
        assert!(progress.stuck());
    }
}
