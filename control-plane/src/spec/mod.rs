//! The project file, `agentbus.yaml`: what a person declares.
//!
//! Reading order: `yaml` makes a tree with places, `read` takes typed values out of it, `agent`, `subscribe`, `policy`
//! and `env` know the keys, `addresses` and `channels` what events can be sent to, `check` looks at all agents together.
//!
//! Every mistake of a file is reported at once, with file, line and column. A [`Project`] that exists is valid and complete:
//! defaults are filled in, names and patterns are checked. Only keys that do something in this version are known.

mod addresses;
mod agent;
mod broker;
mod channels;
mod check;
mod env;
mod errors;
mod limits;
mod policy;
mod pools;
mod read;
mod retention;
mod subscribe;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use agentbus_nats::grant::Policy;
use agentbus_nats::identity::Layout;
use agentbus_proto::name;

pub use agent::{AgentSpec, Output, Restart, Runner};
pub use broker::BrokerMode;
pub use env::Env;
pub use errors::{SpecError, SpecErrors};
pub use limits::Bounds;
pub use pools::Pool;
pub use retention::{OnLag, Retention};
pub use subscribe::Subscription;
pub use yaml::Mark;

use read::{Map, Reader};
use yaml::Node;

/// The namespace of a file that names none.
pub const NAMESPACE_DEFAULT: &str = "default";

/// Largest project file, in bytes: far above thousands of agents.
const FILE_BYTES_MAX: usize = 1 << 20;

const ALLOWED: &[&str] =
    &["version", "namespace", "defaults", "retention", "channels", "pools", "topics", "agents", "broker"];

/// A valid project file.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// The namespace, the trust zone.
    pub namespace: String,
    /// Which bus it runs on.
    pub broker: BrokerMode,
    /// Whether its sidecars are in an account of their own, from which the broker lets nothing through but their work.
    pub wall: bool,
    /// How failures are handled where an agent says nothing else: groups joined by the person use it too.
    pub policy: Policy,
    /// What bounds agents that say nothing else; the spool is the person's too.
    pub bounds: Bounds,
    /// How long events are kept.
    pub retention: Retention,
    /// Declared channels; `all` is one whether it is named or not.
    pub channels: BTreeSet<String>,
    /// How pools are read that say so.
    pub pools: BTreeMap<String, Pool>,
    /// In the order of the file.
    pub agents: Vec<AgentSpec>,
}

impl Project {
    /// A project that declares no agents.
    pub fn empty(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            broker: BrokerMode::default(),
            wall: false,
            policy: Policy::default(),
            bounds: Bounds::default(),
            retention: Retention::default(),
            channels: BTreeSet::new(),
            pools: BTreeMap::new(),
            agents: Vec::new(),
        }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, SpecErrors> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| SpecErrors::unreadable(&file, format!("cannot read the project file: {error}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| SpecErrors::unreadable(&file, format!("the project file is not UTF-8: {error}")))?;
        Self::parse(&text, &file)
    }

    /// Reads a text; `file_name` is for the messages.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, SpecErrors> {
        if text.len() > FILE_BYTES_MAX {
            let why = format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", text.len());
            return Err(SpecErrors::unreadable(file_name, why));
        }
        let (root, errors) = yaml::parse(text);
        let mut reader = Reader { errors };
        let project = root.as_ref().filter(|root| !root.is_nothing()).and_then(|root| read_project(&mut reader, root));
        match project {
            Some(project) if reader.errors.is_empty() => Ok(project),
            None if reader.errors.is_empty() => {
                Err(SpecErrors::unreadable(file_name, "the file is empty; begin with `version: 1`".to_owned()))
            }
            _ => Err(SpecErrors::sorted(file_name, reader.errors)),
        }
    }

    /// How its namespace lies on the broker.
    pub fn layout(&self) -> Layout {
        Layout::walled(self.wall)
    }

    /// The agent of this name.
    pub fn agent(&self, name: &str) -> Option<&AgentSpec> {
        self.agents.iter().find(|agent| agent.name == name)
    }
}

fn read_project(reader: &mut Reader, root: &Node) -> Option<Project> {
    let map = reader.table(root, "", ALLOWED, &[])?;
    version(reader, &map);
    let namespace = namespace(reader, &map);
    let keys = [&["retry", "ack_deadline", "receipts"], &limits::KEYS[..]].concat();
    let written = map.get("defaults").and_then(|node| reader.table(node, "defaults", &keys, &["isolation"]));
    let defaults = match &written {
        Some(map) => policy::read(reader, map, &Policy::default()),
        None => Policy::default(),
    };
    let bounds = match &written {
        Some(map) => limits::read(reader, map, &Bounds::default()),
        None => Bounds::default(),
    };
    let (broker, wall) = broker::read(reader, &map);
    let retention = retention::read(reader, &map);
    let channels = map.get("channels").map(|node| channels::read(reader, node)).unwrap_or_default();
    let mut agents = Vec::new();
    let declared = map.get("agents").and_then(|node| reader.map(node, "agents"));
    let known = addresses::gather(declared.as_ref(), channels.clone());
    let pools = map.get("pools").map(|node| pools::read(reader, node, &known)).unwrap_or_default();
    if let Some(map) = declared {
        for entry in map.entries {
            let named = agent::agent_name(reader, entry.at, &entry.key);
            let spec = agent::read(reader, &entry.key, &entry.value, (&defaults, &bounds), &known);
            agents.extend(spec.filter(|_| named).map(|spec| (entry.at, spec)));
        }
    }
    check::together(reader, &agents);
    Some(Project {
        namespace,
        broker,
        wall,
        policy: defaults,
        bounds,
        retention,
        channels,
        pools,
        agents: agents.into_iter().map(|(_, spec)| spec).collect(),
    })
}

fn version(reader: &mut Reader, map: &Map<'_>) {
    match map.get("version") {
        None => reader.error(map.at, "`version` is missing; write `version: 1`"),
        Some(node) => {
            if reader.text(node, "version").is_some_and(|text| text != "1") {
                reader.wrong(node, "version", "1, the only one there is");
            }
        }
    }
}

fn namespace(reader: &mut Reader, map: &Map<'_>) -> String {
    let Some(node) = map.get("namespace") else { return NAMESPACE_DEFAULT.to_owned() };
    let text = reader.text(node, "namespace").unwrap_or(NAMESPACE_DEFAULT);
    if let Err(fault) = name::lower_name("namespace", text) {
        reader.error(node.at, fault.message);
    }
    text.to_owned()
}
