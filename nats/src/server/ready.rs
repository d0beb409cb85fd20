//! Knows when a starting server is ready, and what its last words were when it is not.
//!
//! The server writes its ports into a file of its own once it listens; nobody else writes there, so a stranger that holds the wanted port is never
//! taken for it. Ready is: that file, then an `INFO` line on a fresh connection to the port in it.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// How often to look again.
const TICK: Duration = Duration::from_millis(10);
/// A listening server greets within a round trip; a second means it is wedged and worth another try.
const GREETING_LIMIT: Duration = Duration::from_secs(1);
const GREETING_BYTES_MAX: u64 = 64 << 10;
/// How much of a log is read for an error message.
const LAST_WORDS_BYTES: u64 = 8 << 10;
const LAST_WORDS_LINES: usize = 6;

/// Where a server says it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) http: Option<u16>,
}

/// Removes what earlier runs left (a killed server cannot), so that the first file to appear is the new one's.
pub(super) fn clear(ports_dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(ports_dir)?;
    for entry in fs::read_dir(ports_dir)? {
        let file = entry?.path();
        if is_ports_file(&file) {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// Waits until the server that writes into `ports_dir` greets. Never ends by itself: put a limit around it.
pub(super) async fn ready(ports_dir: &Path, host: &str) -> Ports {
    loop {
        if let Some(ports) = announced(ports_dir)
            && greets(host, ports.client).await
        {
            return ports;
        }
        tokio::time::sleep(TICK).await;
    }
}

fn is_ports_file(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "ports")
}

/// The ports in the one ports file; `None` while it is missing or half written.
fn announced(ports_dir: &Path) -> Option<Ports> {
    let files = fs::read_dir(ports_dir).ok()?.flatten().map(|entry| entry.path());
    let file: PathBuf = files.into_iter().find(|file| is_ports_file(file))?;
    parse(&fs::read_to_string(file).ok()?)
}

fn parse(text: &str) -> Option<Ports> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let first = |key: &str| value.get(key)?.get(0)?.as_str()?.rsplit_once(':')?.1.parse().ok();
    Some(Ports { client: first("nats")?, http: first("monitoring") })
}

async fn greets(host: &str, port: u16) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((host, port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(GREETING_BYTES_MAX)).read_line(&mut line).await.ok()?;
        line.starts_with("INFO ").then_some(())
    };
    matches!(tokio::time::timeout(GREETING_LIMIT, greeting).await, Ok(Some(())))
}

/// Size of a file now; what is appended later begins there.
pub(super) fn end_of(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

/// The last lines that were added to `file` after `from`, one per line. Empty when there are none or the file cannot be read.
pub(super) fn last_words(file: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(file)?;
        let end = file.seek(SeekFrom::End(0))?;
        // A rotated log is shorter than before: then all of it is new.
        let from = if from > end { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(LAST_WORDS_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_half_a_file_is_not() {
        let full = r#"{"nats":["nats://127.0.0.1:4222"],"monitoring":["http://127.0.0.1:8222"]}"#;
        assert_eq!(parse(full), Some(Ports { client: 4222, http: Some(8222) }));
        assert_eq!(parse(r#"{"nats":["nats://[::1]:4222"]}"#), Some(Ports { client: 4222, http: None }));
        for half in ["", "{", r#"{"nats":[]}"#, &full[..30]] {
            assert_eq!(parse(half), None, "{half}");
        }
    }

    #[test]
    fn last_words_are_those_of_this_run() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "old\n").unwrap();
        let from = end_of(&log);
        fs::write(&log, "old\none\n\ntwo\n").unwrap();
        assert_eq!(last_words(&log, from), "one\ntwo");
        assert_eq!(last_words(&folder.path().join("none"), 0), "");
    }
}
