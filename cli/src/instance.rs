//! Which bus a command talks to: finds the running instance and its doors.
//!
//! `up` writes `instance.json` into its state folder; it counts only while `up` holds the folder's lock, so a file left by a killed one
//! misleads nobody. Order for the sidecar: `--dir`; `AGENTBUS_URL` with `AGENTBUS_TOKEN` (an agent that runs the CLI speaks as itself);
//! the current project's state folder. The control plane is found by folder only.
//!
//! What is found in the folder is the person's. Inside an agent it is refused ([`for_person`]): a courtesy, so that no agent acts as
//! somebody else by mistake, and no wall. An agent of the same user can read the folder all the same.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentbus_nats::identity::Layout;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::state::{self, InstanceLock};
use serde::{Deserialize, Serialize};

use crate::client::{self, Client};
use crate::control::Api;
use crate::exit::fault;

/// How long a sidecar may be away before it counts as gone.
const RESTART_MAX: Duration = Duration::from_secs(3);
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Addresses change when a bus is started again.
const STALE: &str =
    "; AGENTBUS_URL says so: if the bus was started again since, run `eval \"$(agentbus env)\"` once more";

/// Set in the environment of every agent: which one it is.
const INSTANCE: &str = "AGENTBUS_INSTANCE";

/// Name of the project file.
pub const PROJECT_FILE: &str = "agentbus.yaml";

/// Options of every command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Global {
    /// State folder of the bus [default: the one of the current project]
    #[arg(long, global = true, env = "AGENTBUS_DIR", value_name = "FOLDER", help_heading = "Global options")]
    pub dir: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// A running `up`, as it wrote itself down. Holds secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// Process id of `up`.
    pub pid: u32,
    /// When that process started, in the kernel's own count, so that a reused process id is noticed. Linux only.
    #[serde(default)]
    pub start_ticks: Option<u64>,
    /// Version of agentbus.
    pub version: String,
    /// When it was ready, RFC 3339.
    pub started: String,
    /// Namespace.
    pub namespace: String,
    /// Folder of the project.
    pub project: PathBuf,
    /// The broker.
    pub broker: Broker,
    /// The control plane's API.
    pub control: Door,
    /// The sidecar of `me`, the person.
    pub me: Door,
}

/// The broker as a plain NATS client sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Broker {
    /// `nats://host:port`
    pub url: String,
    /// Version of the server.
    pub version: String,
    /// The program.
    pub program: PathBuf,
    /// Credentials of the person.
    pub creds: PathBuf,
    /// State folder with its keys, where it is another bus that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    /// How the namespace lies on it.
    #[serde(default)]
    pub layout: Layout,
}

impl Broker {
    /// There is none: the bus is inside `up`.
    pub fn in_memory(&self) -> bool {
        self.url == agentbus_nats::bus::memory::URL
    }
}

/// An HTTP API and the token for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Door {
    /// Base URL.
    pub url: String,
    /// Bearer token: secret.
    pub token: String,
}

/// The file in the state folder.
pub fn file(state: &Path) -> PathBuf {
    state.join("instance.json")
}

/// The folder of the project that `from` lies in: the nearest with an agentbus.yaml, else the nearest with a `.git`, else `from`.
pub fn project_dir(from: &Path) -> PathBuf {
    let with = |name: &str| from.ancestors().find(|folder| folder.join(name).exists());
    with(PROJECT_FILE).or_else(|| with(".git")).unwrap_or(from).to_owned()
}

fn in_project(from: &Path) -> bool {
    from.ancestors().any(|folder| folder.join(PROJECT_FILE).exists())
}

/// The current folder.
pub fn current_dir() -> anyhow::Result<PathBuf> {
    std::env::current_dir().map_err(|error| fault(Code::BadConfig, format!("the current folder is gone: {error}")))
}

/// The state folder that `--dir` or the current project names. Makes nothing; one that could be somebody else's is refused.
pub fn state_dir(global: &Global) -> anyhow::Result<PathBuf> {
    let state = match &global.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => default_state(&project_dir(&current_dir()?))?,
    };
    state::check(&state)?;
    Ok(state)
}

/// The state folder of a project.
pub fn default_state(project: &Path) -> anyhow::Result<PathBuf> {
    state::default_dir(project).map_err(|error| fault(Code::BadConfig, error.to_string()))
}

/// The instance that holds `state`, or why there is none to talk to.
pub fn running(state: &Path) -> Result<Instance, Fault> {
    let Some(holder) = InstanceLock::holder(state) else {
        let message = format!(
            "no bus is running in `{}`; start one with `agentbus up -d`, or name another state folder with --dir",
            state.display()
        );
        return Err(Fault::new(Code::ControlPlaneDown, message));
    };
    let starting = || {
        let message = format!(
            "the bus in `{}` (process {holder}) is still starting or already stopping; try again",
            state.display()
        );
        Fault::new(Code::ControlPlaneDown, message)
    };
    let text = std::fs::read(file(state)).map_err(|_| starting())?;
    let instance: Instance = serde_json::from_slice(&text).map_err(|error| {
        let message =
            format!("`{}` cannot be read: {error}; stop process {holder} and start again", file(state).display());
        Fault::new(Code::BadConfig, message)
    })?;
    // Left by an earlier run that was killed.
    if instance.pid.to_string() == holder { Ok(instance) } else { Err(starting()) }
}

