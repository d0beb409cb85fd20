//! A whole agentbus of its own: a home, a project folder with git, and the real `agentbus up` in it.
//!
//! Everything that is started here inherits `HOME` (and `XDG_STATE_HOME`) below the installation's own temporary folder. That is how its
//! processes are known, however deep they are: [`Installation::processes`] lists them, and what is left at the end is killed, by
//! process id. Nothing of the person's own state, configuration or bus is touched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agentbus::instance::{self, Instance};
use agentbus_nats::server;
use agentbus_runtime::state::InstanceLock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::http::HttpAgent;
use crate::wait::{until, until_within};

/// Longest time of one command; those that wait for something are told so.
const COMMAND_MAX: Duration = Duration::from_secs(90);

/// The variables of the caller that a command may see: no proxy, no `AGENTBUS_…`, no credentials.
const PASSED: [&str; 3] = ["PATH", "LANG", "TMPDIR"];

/// A home with a project. What runs in it ends with it.
pub struct Installation {
    /// The project folder: a git repository, empty at first.
    pub project: PathBuf,
    home: TempDir,
    nats_server: PathBuf,
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it talked.
    pub stderr: String,
}

/// One process of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command line, spaces between the words.
    pub command: String,
}

/// A running `agentbus up`.
pub struct Up {
    /// What it wrote down when it was ready.
    pub instance: Instance,
    /// Its state folder.
    pub state: PathBuf,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

/// The nats-server that all installations of a test run use; found or obtained once.
pub async fn nats_server() -> PathBuf {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    let find = || async {
        let options = server::Options::from_env(None);
        server::find_or_obtain(&options, &|line: &str| eprintln!("{line}")).await.expect("a nats-server").path
    };
    FOUND.get_or_init(find).await.clone()
}

impl Installation {
    /// An empty one.
    pub async fn new() -> Self {
        let home = tempfile::Builder::new().prefix("agentbus-home-").tempdir().expect("temporary folder");
        let project = home.path().join("project");
        std::fs::create_dir(&project).expect("made");
        let new = Self { project, home, nats_server: nats_server().await };
        new.git(&["init", "-q"]).await;
        new
    }

    /// The folder that holds everything.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.project.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    /// Runs git in the project and expects success.
    pub async fn git(&self, args: &[&str]) -> String {
        let mut command = self.plain("git");
        command
            .args(["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.autocrlf=false"])
            .args(args);
        let said = finish(command, None).await;
        assert_eq!(said.code, 0, "git {args:?}: {}", said.stderr);
        said.stdout
    }

    /// Commits all there is.
    pub async fn commit(&self) {
        self.git(&["add", "-A"]).await;
        self.git(&["commit", "-qm", "files"]).await;
    }

    /// A program in the project folder, with this home.
    pub fn plain(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.project).env_clear();
        command.envs(PASSED.iter().filter_map(|key| Some((*key, std::env::var_os(key)?))));
        command.env("HOME", self.home()).env("XDG_STATE_HOME", self.home().join("state"));
        command.env("XDG_CACHE_HOME", self.home().join("cache")).env("AGENTBUS_NATS_SERVER", &self.nats_server);
        command.kill_on_drop(true);
        command
    }

    /// `agentbus` with these arguments, not started.
    pub fn agentbus(&self, args: &[&str]) -> Command {
        let mut command = self.plain(crate::binary::agentbus());
        command.args(args);
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, args: &[&str]) -> Said {
        finish(self.agentbus(args), None).await
    }

    /// The same with something on stdin.
    pub async fn run_with(&self, args: &[&str], stdin: &[u8]) -> Said {
        finish(self.agentbus(args), Some(stdin)).await
    }

    /// Runs it with `--json`, expects success, and reads what it printed.
    pub async fn json(&self, args: &[&str]) -> Value {
        let said = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(said.code, 0, "{args:?}: {}", said.stderr);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{args:?}: {error} in {}", said.stdout))
    }

    /// Starts `agentbus up` with these arguments and waits until it is ready.
    pub async fn up(&self, args: &[&str]) -> Up {
        let child = self.start_up(args);
        self.ready(child, None).await
    }

    /// The same with a state folder of its own.
    pub async fn up_in(&self, state: &Path, args: &[&str]) -> Up {
        let child = self.start_up(&[&["--dir", state.to_str().expect("UTF-8")], args].concat());
        self.ready(child, Some(state)).await
    }

    /// Starts `agentbus up` and does not wait.
    pub fn start_up(&self, args: &[&str]) -> Child {
        let (out, err) = self.outputs();
        let mut command = self.agentbus(&[&["up"], args].concat());
        command.stdin(Stdio::null()).stdout(File::create(out).expect("written"));
        command.stderr(File::create(err).expect("written")).spawn().expect("up starts")
    }

    fn outputs(&self) -> (PathBuf, PathBuf) {
        (self.home().join("up.out"), self.home().join("up.err"))
    }

    /// The state folder of the project.
    pub fn state(&self) -> PathBuf {
        let folders = std::fs::read_dir(self.home().join("state/agentbus")).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
        assert!(folders.len() <= 1, "one project, one state folder: {folders:?}");
        folders.pop().unwrap_or_else(|| self.home().join("state/agentbus/none"))
    }

