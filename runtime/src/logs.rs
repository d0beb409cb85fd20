//! What child processes say, kept in a bounded file: each line framed with its time and stream.
//!
//! `2026-01-31T12:00:00.000Z stdout text`. A line keeps its first 8 KiB; a file is rotated once at 8 MiB (`.1` keeps the older
//! half). A slow or full disk never holds up a child: its pipe is always read, and lines that cannot be queued are counted and
//! dropped, and the next line in the file says so. Writing happens on a thread of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes kept of one line.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// Bytes in a file before it is rotated.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Lines waiting for the disk; with full lines 8 MiB of memory.
const QUEUE_LINES_MAX: usize = 1024;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The child's stdout.
    Stdout,
    /// The child's stderr.
    Stderr,
    /// The one who runs the child: started, exited, lines dropped.
    Supervisor,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Supervisor => "agentbus",
        })
    }
}

/// Sees every line as it comes, before the disk does. Must not block.
pub type Tee = Arc<dyn Fn(Stream, &str) + Send + Sync>;

enum Entry {
    Line(OffsetDateTime, Stream, String),
    Flush(SyncSender<()>),
}

/// A log file that many may write to. The file is closed when the last clone is gone.
#[derive(Clone)]
pub struct LogFile {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
    tee: Option<Tee>,
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFile").field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

impl LogFile {
    /// Opens `path` for appending, private to the user (0600), and starts its writer.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_sized(path, FILE_BYTES_MAX)
    }

    fn open_sized(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::open(path, bytes_max)?;
        let seen = Arc::clone(&dropped);
        std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || writer.run(&entries, &seen))?;
        Ok(Self { queue, dropped, tee: None })
    }

    /// The same file; lines written through this clone are shown to `tee` too.
    pub fn with_tee(mut self, tee: Tee) -> Self {
        self.tee = Some(tee);
        self
    }

    /// Queues one line, without its line end. Never blocks.
    pub fn line(&self, stream: Stream, line: &str) {
        if let Some(tee) = &self.tee {
            tee(stream, line);
        }
        let entry = Entry::Line(OffsetDateTime::now_utc(), stream, line.to_owned());
        if self.queue.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Blocks until what was queued before is written, at most `wait`. Not for async code.
    pub fn flush(&self, wait: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = written.recv_timeout(wait);
        }
    }

    /// Reads `reader` line by line until it ends. A read error counts as the end.
    pub async fn capture<R: AsyncRead + Unpin>(&self, stream: Stream, mut reader: R) {
        let mut lines = Lines::default();
        let mut buffer = vec![0; LINE_BYTES_MAX];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            lines.push(&buffer[..count], |line| self.line(stream, line));
        }
        lines.finish(|line| self.line(stream, line));
    }
}

/// Cuts bytes into lines of at most [`LINE_BYTES_MAX`]; what is too much is counted and left out.
#[derive(Default)]
struct Lines {
    held: Vec<u8>,
    omitted: u64,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.hold(piece);
            self.emit(&mut emit);
        }
        self.hold(last);
    }

    fn finish(mut self, mut emit: impl FnMut(&str)) {
        if !self.held.is_empty() {
            self.emit(&mut emit);
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.held.len();
        let (kept, rest) = bytes.split_at(room.min(bytes.len()));
        self.held.extend_from_slice(kept);
        self.omitted += rest.len() as u64;
    }

    fn emit(&mut self, emit: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.held);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        match self.omitted {
            0 => emit(text),
            more => emit(&format!("{text} [{more} bytes more]")),
        }
        self.held.clear();
        self.omitted = 0;
    }
}

/// The writing end: the file, its size, and whether the last write failed.
struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    bytes_max: u64,
    lost: u64,
}

