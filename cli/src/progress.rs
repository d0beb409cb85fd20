//! How far long work is, on one line of stderr that rewrites itself.
//!
//! Only where stderr is a terminal, and only for work that takes longer than a second: whoever reads the output of a
//! program, or waits for something quick, sees nothing of it. The line is gone before anything else is printed.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Quicker work needs no words.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two looks of the line: eyes are slow, terminals over a network too.
const PAUSE: Duration = Duration::from_millis(200);
/// Back to the beginning of the line, and the line empty.
const CLEAR: &str = "\r\x1b[2K";

/// A line of progress. Dropped, it is gone.
pub struct Progress<W: Write = io::Stderr> {
    out: Option<W>,
    what: String,
    state: String,
    began: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// For work with this name, such as `sending`; begins now.
    pub fn new(what: &str) -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self::on(terminal.then(io::stderr), what, Instant::now())
    }
}

impl<W: Write> Progress<W> {
    fn on(out: Option<W>, what: &str, began: Instant) -> Self {
        Self { out, what: what.to_owned(), state: String::new(), began, shown: None }
    }

    /// Tells how far it is: `120 of 300`.
    pub fn at(&mut self, state: impl Display) {
        self.state = state.to_string();
        self.tell(Instant::now());
    }

    /// Waits for a part of the work, and goes on telling how long it takes.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(PATIENCE);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = tick.tick() => self.tell(Instant::now()),
            }
        }
    }

    /// Makes room for other output. The line comes back with the next word.
    pub fn clear(&mut self) {
        if let (Some(out), Some(_)) = (&mut self.out, self.shown.take()) {
            // Nobody watching is fine.
            let _ = write!(out, "{CLEAR}").and_then(|()| out.flush());
        }
    }

    fn tell(&mut self, now: Instant) {
        let waited = now.duration_since(self.began);
        let soon = self.shown.is_some_and(|shown| now.duration_since(shown) < PAUSE);
        let Some(out) = self.out.as_mut().filter(|_| waited >= PATIENCE && !soon) else { return };
        let state = &self.state;
        let gap = if state.is_empty() { "" } else { ": " };
        let seconds = waited.as_secs();
        let _ = write!(out, "{CLEAR}{}{gap}{state} ({seconds} s)", self.what).and_then(|()| out.flush());
        self.shown = Some(now);
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Waits for work that says nothing itself, and tells how long it takes.
pub async fn during<T>(what: &str, work: impl Future<Output = T>) -> T {
    Progress::new(what).during(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(moments: &[u64]) -> String {
        let mut out = Vec::new();
        let began = Instant::now();
        {
            let mut progress = Progress::on(Some(&mut out), "sending", began);
            for at in moments {
                progress.state = at.to_string();
                progress.tell(began + Duration::from_millis(*at));
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quick_work_says_nothing() {
        assert_eq!(told(&[0, 500, 999]), "");
    }

    #[test]
    fn long_work_rewrites_its_line_and_leaves_none() {
        assert_eq!(
            told(&[900, 1000, 1100, 3300]),
            format!("{CLEAR}sending: 1000 (1 s){CLEAR}sending: 3300 (3 s){CLEAR}")
        );
    }

    #[test]
    fn without_a_terminal_there_is_no_line() {
        let began = Instant::now();
        let mut progress: Progress<Vec<u8>> = Progress::on(None, "sending", began);
        progress.tell(began + Duration::from_secs(9));
        assert!(progress.shown.is_none());
    }
}
