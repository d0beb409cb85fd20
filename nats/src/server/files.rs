//! The files of one server run: configuration, log, console output, ports file, store folder.
//!
//! Promises: folders are made and proven writable before a server is started, and the configuration is private (0600) and written in one step.
//! It removes nothing but the ports files of earlier runs.

use std::io;
use std::path::{Path, PathBuf};

use super::config::ConfigOptions;
use super::process::StartError;
use super::ready;

/// What one run of a server reads and writes in its folder.
pub(super) struct Files {
    pub(super) config: PathBuf,
    pub(super) ports: PathBuf,
    log: PathBuf,
    /// What it prints before it has opened its log: mistakes in the configuration. Truncated at each start.
    console: PathBuf,
    log_from: u64,
}

impl Files {
    pub(super) fn prepare(dir: &Path, config: &ConfigOptions) -> Result<Self, StartError> {
        writable(dir).map_err(|source| StartError::Folder { path: dir.to_owned(), source })?;
        writable(&config.store_dir).map_err(|source| StartError::Store { path: config.store_dir.clone(), source })?;
        let log = log_file(dir);
        let files = Files {
            config: dir.join("nats-server.conf"),
            ports: dir.join("ports"),
            console: dir.join("nats-server.out"),
            log_from: ready::end_of(&log),
            log,
        };
        let text = config.render(&files.log);
        write_private(&files.config, &text)
            .map_err(|source| StartError::Folder { path: files.config.clone(), source })?;
        ready::clear(&files.ports).map_err(|source| StartError::Folder { path: files.ports.clone(), source })?;
        Ok(files)
    }

    pub(super) fn open_console(&self) -> Result<std::fs::File, StartError> {
        std::fs::File::create(&self.console).map_err(|source| StartError::Folder { path: self.console.clone(), source })
    }

    pub(super) fn last_words(&self) -> String {
        let words = [ready::last_words(&self.console, 0), ready::last_words(&self.log, self.log_from)];
        let said: Vec<&str> = words.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        if said.is_empty() { format!("(nothing; see `{}`)", self.log.display()) } else { said.join("\n") }
    }
}

pub(super) fn log_file(dir: &Path) -> PathBuf {
    dir.join("nats-server.log")
}

/// Makes the folder if need be and proves that a file can be written there: a full or read-only disk is found here, not by the server.
fn writable(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut probe = tempfile::tempfile_in(dir)?;
    io::Write::write_all(&mut probe, &[0; 4096])?;
    probe.sync_all()
}

/// Writes a file only its owner may read (0600), in one step.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
