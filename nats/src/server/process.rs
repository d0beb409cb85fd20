//! One nats-server process of ours: start, kill, restart on the same port and store, stop.
//!
//! Promises: when `start` returns, clients can connect; when it fails, no process is left and the error quotes the server's last words. The server
//! runs in its own process group (Ctrl-C in a terminal reaches us, not it: it must outlive our own drain) and is killed when [`Server`] is
//! dropped. That it also dies with a killed parent is the launcher's work: see [`Server::start`].
//! It does not restart by itself: await [`Server::exited`], wait a little, call [`Server::restart`].

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::config::ConfigOptions;
use super::files::{Files, log_file};
use super::ready::{self, Ports};

/// A start is a tenth of a second; recovering a store of many gigabytes after a kill is what takes long.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder for configuration and logs cannot be written.
    #[error("cannot write to the server's folder `{path}`")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder for the streams cannot be written.
    #[error("cannot write to the store folder `{path}`: choose another state folder, or make this one writable")]
    Store {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path that a server configuration cannot hold.
    #[error("the path `{path}` is not UTF-8; nats-server needs one that is")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The program could not be run.
    #[error("cannot run `{program}`")]
    Spawn {
        /// The launcher, or nats-server itself.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens on the wanted port.
    #[error("port {port} on {host} is taken by another process: stop that one, or choose another port")]
    PortTaken {
        /// The address that was asked for.
        host: String,
        /// The port that was asked for.
        port: u16,
    },
    /// The process ended before it was ready.
    #[error("nats-server ended at once ({status}); it said:\n{said}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        said: String,
    },
    /// The process lives but does not serve.
    #[error("nats-server was not ready within {} s and was killed; it said:\n{said}", READY_LIMIT.as_secs())]
    NotReady {
        /// Its last lines.
        said: String,
    },
    /// The process could not be awaited or signalled.
    #[error("cannot control the nats-server process")]
    Control(#[source] io::Error),
}

/// A running (or just killed) nats-server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    launcher: Vec<OsString>,
    dir: PathBuf,
    config: ConfigOptions,
    ports: Ports,
    child: Child,
}

impl Server {
    /// Starts `program` with its configuration, log (`nats-server.log`, rotated) and ports file in `dir`, and waits until it serves.
    ///
    /// `launcher` goes before the program on the command line (`[agentbus, launch, --]`); it must end in an exec, so that the process id
    /// stays. If it arranges for death with the parent, note that Linux means the parent *thread*: call this from a thread that lives as long
    /// as the server should (a `current_thread` runtime's, not `spawn_blocking`).
    pub async fn start(
        program: &Path,
        dir: &Path,
        config: ConfigOptions,
        launcher: Option<Vec<OsString>>,
    ) -> Result<Self, StartError> {
        let (program, launcher, dir) = (absolute(program)?, launcher.unwrap_or_default(), absolute(dir)?);
        let config = ConfigOptions { store_dir: absolute(&config.store_dir)?, ..config };
        let (child, ports) = launch(&program, &launcher, &dir, &config).await?;
        Ok(Server { program, launcher, dir, config, ports, child })
    }

    /// Starts it again on the same port and store, after killing it if it still runs. Fails like [`Server::start`]; may be called again.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.kill9().await?;
        let http_port = self.config.http_port.map(|wanted| self.ports.http.unwrap_or(wanted));
        let config = ConfigOptions { port: Some(self.ports.client), http_port, ..self.config.clone() };
        (self.child, self.ports) = launch(&self.program, &self.launcher, &self.dir, &config).await?;
        Ok(())
    }

    /// Where clients connect: `nats://127.0.0.1:4222`.
    pub fn url(&self) -> String {
        format!("nats://{}:{}", in_url(reachable(&self.config.listen_host)), self.ports.client)
    }

    /// The client port.
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    /// The monitoring port, when one was asked for.
    pub fn http_port(&self) -> Option<u16> {
        self.ports.http
    }

    /// Process id; `None` once its end has been seen.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The server's log file. Older ones, after rotation, lie beside it.
    pub fn log_file(&self) -> PathBuf {
        log_file(&self.dir)
    }

    /// Ends when the process has ended, for whatever reason. Safe to cancel.
    pub async fn exited(&mut self) -> Result<ExitStatus, StartError> {
        self.child.wait().await.map_err(StartError::Control)
    }

    /// Kills it with SIGKILL and waits for the end. Fine on one that has ended.
    pub async fn kill9(&mut self) -> Result<(), StartError> {
        if self.child.try_wait().map_err(StartError::Control)?.is_none() {
            self.child.kill().await.map_err(StartError::Control)?;
        }
        Ok(())
    }

    /// Asks it to stop (SIGTERM), waits up to `grace`, then kills it.
    pub async fn stop(mut self, grace: Duration) -> Result<(), StartError> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // It may end on its own just now; then there is nobody to signal and the wait below returns at once.
            let _ = kill_process(pid, Signal::TERM);
            let _ = tokio::time::timeout(grace, self.child.wait()).await;
        }
        self.kill9().await
    }
}

