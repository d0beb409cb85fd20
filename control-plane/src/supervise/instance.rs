//! One instance at work: feeds its [`Unit`] with what happens and does what that decides.

use std::sync::Arc;
use std::time::Instant;

use agentbus_nats::grant::ToSidecar;
use agentbus_runtime::logs::LogFile;
use agentbus_runtime::ready::Latch;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::board::Line;
use super::child::{Place, Said};
use super::sidecar::{Addresses, Job};
use super::unit::{Command, Event, Unit};
use super::{agent, sidecar};
use crate::audit::Audit;
use crate::grants::Grants;
use crate::spec::AgentSpec;

/// What the two process tasks may have said and not been heard on: a handful at most.
const SAID_MAX: usize = 16;
/// Lines waiting for a sidecar's stdin: a few words about its agent.
const ORDERS_MAX: usize = 16;

/// Everything an instance needs from outside.
pub(super) struct Setting {
    /// Agent name.
    pub agent: String,
    /// Instance name.
    pub instance: String,
    /// What is run beside the sidecar; nothing for the person.
    pub spec: Option<AgentSpec>,
    pub namespace: String,
    /// What the agent must show its sidecar. The same for the life of the instance.
    pub token: String,
    pub place: Place,
    pub grants: Arc<Grants>,
    pub audit: Audit,
    pub line: Line,
    pub latch: Latch,
    pub agent_log: LogFile,
    pub sidecar_log: LogFile,
    /// Counts the process tasks, so that nobody leaves before they have ended.
    pub tracker: TaskTracker,
}

/// The actor.
pub(super) struct Instance {
    setting: Setting,
    unit: Unit,
    said: mpsc::Sender<Said>,
    heard: mpsc::Receiver<Said>,
    /// To the running sidecar.
    orders: Option<mpsc::Sender<ToSidecar>>,
    addresses: Option<Addresses>,
    url: String,
    /// Stops the running agent.
    stop_agent: CancellationToken,
    agent_starts: u64,
    sidecar_starts: u64,
}

impl Instance {
    pub fn new(setting: Setting) -> Self {
        let (said, heard) = mpsc::channel(SAID_MAX);
        let restart = setting.spec.as_ref().map(|spec| spec.restart);
        Self {
            unit: Unit::new(restart, Instant::now()),
            setting,
            said,
            heard,
            orders: None,
            addresses: None,
            url: String::new(),
            stop_agent: CancellationToken::new(),
            agent_starts: 0,
            sidecar_starts: 0,
        }
    }