    async fn ready(&self, mut child: Child, place: Option<&Path>) -> Up {
        let (out, err) = self.outputs();
        let pid = child.id();
        let end = std::time::Instant::now() + COMMAND_MAX;
        loop {
            let state = place.map_or_else(|| self.state(), Path::to_owned);
            match instance::running(&state) {
                Ok(instance) if Some(instance.pid) == pid => return Up { instance, state, child, out, err },
                other => {
                    let ended = child.try_wait().expect("watched");
                    let said = || std::fs::read_to_string(&err).unwrap_or_default();
                    assert!(ended.is_none(), "up ended, {ended:?}: {}", said());
                    assert!(std::time::Instant::now() < end, "up is not ready: {:?}: {}", other.err(), said());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What runs now and belongs to this installation.
    pub fn processes(&self) -> Vec<Process> {
        processes_of(self.home())
    }

    /// The one whose command line contains this.
    pub fn process(&self, part: &str) -> Process {
        let mut found: Vec<Process> = self.processes().into_iter().filter(|one| one.command.contains(part)).collect();
        assert_eq!(found.len(), 1, "one process with `{part}`: {found:?} of {:?}", self.processes());
        found.remove(0)
    }

    /// Process id of its nats-server.
    pub fn broker_pid(&self) -> u32 {
        self.process("--ports_file_dir").pid
    }

    /// Waits until nothing runs any more.
    pub async fn nothing_runs(&self) {
        until("quiet installation", || async {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // Twice: what was just being started is there on the second look. All of it is ours by its home.
        for _ in 0..2 {
            for process in self.processes() {
                kill9(process.pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Up {
    /// The person's sidecar.
    pub fn me(&self) -> HttpAgent {
        let address = self.instance.me.url.trim_start_matches("http://").to_owned();
        HttpAgent { address, token: self.instance.me.token.clone() }
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it talked so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// `GET` of the control plane's API.
    pub async fn api<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        self.instance.control().get(path).await.unwrap_or_else(|error| panic!("{path}: {error}: {}", self.stderr()))
    }

    /// One instance as `agents list --json` shows it.
    pub async fn agent(&self, instance: &str) -> Value {
        let agents: Value = self.api("/v1/agents").await;
        let agents = agents["agents"].as_array().cloned().unwrap_or_default();
        agents.into_iter().find(|agent| agent["instance"] == instance).unwrap_or_else(|| panic!("no {instance}"))
    }

    /// Waits until an instance is like this; returns it.
    pub async fn agent_until(&self, instance: &str, like: impl Fn(&Value) -> bool) -> Value {
        until_within(&format!("{instance} like that"), COMMAND_MAX, || async {
            let agent = self.agent(instance).await;
            if like(&agent) { Ok(agent) } else { Err(agent) }
        })
        .await
    }

    /// Waits until every agent runs.
    pub async fn all_running(&self) {
        until("running agents", || async {
            let agents: Value = self.api("/v1/agents").await;
            let all = agents["agents"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "running"));
            if all { Ok(()) } else { Err(agents) }
        })
        .await;
    }

    /// Asks it to stop (SIGTERM) and waits for its end; returns its exit code.
    pub async fn stop(mut self) -> i32 {
        signal(self.instance.pid, Signal::TERM);
        self.ended().await
    }

    /// kill -9 of `up` alone.
    pub async fn kill(mut self) {
        self.child.start_kill().expect("killed");
        self.child.wait().await.expect("reaped");
    }

    /// Waits for its own end; returns its exit code.
    pub async fn ended(&mut self) -> i32 {
        let ended = tokio::time::timeout(COMMAND_MAX, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("up does not end: {}", self.stderr())).expect("waited");
        status.code().unwrap_or(-1)
    }
}

/// Runs a command to its end, within 90 s; it is killed beyond.
pub async fn finish(mut command: Command, stdin: Option<&[u8]>) -> Said {
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("started");
    let pipe = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(bytes)) = (pipe, stdin) {
            // Who does not read to the end says so by its exit code.
            let _ = pipe.write_all(bytes).await;
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(COMMAND_MAX, both).await.expect("ends in time").expect("output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// kill -9, by process id. Fine when it is gone.
pub fn kill9(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal, by process id. Fine when it is gone.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// Processes whose environment, command line or working folder names `folder`; on systems without /proc, their command line.
fn processes_of(folder: &Path) -> Vec<Process> {
    let needle = folder.to_string_lossy().into_owned();
    if !Path::new("/proc/self/environ").exists() {
        return by_ps(&needle);
    }
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    let holders = lock_holders(folder, 3);
    pids.filter_map(|pid| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let text = |name: &str| String::from_utf8_lossy(&read(name)).replace('\0', " ");
        let command = text("cmdline");
        let here = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let ours = command.contains(&needle)
            || here.starts_with(folder)
            || text("environ").contains(&needle)
            || ancestors(pid).any(|pid| holders.contains(&pid));
        // A zombie has neither, and is nobody's business but its parent's.
        ours.then(|| Process { pid, command: command.trim().to_owned() })
    })
    .collect()
}

/// `up` and sidecars let only root look at their environment; whoever is not is told by the lock that `up` holds, and who is below it.
fn lock_holders(folder: &Path, levels: u32) -> Vec<u32> {
    if levels == 0 || rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    let holder = |folder: &Path| InstanceLock::holder(folder).and_then(|pid| pid.parse().ok());
    folders.flat_map(|folder| holder(&folder).into_iter().chain(lock_holders(&folder, levels - 1))).collect()
}

/// A process and all above it.
fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    let parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (parent != 0).then_some(parent)
    };
    std::iter::successors(Some(pid), parent)
}

fn by_ps(needle: &str) -> Vec<Process> {
    let output = std::process::Command::new("ps").args(["-axEww", "-o", "pid=,command="]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines = text.lines().filter(|line| line.contains(needle));
    lines
        .filter_map(|line| {
            let (pid, command) = line.trim().split_once(' ')?;
            Some(Process { pid: pid.parse().ok()?, command: command.to_owned() })
        })
        .collect()
}
