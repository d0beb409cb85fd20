//! How far the spool is drained, on disk: all before `base`, and those of the 64 from it whose bit is set.
//!
//! Two slots are written in turn, each with a number and a checksum, so that a torn write costs one step, not the place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How many records from `base` on are told apart: the drainer has no more than so many under way.
pub const WINDOW: u64 = 64;

const SLOT_BYTES: usize = 28;

/// What is drained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Everything before this index.
    pub base: u64,
    /// Bit i: record `base + i`.
    pub mask: u64,
}

impl Drained {
    /// Whether this record is drained.
    pub fn holds(&self, index: u64) -> bool {
        index < self.base || index - self.base < WINDOW && self.mask >> (index - self.base) & 1 == 1
    }
}

/// The file with both slots.
pub struct Place {
    file: File,
    turn: u64,
}

impl Place {
    /// Opens the file and reads the newest slot that is whole.
    pub fn open(path: &Path) -> io::Result<(Self, Drained)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let newest = (0..2).filter_map(|slot| read(&file, slot)).max_by_key(|(turn, _)| *turn);
        let (turn, drained) = newest.unwrap_or_default();
        Ok((Self { file, turn }, drained))
    }

    /// Writes the next slot.
    pub fn write(&mut self, drained: Drained, sync: bool) -> io::Result<()> {
        let turn = self.turn + 1;
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&turn.to_le_bytes());
        slot[8..16].copy_from_slice(&drained.base.to_le_bytes());
        slot[16..24].copy_from_slice(&drained.mask.to_le_bytes());
        let crc = crc32fast::hash(&slot[..24]);
        slot[24..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&slot, (turn % 2) * SLOT_BYTES as u64)?;
        self.turn = turn;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn read(file: &File, slot: u64) -> Option<(u64, Drained)> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64).ok()?;
    let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let crc = u32::from_le_bytes(bytes[24..].try_into().ok()?);
    (crc32fast::hash(&bytes[..24]) == crc).then_some(())?;
    Some((number(0)?, Drained { base: number(8)?, mask: number(16)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drained");
        let (mut place, first) = Place::open(&path).unwrap();
        assert_eq!(first, Drained::default());
        place.write(Drained { base: 1, mask: 0 }, true).unwrap();
        place.write(Drained { base: 5, mask: 0b10 }, false).unwrap();
        let (_, drained) = Place::open(&path).unwrap();
        assert_eq!(drained, Drained { base: 5, mask: 2 });
        assert!(drained.holds(4) && drained.holds(6) && !drained.holds(5) && !drained.holds(5 + WINDOW));
        // The second write went to slot 0 and is torn: the one before it counts.
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[9; 3], 10).unwrap();
        assert_eq!(Place::open(&path).unwrap().1, Drained { base: 1, mask: 0 });
    }
}