/// When a process started, in clock ticks since boot. `None` where the system does not tell.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, spaces and parentheses too.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Refuses what acts as the person when it is called inside an agent.
pub fn for_person() -> Result<(), Fault> {
    for_person_in(&|key| std::env::var(key).ok())
}

fn for_person_in(env: &dyn Fn(&str) -> Option<String>) -> Result<(), Fault> {
    let Some(instance) = env(INSTANCE).filter(|value| !value.is_empty()) else { return Ok(()) };
    let why = format!(
        "this acts as the person who runs the bus, and here it is called inside the agent `{instance}` ({INSTANCE} is set); an agent acts \
         as itself, through its own sidecar (AGENTBUS_URL and AGENTBUS_TOKEN are set, no --dir): publish, ask, subscribe, receive, \
         replay to itself, schedules, events show, trace"
    );
    Err(Fault::new(Code::ScopeDenied, why))
}

impl Global {
    /// The running instance of `--dir` or the current project, with what it takes to act as the person.
    pub fn instance(&self) -> anyhow::Result<Instance> {
        for_person()?;
        let state = state_dir(self)?;
        if self.dir.is_none() && InstanceLock::holder(&state).is_none() && !in_project(&current_dir()?) {
            let why = format!(
                "no bus is running in `{}`, and no agentbus.yaml is in this folder or above it; go to the folder of your \
                 project, start a bus here with `agentbus up -d`, or name its state folder with --dir",
                state.display()
            );
            return Err(Fault::new(Code::ControlPlaneDown, why).into());
        }
        Ok(running(&state)?)
    }

    /// The control plane's API.
    pub fn control(&self) -> anyhow::Result<Api> {
        Ok(self.instance()?.control())
    }

    /// Who tells about events: the sidecar that the environment names, because an agent asks as itself; else the control
    /// plane.
    pub fn teller(&self) -> anyhow::Result<Api> {
        match self.door_from_env() {
            Some(door) => Ok(Api::sidecar(&door.url, &door.token)),
            None => self.control(),
        }
    }

    /// The sidecar to publish and subscribe through.
    pub fn door(&self) -> anyhow::Result<Door> {
        match self.door_from_env() {
            Some(door) => Ok(door),
            None => Ok(self.instance()?.me),
        }
    }

    fn door_from_env(&self) -> Option<Door> {
        let named = self.dir.is_some();
        door_from(&|key| std::env::var(key).ok()).filter(|_| !named)
    }

    /// A gRPC client of that sidecar. One that is just being restarted gets 3 s to be back.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let began = Instant::now();
        loop {
            let door = self.door()?;
            match client::connect(&door.url, &door.token).await {
                Err(fault) if fault.code == Code::BrokerDown && began.elapsed() < RESTART_MAX => {
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
                Err(mut fault) if fault.code == Code::BrokerDown && self.door_from_env().is_some() => {
                    fault.message.push_str(STALE);
                    return Err(fault.into());
                }
                connected => return Ok(connected?),
            }
        }
    }
}

impl Instance {
    /// The control plane's API.
    pub fn control(&self) -> Api {
        Api::new("the control plane", &self.control.url, &self.control.token)
    }
}

fn door_from(env: &dyn Fn(&str) -> Option<String>) -> Option<Door> {
    let get = |key: &str| env(key).filter(|value| !value.is_empty());
    Some(Door { url: get("AGENTBUS_URL")?, token: get("AGENTBUS_TOKEN")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_where_its_file_is_else_where_git_is() {
        let folder = tempfile::tempdir().unwrap();
        let (root, deep) = (folder.path().join("a"), folder.path().join("a/b/c"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir(deep.parent().unwrap().join(".git")).unwrap();
        assert_eq!(project_dir(&deep), deep.parent().unwrap());
        std::fs::write(root.join(PROJECT_FILE), "").unwrap();
        assert_eq!(project_dir(&deep), root, "the file wins over a nearer .git");
    }

    #[test]
    fn nobody_there_says_how_to_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(file(folder.path()), "{}").unwrap();
        let fault = running(folder.path()).unwrap_err();
        assert_eq!(fault.code, Code::ControlPlaneDown);
        assert!(fault.message.contains("agentbus up -d"), "{fault}");
    }

    #[test]
    fn the_environment_counts_only_as_a_pair() {
        let door = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            door_from(&move |key| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())).is_some()
        };
        assert!(door(&[("AGENTBUS_URL", "http://h"), ("AGENTBUS_TOKEN", "t")]));
        assert!(!door(&[("AGENTBUS_URL", "http://h")]));
        assert!(!door(&[("AGENTBUS_URL", "http://h"), ("AGENTBUS_TOKEN", "")]));
    }

    #[test]
    fn inside_an_agent_nobody_is_the_person() {
        let inside = |value: Option<&str>| for_person_in(&|key| value.filter(|_| key == INSTANCE).map(str::to_owned));
        assert_eq!((inside(None), inside(Some(""))), (Ok(()), Ok(())));
        let fault = inside(Some("check-2")).unwrap_err();
        assert_eq!((fault.code, fault.code.exit()), (Code::ScopeDenied, 77));
        assert!(fault.message.contains("`check-2`") && fault.message.contains("AGENTBUS_TOKEN"), "{fault}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_knows_when_it_started() {
        assert!(start_ticks(std::process::id()).is_some());
        assert_eq!(start_ticks(u32::MAX), None);
    }
}
