//! The broker of a local bus: obtained, started, kept alive, stopped last.
//!
//! A nats-server that dies is started again on the same port and store, with back-off and out loud; clients reconnect by themselves. So is
//! one that can no longer write, as soon as the disk has room: it would store nothing more until then.
//! How much it may store is bounded by the disk, so that streams refuse (`STREAM_FULL`) before the file system does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentbus_nats::identity::Authority;
use agentbus_nats::server::{Binary, ConfigOptions, OperatorMode, Server, StoreWatch, find, find_or_obtain};
use agentbus_nats::topology::Sizes;
use agentbus_proto::Code;
use agentbus_runtime::backoff::Backoff;
use agentbus_runtime::{launch, state};
use anyhow::Context;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::exit::fault;
use crate::{output, progress, size};

/// Most that all streams together take, however large the disk is.
const QUOTA_MAX: u64 = 2 << 30;
/// Below this a bus is of no use; the smallest stream still holds some events of the largest size.
const QUOTA_MIN: u64 = 16 << 20;
/// Quotas are rounded down to this, so that a disk that fills by a few files does not change every stream at every start.
const QUOTA_STEP: u64 = 16 << 20;
/// The broker's largest message, in bytes.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;
/// Room for the headers that retry and dead-letter copies add.
const HEADER_ROOM: usize = 16 << 10;
/// Largest encoded event.
pub(super) const EVENT_BYTES_MAX: usize = MAX_PAYLOAD - HEADER_ROOM;
/// How long the broker may take to write its state at the end.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// With this much room a broker that could not write is started again, in bytes: some events of the largest size.
const ROOM_MIN: u64 = 4 << 20;
/// How often the disk is looked at meanwhile.
const ROOM_TICK: Duration = Duration::from_secs(1);
/// Quick after a crash, patient with a disk that stays full.
const RESTART: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(5), factor: 2.0, jitter: 0.1 };

/// The running broker. Killed when dropped.
pub(super) struct Broker {
    pub url: String,
    pub version: String,
    pub program: PathBuf,
    pub sizes: Sizes,
    /// Told each time the server is back after a death.
    pub back: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    keeper: JoinHandle<()>,
}

/// Finds a nats-server or obtains one, saying what it does.
pub(super) async fn obtain(flag: Option<PathBuf>) -> anyhow::Result<Binary> {
    let options = find::Options::from_env(flag);
    let found = find_or_obtain(&options, &|text: &str| output::say(text));
    Ok(progress::during("getting a nats-server", found).await?)
}

/// Where the broker keeps its files.
fn folder(state: &Path) -> PathBuf {
    state.join("nats")
}

/// Where the broker keeps what is stored.
pub(super) fn store(state: &Path) -> PathBuf {
    folder(state).join("store")
}

/// Starts `binary` with its files below `state`.
pub(super) async fn start(
    binary: Binary,
    state: &Path,
    port: Option<u16>,
    authority: &Authority,
) -> anyhow::Result<Broker> {
    let folder = folder(state);
    let store_dir = store(state);
    let quota = quota(&folder, &store_dir)?;
    let now = unix_now();
    let operator = OperatorMode::of(authority, now)?;
    let config = ConfigOptions {
        port,
        store_dir,
        // The streams' own limits share out the quota; this one must also admit those of an earlier, larger quota.
        jetstream_store_bytes_max: QUOTA_MAX,
        max_payload: MAX_PAYLOAD,
        operator: Some(operator),
        ..ConfigOptions::default()
    };
    let launcher = launch::prefix().context("cannot find this program's own file")?;
    let server = Server::start(&binary.path, &folder, config, Some(launcher)).await?;
    let url = server.url();
    let (stop, stopped) = oneshot::channel();
    let back = Arc::new(Notify::new());
    let keeper = tokio::spawn(keep(server, folder, Arc::clone(&back), stopped));
    let sizes = Sizes::within(i64::try_from(quota).unwrap_or(i64::MAX));
    Ok(Broker { url, version: binary.version.to_string(), program: binary.path, sizes, back, stop: Some(stop), keeper })
}