/// A loopback port nobody listens on at this moment. Somebody may take it before you do: prefer `port: None` where you can.
pub fn free_port() -> io::Result<u16> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr().map(|address| address.port())
}

async fn launch(
    program: &Path,
    launcher: &[OsString],
    dir: &Path,
    config: &ConfigOptions,
) -> Result<(Child, Ports), StartError> {
    check_port(config).await?;
    let files = Files::prepare(dir, config)?;
    let mut child = spawn(program, launcher, &files)?;
    // The first to happen wins; a dropped `ready` has nothing to lose.
    let early = tokio::select! {
        ports = ready::ready(&files.ports, reachable(&config.listen_host)) => return Ok((child, ports)),
        status = child.wait() => Some(status.map_err(StartError::Control)?),
        () = tokio::time::sleep(READY_LIMIT) => None,
    };
    let said = files.last_words();
    match early {
        Some(_) if said.contains("address already in use") && config.port.is_some() => Err(taken(config)),
        Some(status) => Err(StartError::Exited { status, said }),
        None => {
            child.kill().await.map_err(StartError::Control)?;
            Err(StartError::NotReady { said })
        }
    }
}

/// A fixed port that is taken is said plainly, before a process is started; the server's own refusal is understood as well.
async fn check_port(config: &ConfigOptions) -> Result<(), StartError> {
    let Some(port) = config.port else { return Ok(()) };
    match tokio::net::TcpListener::bind((config.listen_host.as_str(), port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(taken(config)),
        _ => Ok(()),
    }
}

fn taken(config: &ConfigOptions) -> StartError {
    StartError::PortTaken { host: config.listen_host.clone(), port: config.port.unwrap_or_default() }
}

fn spawn(program: &Path, launcher: &[OsString], files: &Files) -> Result<Child, StartError> {
    let mut argv = launcher.iter().cloned().chain([program.into()]);
    let first = argv.next().unwrap_or_default();
    let console = files.open_console()?;
    let stdout = console.try_clone().map_err(StartError::Control)?;
    let mut command = Command::new(&first);
    command.args(argv).arg("-c").arg(&files.config).arg("--ports_file_dir").arg(&files.ports);
    // The rest of our environment is none of its business, and what has the same user may read it there.
    command.env_clear().envs(std::env::vars_os().filter(|(key, _)| key.to_str().is_some_and(is_for_server)));
    command.stdin(Stdio::null()).stdout(stdout).stderr(console).process_group(0).kill_on_drop(true);
    command.spawn().map_err(|source| StartError::Spawn { program: first.into(), source })
}

/// What a program needs to run at all, and what tunes Go's runtime.
fn is_for_server(key: &str) -> bool {
    matches!(key, "PATH" | "HOME" | "TMPDIR" | "TZ" | "GOMAXPROCS" | "GOMEMLIMIT" | "GOGC" | "GODEBUG" | "GOTRACEBACK")
}

fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    if path.to_str().is_none() {
        return Err(StartError::Path { path: path.to_owned() });
    }
    std::path::absolute(path).map_err(|source| StartError::Folder { path: path.to_owned(), source })
}

/// Where a local client reaches a server that listens on `host`.
fn reachable(host: &str) -> &str {
    match host {
        "0.0.0.0" | "" => "127.0.0.1",
        "::" => "::1",
        other => other,
    }
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
