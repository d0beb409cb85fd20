//! One agent as it is written in the project file, with the project's defaults filled in.

use std::time::Duration;

use agentbus_nats::grant::{Directory, Policy};
use agentbus_nats::pattern::Pattern;
use agentbus_runtime::restart;

use super::addresses;
use super::env::{self, Env};
use super::limits::{self, Bounds};
use super::policy;
use super::read::{Map, Reader};
use super::subscribe::{self, Subscription};
use super::yaml::{Node, Value};

/// Most replicas of one agent: on one machine more is a mistake.
const REPLICAS_MAX: u32 = 64;

const ALLOWED: &[&str] = &[
    "runner",
    "command",
    "subscribe",
    "publish",
    "pools",
    "fallback",
    "replicas",
    "output",
    "timeout",
    "ordered",
    "retry",
    "ack_deadline",
    "receipts",
    "restart",
    "env",
    "limits",
    "spool",
    "breaker",
];

/// Keys of the full contract that come with later versions.
const LATER: &[&str] =
    &["model", "prompt", "capabilities", "workspace", "approvals", "budget", "isolation", "concurrency"];

/// How an agent's program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// A long-running program that talks to its sidecar itself.
    Process,
    /// A program started once per event: data on stdin, result on stdout.
    Exec,
}

impl Runner {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Exec => "exec",
        }
    }
}

/// What an `exec` program's stdout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Ignored but for the log.
    None,
    /// One event as JSON per line, published together with the ack.
    Events,
    /// The answer to an ask; with `none` it is that, too.
    Reply,
}

impl Output {
    /// As it is written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Events => "events",
            Self::Reply => "reply",
        }
    }
}

/// When the agent is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restart {
    /// After which exits.
    pub policy: restart::Policy,
    /// How often at most; beyond, the agent is `crashlooping`.
    pub budget: restart::Budget,
}

/// One agent, checked and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSpec {
    /// Its name, the key under `agents`.
    pub name: String,
    /// How it is run.
    pub runner: Runner,
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// One entry per group.
    pub subscribe: Vec<Subscription>,
    /// Address patterns it may publish to.
    pub publish: Vec<String>,
    /// Pools it is in: it takes its share of what is sent there.
    pub pools: Vec<String>,
    /// Who takes its own events while it is away.
    pub fallback: Option<String>,
    /// Instances, 1 to 64; they share the agent's groups.
    pub replicas: u32,
    /// What stdout is (`exec`).
    pub output: Output,
    /// Longest run for one event (`exec`); the runner has its own default.
    pub timeout: Option<Duration>,
    /// One delivery at a time, in order, where a subscription says nothing else.
    pub ordered: bool,
    /// Retries and ack deadline.
    pub policy: Policy,
    /// Restarts.
    pub restart: Restart,
    /// What bounds it.
    pub bounds: Bounds,
    /// Environment.
    pub env: Env,
}

impl AgentSpec {
    /// Names of its instances: the agent's name, or `name-1`… with several replicas.
    pub fn instances(&self) -> Vec<String> {
        match self.replicas {
            1 => vec![self.name.clone()],
            replicas => (1..=replicas).map(|number| format!("{}-{number}", self.name)).collect(),
        }
    }
}

/// Reads one entry of `agents`. `None` when too little of it makes sense to go on with.
pub(super) fn read(
    reader: &mut Reader,
    agent: &str,
    node: &Node,
    (defaults, bounds): (&Policy, &Bounds),
    known: &Directory,
) -> Option<AgentSpec> {
    let path = format!("agents.{agent}");
    let map = reader.table(node, &path, ALLOWED, LATER)?;
    let runner = runner(reader, &map);
    let command = command(reader, &map);
    let replicas = integer(reader, &map, "replicas", REPLICAS_MAX).unwrap_or(1);
    let ordered = map.get("ordered").and_then(|node| reader.boolean(node, &map.name("ordered"))).unwrap_or(false);
    if ordered && replicas > 1 {
        let at = map.get("ordered").map_or(map.at, |node| node.at);
        reader
            .error(at, format!("{path}.ordered needs replicas: 1; {replicas} replicas share the events in any order"));
    }
    let (output, timeout) = exec_only(reader, &map, runner);
    let spec = AgentSpec {
        name: agent.to_owned(),
        subscribe: map.get("subscribe").map_or_else(Vec::new, |node| {
            subscribe::read(reader, subscribe::Owner { agent, ordered, known }, node, &map.name("subscribe"))
        }),
        publish: publish(reader, &map, known),
        pools: addresses::pools(reader, &map, known),
        fallback: addresses::fallback(reader, &map, agent, known),
        policy: policy::read(reader, &map, defaults),
        restart: policy::restart(reader, &map),
        bounds: limits::read(reader, &map, bounds),
        env: env::read(reader, &map),
        runner: runner?,
        command: command?,
        replicas,
        output,
        timeout,
        ordered,
    };
    Some(spec)
}

