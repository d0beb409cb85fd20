//! The spool's files: segments that are only appended to, and the place up to which they are drained. Blocking; knows
//! nothing of the broker or of who waits.
//!
//! A segment is named by the index of its first record. What a crash left half written at its end is cut off when it is
//! opened; nobody was told that it is kept. A segment goes when all of it is drained. Permanent refusals are moved to
//! `refused.jsonl`, one JSON object per line, for people; its size counts towards the bound, so nothing ever has to be
//! thrown away to make room.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentbus_proto::Fault;
use agentbus_runtime::state;
use base64::{Engine, engine::general_purpose::STANDARD};

use super::drained::{Drained, Place, WINDOW};
use super::record::{self, HEAD_BYTES, Record};

/// What is refused for good, for people to look at.
pub const REFUSED: &str = "refused.jsonl";
const DRAINED: &str = "drained";
const SEGMENT_END: &str = ".spool";
/// A segment is closed at this size, or at an eighth of the bound: room comes back segment by segment.
const SEGMENT_BYTES_MAX: u64 = 8 << 20;

/// Why a record is not kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bound is reached.
    #[error("the spool is full")]
    Full,
    /// The disk does not take it.
    #[error("the spool cannot be written")]
    Disk(#[source] io::Error),
}

/// Where an undrained record is.
struct Spot {
    file: Arc<File>,
    offset: u64,
    length: usize,
}

struct Segment {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    /// Written since its last sync.
    dirty: bool,
}

/// How a file is made to last: another one in tests.
type Fsync = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

/// The open spool of one instance.
pub struct Log {
    dir: PathBuf,
    bytes_max: u64,
    /// By the index of their first record; the last one is written to.
    segments: BTreeMap<u64, Segment>,
    undrained: BTreeMap<u64, Spot>,
    next: u64,
    place: Place,
    refused_bytes: u64,
    refused: u64,
    /// Makes what is written last.
    fsync: Fsync,
    /// The end of the last segment is not to be trusted: go on in a new one.
    torn: bool,
}

