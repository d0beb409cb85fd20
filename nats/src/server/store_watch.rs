//! Notices that a running nats-server can no longer write its store.
//!
//! After a failed write (a full disk, most often) a stream of nats-server refuses everything until the server is started again, also when
//! there is room; it answers nothing and does not end. Its log is the only place that tells, once and then for each publish.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use super::ready;

/// How often the log is looked at: what is published meanwhile is answered with "outcome unknown" at the worst.
const TICK: Duration = Duration::from_millis(500);
/// Most of what was added that is read at once; a failing server says the same again.
const CHUNK_BYTES_MAX: u64 = 256 << 10;
/// What the server says when a stream, or all of JetStream, has stopped storing. In lower case.
const SIGNS: [&str; 4] = ["critical write error", "no space left on device", "disk quota exceeded", "will be disabled"];

/// Looks at what a server adds to its log from now on.
#[derive(Debug)]
pub struct StoreWatch {
    log: PathBuf,
    seen: u64,
}

impl StoreWatch {
    /// Watches a server's log file, see [`super::Server::log_file`]. What it says already is of the past.
    pub fn new(log: PathBuf) -> Self {
        let seen = ready::end_of(&log);
        Self { log, seen }
    }

    /// Ends when the server says that it cannot store any more, with its words. Safe to cancel.
    pub async fn failed(&mut self) -> String {
        loop {
            if let Some(words) = self.look() {
                return words;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn look(&mut self) -> Option<String> {
        let end = ready::end_of(&self.log);
        // A rotated log begins anew.
        let from = if end < self.seen { 0 } else { self.seen.max(end.saturating_sub(CHUNK_BYTES_MAX)) };
        if from == end {
            return None;
        }
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.take(end - from).read_to_end(&mut bytes)
        });
        read.ok()?;
        // Half a line is read again with its rest.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.seen = from + whole as u64;
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        text.lines().find(|line| is_sign(line)).map(words)
    }
}

fn is_sign(line: &str) -> bool {
    let line = line.to_lowercase();
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// The line without process id, time and level.
fn words(line: &str) -> String {
    line.split_once("] ").and_then(|(_, rest)| rest.split_once("] ")).map_or(line, |(_, words)| words).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FULL: &str =
        "[7] 2026/11/20 12:57:29.277578 [ERR] Filestore [S] Critical write error: no space left on device";

    #[test]
    fn only_what_comes_later_and_in_whole_lines_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, format!("{FULL}\n")).unwrap();
        let mut watch = StoreWatch::new(path.clone());
        assert_eq!(watch.look(), None);
        let mut log = File::options().append(true).open(&path).unwrap();
        log.write_all(b"[7] all is well\n").unwrap();
        assert_eq!(watch.look(), None);
        log.write_all(FULL.as_bytes()).unwrap();
        assert_eq!(watch.look(), None, "half a line");
        log.write_all(b"\n").unwrap();
        assert_eq!(watch.look().as_deref(), Some("Filestore [S] Critical write error: no space left on device"));
        assert_eq!(watch.look(), None, "said once");
    }

    #[test]
    fn a_rotated_log_is_read_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(
            &path,
            "a long first line of an old log, longer than the next one will ever be, with more and more words to it\n"
                .repeat(3),
        )
        .unwrap();
        let mut watch = StoreWatch::new(path.clone());
        std::fs::write(&path, format!("{FULL}\n")).unwrap();
        assert!(watch.look().is_some());
        assert_eq!(StoreWatch::new(folder.path().join("none")).look(), None);
    }
}
