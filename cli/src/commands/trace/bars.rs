//! A stretch of time as characters: waiting, work, and how it ended. Pure.

use std::time::{Duration, SystemTime};

use agentbus_control_plane::events::{Attempt, GroupStatus, State};
use agentbus_proto::timestamp;

use crate::output::Paint;

/// Stored, and not handed out yet.
pub(super) const QUEUE: char = '░';
/// With an agent.
pub(super) const WORK: char = '█';
/// Between two tries.
pub(super) const PAUSE: char = '·';
/// Waited or worked: not recorded which.
pub(super) const EITHER: char = '▒';
/// Acked.
pub(super) const DONE: char = '✓';
/// A try that failed.
pub(super) const FAILED: char = '✗';

/// From when to when, and how wide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub from: SystemTime,
    pub to: SystemTime,
    pub width: usize,
}

impl Scale {
    /// How long it is.
    pub fn length(&self) -> Duration {
        self.to.duration_since(self.from).unwrap_or_default()
    }

    fn at(&self, time: SystemTime) -> usize {
        let (length, since) = (self.length().as_secs_f64(), time.duration_since(self.from).unwrap_or_default());
        let last = self.width.saturating_sub(1);
        if length <= 0.0 {
            return 0;
        }
        // Within the bar: the share is between 0 and 1.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let column = (since.as_secs_f64() / length * last as f64).round() as usize;
        column.min(last)
    }

    /// The row of an event: where it was stored.
    pub fn mark(&self, stored: SystemTime) -> String {
        let mut cells = vec![' '; self.width];
        cells[self.at(stored)] = '◆';
        row(&cells, Paint::default())
    }

    /// The row of a group: what it did with the event.
    pub fn bar(&self, stored: SystemTime, group: &GroupStatus, paint: Paint) -> String {
        let mut cells = vec![' '; self.width];
        let mut fill = |from: SystemTime, to: SystemTime, with: char| {
            for cell in &mut cells[self.at(from)..=self.at(to)] {
                *cell = with;
            }
        };
        let (mut end, mut waits) = (Some(stored), QUEUE);
        let mut marks = Vec::new();
        for attempt in &group.attempts {
            let (handed, ended) = (time(attempt.handed.as_ref()), time(attempt.ended.as_ref()));
            if let (Some(from), Some(handed)) = (end, handed) {
                fill(from, handed, waits);
            }
            match (handed, ended) {
                (Some(handed), Some(ended)) => fill(handed, ended, WORK),
                (Some(handed), None) if attempt.outcome == "working" => fill(handed, self.to, WORK),
                (None, Some(ended)) if end.is_some() => fill(end.unwrap_or(ended), ended, EITHER),
                _ => {}
            }
            if let Some(ended) = ended {
                marks.push((ended, mark(attempt)));
            }
            (end, waits) = (ended, PAUSE);
        }
        if let (Some(from), State::Accepted | State::Retrying) = (end, group.state) {
            fill(from, self.to, waits);
        }
        for (ended, mark) in marks {
            cells[self.at(ended)] = mark;
        }
        row(&cells, paint)
    }
}

fn mark(attempt: &Attempt) -> char {
    match attempt.outcome.as_str() {
        "acked" => DONE,
        "returned" => PAUSE,
        _ => FAILED,
    }
}

/// Cells as text, equal neighbours painted together.
fn row(cells: &[char], paint: Paint) -> String {
    let used = cells.iter().rposition(|cell| *cell != ' ').map_or(0, |last| last + 1);
    let runs = cells[..used].chunk_by(|one, next| one == next);
    runs.map(|run| {
        let text: String = run.iter().collect();
        match run[0] {
            DONE => paint.green(text),
            FAILED => paint.red(text),
            WORK => paint.bold(text),
            QUEUE | PAUSE => paint.dim(text),
            _ => text,
        }
    })
    .collect()
}

/// A moment as the API writes it.
pub(super) fn time(text: Option<&String>) -> Option<SystemTime> {
    timestamp::to_system(&timestamp::parse(text?)?)
}
