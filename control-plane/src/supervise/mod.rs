//! Keeps what the project declares running on this machine: for each instance a sidecar and, beside it, its agent.
//!
//! `unit` decides (pure), `instance` is the actor around it, `sidecar` and `agent` hold one process each, `board` shows
//! the states. Every child goes through the launcher stage and dies with this process. Stopping: each agent is asked to
//! end, then its sidecar drains; whatever has not ended within the grace is killed.

mod agent;
mod board;
mod child;
mod host;
mod instance;
mod sidecar;
#[cfg(test)]
mod tests;
mod unit;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_nats::moves;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::drain::Shutdown;
use agentbus_runtime::logs::LogFile;
use agentbus_runtime::ready::Readiness;
use agentbus_runtime::state;
use agentbus_runtime::tasks::{OnFailure, Tasks};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::grants::Grants;
use crate::groups::PERSON;
use crate::spec::{AgentSpec, Project};
use crate::status::InstanceStatus;

pub use host::{Host, Hosted, Local};

use child::Place;
use instance::{Instance, Setting};

/// After SIGTERM: more than our exec runner takes, short enough for a person who waits.
const AGENT_GRACE: Duration = Duration::from_secs(7);
/// Killing takes milliseconds; this is for the last words to be written.
const KILL_MAX: Duration = Duration::from_secs(3);

/// What is supervised, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// What runs.
    pub project: Project,
    /// Adds the sidecar-only instance `me`.
    pub person: bool,
    /// Working folder of agents.
    pub project_dir: PathBuf,
    /// Logs and sockets go below it.
    pub state_dir: PathBuf,
    /// The `agentbus` program.
    pub executable: PathBuf,
    /// OTLP collector for the sidecars.
    pub otlp: Option<String>,
    /// How long a sidecar may take to drain.
    pub drain: Duration,
    /// Runs the sidecars in this process; none = each is a process of its own.
    pub host: Option<Arc<dyn Host>>,
}

/// Where a person's own sidecar is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Base URL of the agent API.
    pub url: String,
    /// Bearer token.
    pub token: String,
}

/// The running supervisor.
pub struct Supervisor {
    instances: watch::Receiver<Vec<InstanceStatus>>,
    readiness: Readiness,
    shutdown: Shutdown,
    kill: CancellationToken,
    /// Of the instance `me`, if there is one.
    person_token: String,
}

impl Supervisor {
    /// Starts everything; returns when the first processes are on their way. Fails only when logs cannot be written.
    pub fn start(options: Options, grants: Arc<Grants>, audit: Audit) -> Result<Self, Fault> {
        let logs = options.state_dir.join("logs");
        for folder in [&logs, &options.state_dir.join("run")] {
            state::create_private(folder).map_err(|error| Fault::new(Code::BadConfig, agent::with_source(&error)))?;
        }
        let kill = CancellationToken::new();
        let place = place(&options, kill.clone());
        let cast = cast(&options.project, options.person);
        let (instances, lines) = board::board(cast.iter().map(Role::status).collect());
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let person_token = token();
        let mut settings = Vec::with_capacity(cast.len());
        for (role, line) in cast.into_iter().zip(lines) {
            settings.push(Setting {
                namespace: options.project.namespace.clone(),
                token: if role.spec.is_none() { person_token.clone() } else { token() },
                place: place.clone(),
                grants: Arc::clone(&grants),
                audit: audit.clone(),
                line,
                latch: readiness.latch(&role.instance),
                agent_log: log(&logs, &role.instance)?,
                sidecar_log: log(&logs, &format!("{}.sidecar", role.instance))?,
                tracker: shutdown.tracker().clone(),
                agent: role.agent,
                instance: role.instance,
                spec: role.spec,
            });
        }
        let tasks = Tasks::new(shutdown.clone());
        for setting in settings {
            tasks.spawn("instance", OnFailure::Log, Instance::new(setting).run(shutdown.token()));
        }
        Ok(Self { instances, readiness, shutdown, kill, person_token })
    }

    /// The states of all instances, to watch.
    pub fn instances(&self) -> watch::Receiver<Vec<InstanceStatus>> {
        self.instances.clone()
    }

    /// Waits until every sidecar serves and every agent runs. Otherwise says who does not, and why.
    pub async fn all_ready(&self, within: Duration) -> Result<(), Fault> {
        if tokio::time::timeout(within, self.readiness.wait()).await.is_ok() {
            return Ok(());
        }
        let waiting = self.readiness.snapshot().into_iter().filter_map(|(name, ready)| Some((name, ready.err()?)));
        let list: Vec<String> = waiting.map(|(name, why)| format!("`{name}`: {why}")).collect();
        let message = format!("not ready after {} s: {}", within.as_secs(), list.join("; "));
        Err(Fault::new(Code::ControlPlaneDown, message))
    }

    /// The person's sidecar, once it has been ready.
    pub fn person(&self) -> Option<Door> {
        let instances = self.instances.borrow();
        let url = instances.iter().find(|status| status.instance == PERSON)?.url.clone()?;
        Some(Door { url, token: self.person_token.clone() })
    }

    /// Ends everything: agents first, then their sidecars; after `grace` what is left is killed.
    pub async fn stop(&self, grace: Duration) {
        if self.shutdown.drain(grace).await.is_ok() {
            return;
        }
        tracing::warn!(?grace, "not everything ended in time; killing the rest");
        self.kill.cancel();
        if self.shutdown.drain(KILL_MAX).await.is_err() {
            tracing::error!("some processes could not be killed");
        }
    }
}

impl Drop for Supervisor {
    /// Without [`Supervisor::stop`] nobody waits for anything: what runs is killed.
    fn drop(&mut self) {
        self.shutdown.begin();
        self.kill.cancel();
    }
}

fn place(options: &Options, kill: CancellationToken) -> Place {
    Place {
        executable: options.executable.clone(),
        project_dir: options.project_dir.clone(),
        state_dir: options.state_dir.clone(),
        otlp: options.otlp.clone(),
        env: child::own_env(),
        agent_grace: AGENT_GRACE,
        drain: options.drain,
        host: options.host.clone(),
        kill,
    }
}

/// Who is to run.
struct Role {
    agent: String,
    instance: String,
    spec: Option<AgentSpec>,
}

impl Role {
    fn status(&self) -> InstanceStatus {
        let runner = self.spec.as_ref().map_or("sidecar", |spec| spec.runner.as_str());
        InstanceStatus {
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            runner: runner.to_owned(),
            since: moves::rfc3339(SystemTime::now()),
            ..InstanceStatus::default()
        }
    }
}

fn cast(project: &Project, person: bool) -> Vec<Role> {
    let declared = project.agents.iter().flat_map(|spec| {
        let role = |instance| Role { agent: spec.name.clone(), instance, spec: Some(spec.clone()) };
        spec.instances().into_iter().map(role)
    });
    let me = person.then(|| Role { agent: PERSON.to_owned(), instance: PERSON.to_owned(), spec: None });
    declared.chain(me).collect()
}

/// 256 random bits: an agent's secret.
fn token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn log(folder: &Path, name: &str) -> Result<LogFile, Fault> {
    let path = folder.join(format!("{name}.log"));
    LogFile::open(&path)
        .map_err(|error| Fault::new(Code::BadConfig, format!("cannot write log `{}`: {error}", path.display())))
}