impl Writer {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, bytes_max, lost: 0 })
    }

    fn run(&mut self, entries: &Receiver<Entry>, dropped: &AtomicU64) {
        while let Ok(entry) = entries.recv() {
            self.lost += dropped.swap(0, Ordering::Relaxed);
            match entry {
                Entry::Line(at, stream, line) => {
                    self.confess(at);
                    if self.write(at, stream, &line).is_err() {
                        self.lost += 1;
                    }
                }
                Entry::Flush(done) => {
                    self.confess(OffsetDateTime::now_utc());
                    let _ = done.try_send(());
                }
            }
        }
    }

    /// Writes down how many lines are missing here, as soon as the disk takes it.
    fn confess(&mut self, at: OffsetDateTime) {
        if self.lost > 0 && self.write(at, Stream::Supervisor, &format!("{} lines dropped", self.lost)).is_ok() {
            self.lost = 0;
        }
    }

    fn write(&mut self, at: OffsetDateTime, stream: Stream, line: &str) -> io::Result<()> {
        let stamp = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let at = at.format(&stamp).map_err(io::Error::other)?;
        let text = format!("{at} {stream} {line}\n");
        let length = text.len() as u64;
        if self.size > 0 && self.size + length > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(text.as_bytes())?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut older = self.path.as_os_str().to_owned();
        older.push(".1");
        std::fs::rename(&self.path, older)?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| out.push(line.to_owned()));
        }
        lines.finish(|line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn bytes_become_lines() {
        assert_eq!(cut(&[b"a\nb", b"c\r\n\nd"]), ["a", "bc", "", "d"]);
        assert_eq!(cut(&[b"\xff\n"]), ["\u{fffd}"]);
        assert!(cut(&[b""]).is_empty());
    }

    #[test]
    fn a_long_line_keeps_its_beginning() {
        let long = vec![b'x'; LINE_BYTES_MAX];
        let lines = cut(&[&long, b"yy", &long, b"\nnext"]);
        assert_eq!(lines[0], format!("{} [{} bytes more]", "x".repeat(LINE_BYTES_MAX), LINE_BYTES_MAX + 2));
        assert_eq!(lines[1], "next");
    }

    #[tokio::test]
    async fn lines_are_framed_and_shown_to_the_tee() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tee = Arc::clone(&seen);
        let log = LogFile::open(&path).unwrap();
        let shown = log
            .clone()
            .with_tee(Arc::new(move |stream, line: &str| tee.lock().unwrap().push(format!("{stream} {line}"))));
        shown.capture(Stream::Stderr, &b"one\ntwo"[..]).await;
        log.line(Stream::Supervisor, "exited");
        log.flush(WAIT);
        let text = std::fs::read_to_string(&path).unwrap();
        let framed: Vec<&str> = text.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        assert_eq!(framed, ["stderr one", "stderr two", "agentbus exited"]);
        assert_eq!(*seen.lock().unwrap(), ["stderr one", "stderr two"]);
        assert_eq!(text.find('Z'), Some("2026-01-31T12:00:00.000".len()));
    }

    #[test]
    fn a_full_file_is_rotated_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = LogFile::open_sized(&path, 1000).unwrap();
        for number in 0..100 {
            log.line(Stream::Stdout, &format!("line {number}"));
        }
        log.flush(WAIT);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("a.log").ends_with("line 99\n"));
        for name in ["a.log", "a.log.1"] {
            assert!((1..=1000).contains(&read(name).len()), "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut writer = Writer::open(&path, FILE_BYTES_MAX).unwrap();
        // Opened for reading only: each write fails, as on a full disk.
        let good = std::mem::replace(&mut writer.file, File::open(&path).unwrap());
        let (queue, entries) = sync_channel(4);
        let line = |text: &str| Entry::Line(OffsetDateTime::UNIX_EPOCH, Stream::Stdout, text.to_owned());
        queue.send(line("lost")).unwrap();
        queue.send(line("lost too")).unwrap();
        drop(queue);
        let queue_full = AtomicU64::new(3);
        writer.run(&entries, &queue_full);
        assert_eq!(writer.lost, 5);

        writer.file = good;
        let (queue, entries) = sync_channel(4);
        queue.send(line("back")).unwrap();
        drop(queue);
        writer.run(&entries, &queue_full);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("agentbus 5 lines dropped\n") && text.ends_with("stdout back\n"), "{text}");
    }
}