impl Broker {
    /// Stops the broker; everybody else has to be gone.
    pub(super) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.keeper).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Aborted, the keeper drops the server, which kills it.
        self.keeper.abort();
    }
}

/// Restarts the server until told to stop.
async fn keep(mut server: Server, folder: PathBuf, back: Arc<Notify>, mut stop: oneshot::Receiver<()>) {
    let mut failures = 0;
    let mut watch = StoreWatch::new(server.log_file());
    loop {
        // An exit that loses against the order to stop is what the order wants.
        let why = tokio::select! {
            exited = server.exited() => {
                let how = exited.map_or_else(|error| error.to_string(), |status| status.to_string());
                format!("nats-server ended ({how})")
            }
            words = watch.failed() => match room(&mut server, &folder, &words, &mut stop).await {
                Some(why) => why,
                None => return finish(server).await,
            },
            _ = &mut stop => return finish(server).await,
        };
        output::say(format!("{why}; starting it again on port {}", server.port()));
        loop {
            failures += 1;
            let wait = RESTART.delay(failures, rand::random());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = &mut stop => return finish(server).await,
            }
            match server.restart().await {
                Ok(()) => {
                    output::say(format!("nats-server is back: {}", server.url()));
                    failures = 0;
                    watch = StoreWatch::new(server.log_file());
                    back.notify_one();
                    break;
                }
                Err(error) => output::say(format!("nats-server does not start, trying on: {error}")),
            }
        }
    }
}

/// Waits for room on the disk: until then the server is left alone, for it still hands out what it has. `None` when told to stop.
async fn room(server: &mut Server, folder: &Path, words: &str, stop: &mut oneshot::Receiver<()>) -> Option<String> {
    output::say(format!("nats-server cannot store events: {words}"));
    let mut told = false;
    loop {
        // What cannot be asked is not waited for.
        let free = free(folder).unwrap_or(u64::MAX);
        if free >= ROOM_MIN {
            return Some("nats-server stores nothing until it is restarted".to_owned());
        }
        if !told {
            let (free, wanted) = (size::human(free), size::human(ROOM_MIN));
            output::say(format!(
                "{free} are free on the disk of `{}`; it goes on when there are {wanted}",
                folder.display()
            ));
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(ROOM_TICK) => {}
            _ = server.exited() => return Some("nats-server ended".to_owned()),
            _ = &mut *stop => return None,
        }
    }
}

async fn finish(server: Server) {
    if let Err(error) = server.stop(STOP_GRACE).await {
        output::say(format!("cannot stop nats-server: {error}"));
    }
}

/// Bytes for all streams together: 80 % of what is free or already theirs, at most 2 GiB.
fn quota(folder: &Path, store: &Path) -> anyhow::Result<u64> {
    // All that is stored lies below it.
    state::create_private(folder)?;
    let free = free(folder).with_context(|| format!("cannot read the free space of `{}`", folder.display()))?;
    let quota = share(free, used(store));
    if quota < QUOTA_MIN {
        let message = format!(
            "only {} are free on the disk of `{}`; the bus needs {} for its streams: make room, or name a state folder on another disk with --dir",
            size::human(free),
            folder.display(),
            size::human(QUOTA_MIN * 100 / 80),
        );
        return Err(fault(Code::CapacityExceeded, message));
    }
    Ok(quota)
}

/// What is free for us on the disk of `folder`, in bytes.
fn free(folder: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn share(free: u64, used: u64) -> u64 {
    let quota = (free.saturating_add(used) / 100 * 80).min(QUOTA_MAX);
    quota - quota % QUOTA_STEP
}

/// What the files below a folder take.
fn used(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => used(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_leaves_room_on_the_disk_and_does_not_wobble() {
        assert_eq!(share(100 << 30, 0), QUOTA_MAX);
        assert_eq!(share(200 << 20, 0), 160 << 20);
        assert_eq!(share(100 << 20, 100 << 20), 160 << 20, "what the streams hold already is theirs");
        assert_eq!(share(201 << 20, 0), share(200 << 20, 0));
        assert!(share(19 << 20, 0) < QUOTA_MIN);
    }
}