    /// Runs it until `stop`, and then until everything of it has ended.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            let next_tick = self.unit.next_tick();
            // Cancel-safe: what was said stays in the channel.
            let event = tokio::select! {
                Some(said) = self.heard.recv() => self.take(said).await,
                () = stop.cancelled(), if !self.unit.is_stopping() => Some(Event::Stop),
                () = sleep_until(next_tick) => Some(Event::Tick),
            };
            let Some(event) = event else { continue };
            let commands = self.unit.on(event, Instant::now(), rand::random());
            let finished = commands.contains(&Command::Finish);
            for command in commands {
                self.perform(command);
            }
            self.publish();
            if finished {
                return Ok(());
            }
        }
    }

    /// Notes what was said, and what it means.
    async fn take(&mut self, said: Said) -> Option<Event> {
        let line = self.setting.line.clone();
        match said {
            Said::SidecarStarted { pid } => {
                line.update(|status| status.sidecar_pid = Some(pid));
                None
            }
            Said::SidecarReady { url, admin } => {
                self.addresses = Some(Addresses::from_urls(&url, &admin));
                self.url.clone_from(&url);
                line.update(|status| status.url = Some(url));
                Some(Event::SidecarReady)
            }
            Said::SidecarReport(report) => {
                line.update(|status| status.sidecar = report);
                None
            }
            Said::SidecarExited { cause } => {
                self.orders = None;
                line.update(|status| {
                    status.sidecar_pid = None;
                    // What is in its spool is still there; its breakers went with it.
                    status.sidecar.breakers.clear();
                });
                self.sidecar_ended(&cause);
                Some(Event::SidecarExited)
            }
            Said::AgentStarted { pid } => {
                line.update(|status| status.pid = Some(pid));
                self.record("agent.started.v1", "pid", pid.into());
                Some(Event::AgentStarted)
            }
            Said::AgentExited { success, killed, cause } => {
                self.agent_ended(success, &cause).await;
                Some(Event::AgentExited { success, killed })
            }
        }
    }

    fn sidecar_ended(&self, cause: &str) {
        let instance = self.setting.instance.as_str();
        if self.unit.is_stopping() {
            tracing::debug!(instance, cause, "sidecar ended");
            return;
        }
        tracing::warn!(instance, cause, "sidecar ended, starting it again");
        self.setting.latch.unready(format!("its sidecar ended: {cause}"));
        self.setting.line.update(|status| status.last_exit = Some(format!("sidecar: {cause}")));
    }

    async fn agent_ended(&self, success: bool, cause: &str) {
        let instance = self.setting.instance.as_str();
        let stopping = self.unit.is_stopping();
        if stopping || success {
            tracing::info!(instance, cause, "agent ended");
        } else {
            tracing::warn!(instance, cause, "agent ended");
            self.setting.latch.unready(format!("it ended: {cause}"));
        }
        self.setting.line.update(|status| {
            status.pid = None;
            status.last_exit = Some(cause.to_owned());
        });
        // Exactly one of the two ends every run.
        let fact = if stopping { "agent.terminated.v1" } else { "agent.exited.v1" };
        self.setting.audit.keep(fact, self.about("cause", cause.into())).await;
    }

    fn record(&self, fact: &str, key: &str, value: serde_json::Value) {
        self.setting.audit.record(fact, self.about(key, value));
    }

    fn about(&self, key: &str, value: serde_json::Value) -> serde_json::Value {
        let mut body = json!({"agent": self.setting.agent, "instance": self.setting.instance});
        body[key] = value;
        body
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::StartSidecar => self.start_sidecar(),
            Command::StartAgent => self.start_agent(),
            Command::TellSidecar(life) => self.tell(ToSidecar::Agent(life)),
            Command::StopAgent => self.stop_agent.cancel(),
            // The end of its orders means that to whoever holds it, after what is still queued.
            Command::DrainSidecar => self.orders = None,
            Command::Finish => {}
        }
    }

    /// Never waits: a sidecar that takes no more lines is about to end, and its successor is told anew.
    fn tell(&self, line: ToSidecar) {
        if let Some(orders) = &self.orders {
            let _ = orders.try_send(line);
        }
    }

    fn start_sidecar(&mut self) {
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        self.orders = Some(orders);
        self.sidecar_starts += 1;
        let (grants, agent) = (Arc::clone(&self.setting.grants), self.setting.agent.clone());
        let instance = self.setting.instance.clone();
        let job = Job {
            instance: instance.clone(),
            issue: Box::new(move |public_key| grants.issue(&agent, &instance, public_key)),
            token: self.setting.token.clone(),
            addresses: self.addresses.clone(),
            spool: self.setting.grants.bounds(&self.setting.agent).spool,
            log: self.setting.sidecar_log.clone(),
        };
        let held = sidecar::hold(job, self.setting.place.clone(), self.said.clone(), inbox);
        self.setting.tracker.spawn(held);
    }

    fn start_agent(&mut self) {
        let Some(spec) = &self.setting.spec else { return };
        self.agent_starts += 1;
        self.record("agent.spawning.v1", "attempt", self.agent_starts.into());
        let setting = &self.setting;
        let identity = agent::Identity {
            instance: &setting.instance,
            namespace: &setting.namespace,
            url: &self.url,
            token: &setting.token,
        };
        let call = agent::call(spec, &setting.place, &identity, &setting.agent_log);
        self.stop_agent = CancellationToken::new();
        let stop = self.stop_agent.clone();
        let held = agent::hold(call, setting.place.clone(), setting.agent_log.clone(), self.said.clone(), stop);
        setting.tracker.spawn(held);
    }

    fn publish(&self) {
        let state = self.unit.state();
        self.setting.line.update(|status| {
            status.state = state;
            status.restarts = self.agent_starts.saturating_sub(1);
            status.sidecar_restarts = self.sidecar_starts.saturating_sub(1);
        });
        if self.unit.is_ready() {
            self.setting.latch.ready();
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