impl Log {
    /// Opens what is there, cuts off what is torn, and goes on behind it.
    pub fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        let (place, drained) = Place::open(&dir.join(DRAINED))?;
        let refused_text = std::fs::read(dir.join(REFUSED)).unwrap_or_default();
        let mut log = Self {
            dir: dir.to_owned(),
            bytes_max,
            segments: BTreeMap::new(),
            undrained: BTreeMap::new(),
            next: drained.base,
            place,
            refused_bytes: refused_text.len() as u64,
            refused: refused_text.iter().filter(|byte| **byte == b'\n').count() as u64,
            fsync: Box::new(File::sync_data),
            torn: false,
        };
        for (first, path) in segments(dir)? {
            log.take(first, path, drained)?;
        }
        log.drop_drained()?;
        Ok(log)
    }

    fn take(&mut self, first: u64, path: PathBuf, drained: Drained) -> io::Result<()> {
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&path)?);
        let (spots, end) = scan(&file)?;
        let torn = file.metadata()?.len().saturating_sub(end);
        if torn > 0 {
            tracing::warn!(path = %path.display(), bytes = torn, "cut off what was half written");
            file.set_len(end)?;
        }
        self.next = self.next.max(first);
        for (index, (offset, length)) in (first..).zip(spots) {
            self.next = self.next.max(index + 1);
            if !drained.holds(index) {
                self.undrained.insert(index, Spot { file: file.clone(), offset, length });
            }
        }
        self.segments.insert(first, Segment { path, file, bytes: end, dirty: false });
        Ok(())
    }

    /// Records that wait.
    pub fn waiting(&self) -> u64 {
        self.undrained.len() as u64
    }

    /// Bytes on disk, refused ones included.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum::<u64>() + self.refused_bytes
    }

    /// Refused events in the file for people.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Appends a record. It is written when this returns, and lasts after [`Log::sync`].
    pub fn append(&mut self, body: &[u8]) -> Result<(), Error> {
        let frame = (HEAD_BYTES + body.len()) as u64;
        if self.bytes() + frame > self.bytes_max {
            return Err(Error::Full);
        }
        self.roll(frame).map_err(Error::Disk)?;
        let Some(mut last) = self.segments.last_entry() else { return Err(Error::Full) };
        let segment = last.get_mut();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&record::head(body));
        bytes.extend_from_slice(body);
        if let Err(error) = segment.file.write_all_at(&bytes, segment.bytes) {
            // Half of it may be there: cut it off, or else write on in another file.
            self.torn = segment.file.set_len(segment.bytes).is_err();
            return Err(Error::Disk(error));
        }
        let offset = segment.bytes + HEAD_BYTES as u64;
        segment.bytes += frame;
        self.undrained.insert(self.next, Spot { file: segment.file.clone(), offset, length: body.len() });
        segment.dirty = true;
        self.next += 1;
        Ok(())
    }

    /// Takes the last `count` records back: they could not be made to last, and nobody was told that they are kept. What comes
    /// next goes into a file of its own: after a failed sync the system may take what it lost for written.
    pub fn take_back(&mut self, count: u64) {
        let mut left = false;
        for _ in 0..count {
            let Some((index, spot)) = self.undrained.pop_last() else { break };
            let end = spot.offset - HEAD_BYTES as u64;
            if let Err(error) = spot.file.set_len(end) {
                // What cannot be cut off is noted as drained, as far as that can be told, and the file is left alone.
                tracing::error!(%error, "a record that is not kept stays in the file: it may be sent after a restart");
                left = true;
                continue;
            }
            if let Some(segment) = self.segments.values_mut().find(|segment| Arc::ptr_eq(&segment.file, &spot.file)) {
                (segment.bytes, segment.dirty) = (end, false);
            }
            if !left {
                self.next = index;
            }
        }
        self.torn = true;
        let drained = self.drained();
        if left && let Err(error) = self.place.write(drained, false) {
            tracing::error!(%error, "cannot note what was taken back");
        }
    }

    /// Makes what was appended last. After an error none of it may be counted on: see [`Log::take_back`].
    pub fn sync(&mut self) -> io::Result<()> {
        for segment in self.segments.values_mut().filter(|segment| segment.dirty) {
            (self.fsync)(&segment.file)?;
            segment.dirty = false;
        }
        Ok(())
    }

    /// The first records, no more than can be told apart when they are drained, and about `bytes_max` of payload.
    pub fn read(&self, bytes_max: usize) -> io::Result<Vec<(u64, Record)>> {
        let Some((base, _)) = self.undrained.first_key_value() else { return Ok(Vec::new()) };
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (index, spot) in self.undrained.range(base..&(base + WINDOW)) {
            if bytes > 0 && bytes + spot.length > bytes_max {
                break;
            }
            bytes += spot.length;
            let mut body = vec![0; spot.length];
            spot.file.read_exact_at(&mut body, spot.offset)?;
            let junk = || io::Error::new(io::ErrorKind::InvalidData, format!("record {index} cannot be read"));
            records.push((*index, record::decode(body).ok_or_else(junk)?));
        }
        Ok(records)
    }

    /// Notes that these are stored or refused.
    pub fn done(&mut self, indices: &[u64], sync: bool) -> io::Result<()> {
        for index in indices {
            self.undrained.remove(index);
        }
        let drained = self.drained();
        self.place.write(drained, sync)?;
        self.drop_drained()
    }

    /// Writes a permanent refusal down for people. The caller notes afterwards that it is done.
    pub fn refuse(&mut self, record: &Record, fault: &Fault, at: &str) -> io::Result<()> {
        let line = serde_json::json!({
            "at": at,
            "id": record.id,
            "subject": record.message.subject,
            "code": fault.code.as_str(),
            "message": fault.message,
            "event_base64": STANDARD.encode(&record.message.payload),
        });
        let mut text = line.to_string();
        text.push('\n');
        let path = self.dir.join(REFUSED);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        // Somebody may have taken the file away meanwhile: what counts is what is there.
        let bytes = file.metadata()?.len();
        self.refused = if bytes == text.len() as u64 { 1 } else { self.refused + 1 };
        self.refused_bytes = bytes;
        Ok(())
    }

    fn drained(&self) -> Drained {
        let Some((&base, _)) = self.undrained.first_key_value() else {
            return Drained { base: self.next, mask: 0 };
        };
        let done = |bit: &u64| base + bit < self.next && !self.undrained.contains_key(&(base + bit));
        Drained { base, mask: (0..WINDOW).filter(done).fold(0, |mask, bit| mask | 1 << bit) }
    }

    /// Begins a new segment when the last one is large, or its end is not to be trusted.
    fn roll(&mut self, frame: u64) -> io::Result<()> {
        let most = SEGMENT_BYTES_MAX.min(self.bytes_max / 8);
        let fits = |segment: &Segment| segment.bytes == 0 || segment.bytes + frame <= most;
        if !self.torn && self.segments.values().next_back().is_some_and(fits) {
            return Ok(());
        }
        // Those that were emptied by taking back: their names are of indices that come again.
        while let Some(last) = self.segments.last_entry().filter(|last| *last.key() >= self.next) {
            std::fs::remove_file(&last.get().path)?;
            last.remove();
        }
        let path = self.dir.join(format!("{:016x}{SEGMENT_END}", self.next));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        // The name lasts only once the folder is on disk.
        if let Err(error) = File::open(&self.dir)?.sync_all() {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.segments.insert(self.next, Segment { path, file: Arc::new(file), bytes: 0, dirty: false });
        self.torn = false;
        Ok(())
    }

    /// Removes the segments of which nothing waits any more.
    fn drop_drained(&mut self) -> io::Result<()> {
        let base = self.undrained.first_key_value().map_or(self.next, |(index, _)| *index);
        while let Some((_, segment)) = self.segments.first_key_value() {
            let end = self.segments.keys().nth(1).copied().unwrap_or(self.next);
            // An empty one is the one that is written to next.
            if end > base || segment.bytes == 0 {
                break;
            }
            std::fs::remove_file(&segment.path)?;
            self.segments.pop_first();
        }
        Ok(())
    }
}