fn integer(reader: &mut Reader, map: &Map<'_>, key: &str, most: u32) -> Option<u32> {
    map.get(key).and_then(|node| reader.integer(node, &map.name(key), 1, most))
}

fn runner(reader: &mut Reader, map: &Map<'_>) -> Option<Runner> {
    let Some(node) = map.get("runner") else {
        reader.error(map.at, format!("{} has no `runner`: process (long-running) or exec (once per event)", map.path));
        return None;
    };
    let words = [("process", Runner::Process), ("exec", Runner::Exec)];
    reader.choice(node, &map.name("runner"), &words, &["claude", "codex", "acp", "model"])
}

fn command(reader: &mut Reader, map: &Map<'_>) -> Option<Vec<String>> {
    let name = map.name("command");
    let Some(node) = map.get("command") else {
        reader.error(map.at, format!("{} has no `command`, for example [python3, agent.py]", map.path));
        return None;
    };
    if let Value::Scalar { text, .. } = &node.value {
        let words: Vec<&str> = text.split_whitespace().collect();
        let list = words.join(", ");
        reader.error(node.at, format!("{name} must be a list, never a string (no shell splits it): [{list}]"));
        return None;
    }
    let words: Vec<String> = reader.texts(node, &name).into_iter().map(|(_, text)| text.to_owned()).collect();
    if words.first().is_none_or(String::is_empty) {
        reader.error(node.at, format!("{name} names no program"));
        return None;
    }
    Some(words)
}

fn exec_only(reader: &mut Reader, map: &Map<'_>, runner: Option<Runner>) -> (Output, Option<Duration>) {
    for key in ["output", "timeout"] {
        if let Some(entry) = map.entry(key).filter(|_| runner == Some(Runner::Process)) {
            let message = format!("{} is for runner exec; a process decides this itself", map.name(key));
            reader.error(entry.at, message);
        }
    }
    let words = [("none", Output::None), ("events", Output::Events), ("reply", Output::Reply)];
    let output = map.get("output").and_then(|node| reader.choice(node, &map.name("output"), &words, &[]));
    let timeout = map.get("timeout").and_then(|node| {
        reader.duration(node, &map.name("timeout"), Duration::from_millis(100), Duration::from_secs(24 * 3600))
    });
    (output.unwrap_or(Output::None), timeout)
}

fn publish(reader: &mut Reader, map: &Map<'_>, known: &Directory) -> Vec<String> {
    let Some(node) = map.get("publish") else { return Vec::new() };
    let mut patterns: Vec<String> = Vec::new();
    for (node, text) in reader.texts(node, &map.name("publish")) {
        if pattern(reader, node, text, &map.name("publish"), known).is_some()
            && !patterns.iter().any(|known| known == text)
        {
            patterns.push(text.to_owned());
        }
    }
    patterns
}

/// Checks one address pattern, and that what it names is declared.
pub(super) fn pattern(reader: &mut Reader, node: &Node, text: &str, path: &str, known: &Directory) -> Option<Pattern> {
    match Pattern::parse(text) {
        Ok(pattern) => addresses::declared(reader, node.at, path, &pattern, known).then_some(pattern),
        Err(fault) => {
            reader.error(node.at, format!("{path}: {}", fault.message));
            None
        }
    }
}

/// Checks an agent's name and says whether it can be used.
pub(super) fn agent_name(reader: &mut Reader, at: super::yaml::Mark, agent: &str) -> bool {
    if !addresses::usable(reader, at, "agent", agent) {
        return false;
    }
    if agent == crate::groups::PERSON {
        reader.error(at, "the agent name `me` is taken: it is the person at the keyboard");
        return false;
    }
    true
}
