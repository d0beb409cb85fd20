//! The log files of a state folder: found, read, and read on, across rotation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub time: String,
    pub source: String,
    pub stream: String,
    pub text: String,
}

/// The log files that are of interest, and how far each has been read.
#[derive(Default)]
pub(super) struct Files {
    pub files: BTreeMap<String, Reading>,
}

pub(super) struct Reading {
    path: PathBuf,
    offset: u64,
    inode: u64,
}

impl Files {
    /// Finds files that are new since the last look.
    pub(super) fn look(&mut self, folder: &Path, wanted: &dyn Fn(&str) -> bool) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(source) = name.strip_suffix(".log").filter(|source| wanted(source)) {
                self.files.entry(source.to_owned()).or_insert_with(|| Reading {
                    path: entry.path(),
                    offset: 0,
                    inode: 0,
                });
            }
        }
    }

    /// Reads what was added. `old` also reads the rotated halves.
    pub(super) fn read(&mut self, old: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        for (source, file) in &mut self.files {
            if old {
                let rotated = PathBuf::from(format!("{}.1", file.path.display()));
                read_from(&rotated, &mut 0, source, &mut lines);
            }
            file.read(source, &mut lines);
        }
        lines
    }
}

impl Reading {
    fn read(&mut self, source: &str, lines: &mut Vec<Line>) {
        let inode = self.path.metadata().map(|meta| meta.ino()).unwrap_or_default();
        if inode != self.inode {
            if self.inode != 0 {
                // Rotated meanwhile: the rest of the old one first.
                let rotated = PathBuf::from(format!("{}.1", self.path.display()));
                read_from(&rotated, &mut self.offset, source, lines);
            }
            (self.inode, self.offset) = (inode, 0);
        }
        read_from(&self.path, &mut self.offset, source, lines);
    }
}

/// Adds the complete lines behind `offset` and moves it. A file that is not there adds none.
fn read_from(path: &Path, offset: &mut u64, source: &str, lines: &mut Vec<Line>) {
    let Ok(mut file) = File::open(path) else { return };
    if file.seek(SeekFrom::Start(*offset)).is_err() {
        return;
    }
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) && bytes.last() == Some(&b'\n') {
        *offset += bytes.len() as u64;
        lines.push(parse(source, String::from_utf8_lossy(&bytes).trim_end_matches('\n')));
        bytes.clear();
    }
}

fn parse(source: &str, line: &str) -> Line {
    let mut parts = line.splitn(3, ' ');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (time, stream, text) = (next(), next(), next());
    Line { time, source: source.to_owned(), stream, text }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn half_a_line_waits_and_rotation_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut files = Files::default();
        let mut texts = |old| {
            files.look(folder.path(), &|_| true);
            files.read(old).into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        append("t stdout one\nt stdout tw");
        assert_eq!(texts(true), ["one"]);
        append("o\nt stdout three\n");
        std::fs::rename(&path, folder.path().join("a.log.1")).unwrap();
        append("t stdout four\n");
        assert_eq!(texts(false), ["two", "three", "four"]);
        assert!(texts(false).is_empty());
    }
}
