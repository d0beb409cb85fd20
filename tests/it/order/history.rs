//! What agents did, and what must be true of it: per key nothing overlaps, first completions ascend, nothing is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// One execution of an event that ended with an answer which the sidecar took.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub key: String,
    pub number: u64,
    pub member: String,
    pub start: Instant,
    /// Just before the answer was given.
    pub end: Instant,
    pub done: bool,
}

#[derive(Debug, Clone, Default)]
pub struct History {
    runs: Arc<Mutex<Vec<Run>>>,
}

impl History {
    pub fn add(&self, run: Run) {
        self.runs.lock().unwrap().push(run);
    }

    pub fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    /// Events that were completed at least once.
    pub fn completed(&self) -> usize {
        let runs = self.runs();
        runs.iter().filter(|run| run.done).map(|run| (&run.key, run.number)).collect::<BTreeSet<_>>().len()
    }

    /// How many members completed something.
    pub fn members(&self) -> usize {
        self.runs().iter().filter(|run| run.done).map(|run| run.member.clone()).collect::<BTreeSet<_>>().len()
    }

    /// Panics with the first thing that is wrong.
    pub fn check(&self, per_key: u64) {
        if let Err(wrong) = check(&self.runs(), per_key) {
            panic!("{wrong}");
        }
    }
}

/// Executions of one key that began before the event's first completion: those after it are repetitions of what is done.
fn first_runs(mut runs: Vec<Run>) -> (Vec<Run>, BTreeMap<u64, Instant>) {
    runs.sort_by_key(|run| run.end);
    let mut done: BTreeMap<u64, Instant> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.done) {
        done.entry(run.number).or_insert(run.end);
    }
    runs.retain(|run| done.get(&run.number).is_none_or(|first| run.start <= *first));
    (runs, done)
}

fn check(runs: &[Run], per_key: u64) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for run in runs {
        keys.entry(&run.key).or_default().push(run.clone());
    }
    for (key, runs) in keys {
        let (mut runs, done) = first_runs(runs);
        if done.len() as u64 != per_key {
            return Err(format!("key {key}: {} of {per_key} completed", done.len()));
        }
        let ends: Vec<_> = done.values().collect();
        if let Some(at) = ends.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(format!("key {key}: {} was completed before {at}", at + 1));
        }
        runs.sort_by_key(|run| run.start);
        if let Some(pair) = runs.windows(2).find(|pair| pair[1].start < pair[0].end) {
            return Err(format!("key {key}: two at once: {pair:?}"));
        }
    }
    Ok(())
}

#[test]
fn the_check_finds_what_is_wrong() {
    let zero = Instant::now();
    let at = |millis: u64| zero + std::time::Duration::from_millis(millis);
    let run = |number, start, end, done| Run {
        key: "k".into(),
        number,
        member: "m".into(),
        start: at(start),
        end: at(end),
        done,
    };
    let good = [run(0, 0, 1, false), run(0, 2, 3, true), run(1, 4, 6, true), run(0, 5, 6, true)];
    assert_eq!(check(&good, 2), Ok(()), "a repetition of what was done is no overlap");
    assert!(check(&good, 3).unwrap_err().contains("2 of 3"));
    let overtaken = [run(0, 5, 6, true), run(1, 1, 3, true)];
    assert!(check(&overtaken, 2).unwrap_err().contains("1 was completed before 0"));
    let both = [run(0, 0, 3, true), run(1, 2, 4, true)];
    assert!(check(&both, 2).unwrap_err().contains("two at once"));
    let again = [run(0, 0, 3, false), run(0, 2, 4, true)];
    assert!(check(&again, 1).unwrap_err().contains("two at once"));
}