#[cfg(test)]
impl Log {
    /// From now on files are made to last this way.
    pub fn sync_with(&mut self, fsync: impl FnMut(&File) -> io::Result<()> + Send + 'static) {
        self.fsync = Box::new(fsync);
    }
}

/// Makes a spool's folder, for this user alone.
pub fn create(dir: &Path) -> Result<(), state::Error> {
    state::create_private(dir)
}

fn segments(dir: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SEGMENT_END));
        if let Some(first) = name.and_then(|name| u64::from_str_radix(name, 16).ok()) {
            found.insert(first, path);
        }
    }
    Ok(found)
}

/// Offset and length of each whole body, and where the last whole frame ends.
fn scan(file: &File) -> io::Result<(Vec<(u64, usize)>, u64)> {
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    let (mut spots, mut end, mut head) = (Vec::new(), 0, [0; HEAD_BYTES]);
    let mut body = Vec::new();
    while reader.read_exact(&mut head).is_ok() {
        let Some((length, crc)) = record::promised(&head) else { break };
        body.clear();
        let read = reader.by_ref().take(length as u64).read_to_end(&mut body)?;
        if read < length || crc32fast::hash(&body) != crc {
            break;
        }
        spots.push((end + HEAD_BYTES as u64, length));
        end += (HEAD_BYTES + length) as u64;
    }
    Ok((spots, end))
}

#[cfg(test)]
mod tests;
