//! The names events can be sent to, gathered before anything refers to them: agents, pools, channels.
//!
//! Agents and pools share one name space, because `@name` is either. Names with `--` are the bus's own.

use std::collections::{BTreeMap, BTreeSet};

use agentbus_nats::grant::Directory;
use agentbus_nats::names::Names;
use agentbus_nats::pattern::Pattern;
use agentbus_proto::{Address, name};

use super::agent::AgentSpec;
use super::read::{Map, Reader};
use super::yaml::{Mark, Node, Value};
use crate::groups::PERSON;

/// Most pools of one agent: each is a group it reads.
const POOLS_MAX: usize = 16;

/// Whether a name can be used; otherwise says why not.
pub(super) fn usable(reader: &mut Reader, at: Mark, kind: &str, text: &str) -> bool {
    if let Err(fault) = name::lower_name(kind, text) {
        reader.error(at, fault.message);
        return false;
    }
    if Names::is_reserved(text) {
        reader.error(at, format!("{kind} `{text}` contains `--`, which the bus keeps for its own groups"));
        return false;
    }
    true
}

/// All names of a file, whatever else is wrong with it: nobody shall be told that an agent with a mistake does not exist.
/// Fallbacks are left out, members are complete.
pub(super) fn gather(agents: Option<&Map<'_>>, channels: BTreeSet<String>) -> Directory {
    let mut directory = Directory { channels, ..Directory::default() };
    directory.agents.insert(PERSON.to_owned(), String::new());
    for entry in agents.map_or(&[][..], |map| map.entries) {
        directory.agents.insert(entry.key.clone(), String::new());
        let Value::Map(keys) = &entry.value.value else { continue };
        for pool in keys.iter().filter(|key| key.key == "pools").flat_map(|key| scalars(&key.value)) {
            directory.pools.entry(pool.to_owned()).or_default().push(entry.key.clone());
        }
    }
    directory
}

fn scalars(node: &Node) -> impl Iterator<Item = &str> {
    let items = if let Value::List(items) = &node.value { items.as_slice() } else { &[] };
    items.iter().filter_map(|item| match &item.value {
        Value::Scalar { text, .. } => Some(text.as_str()),
        Value::List(_) | Value::Map(_) => None,
    })
}

/// Reads an agent's `pools`.
pub(super) fn pools(reader: &mut Reader, map: &Map<'_>, known: &Directory) -> Vec<String> {
    let Some(node) = map.get("pools") else { return Vec::new() };
    let mut pools: Vec<String> = Vec::new();
    for (item, text) in reader.texts(node, &map.name("pools")) {
        if known.agents.contains_key(text) {
            let why = format!("{}: `{text}` is an agent; `@{text}` cannot be both, rename one", map.name("pools"));
            reader.error(item.at, why);
        } else if usable(reader, item.at, "pool", text) && !pools.iter().any(|pool| pool == text) {
            pools.push(text.to_owned());
        }
    }
    if pools.len() > POOLS_MAX {
        reader.error(node.at, format!("{}: an agent is in at most {POOLS_MAX} pools", map.name("pools")));
    }
    pools
}

/// Reads an agent's `fallback`.
pub(super) fn fallback(reader: &mut Reader, map: &Map<'_>, agent: &str, known: &Directory) -> Option<String> {
    let node = map.get("fallback")?;
    let path = map.name("fallback");
    let text = reader.text(node, &path)?;
    let others: Vec<&str> =
        known.agents.keys().map(String::as_str).filter(|name| *name != agent && *name != PERSON).collect();
    if others.contains(&text) {
        return Some(text.to_owned());
    }
    let near = agentbus_proto::did_you_mean(text, &others).map(|near| format!("; did you mean `{near}`?"));
    reader.wrong(node, &path, &format!("the name of another agent{}", near.unwrap_or_default()));
    None
}

/// Refuses fallbacks that lead back to where they began.
pub(super) fn circles(reader: &mut Reader, agents: &[(Mark, AgentSpec)]) {
    let next: BTreeMap<&str, &str> =
        agents.iter().filter_map(|(_, agent)| Some((agent.name.as_str(), agent.fallback.as_deref()?))).collect();
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for (at, agent) in agents {
        let mut way = vec![agent.name.as_str()];
        while let Some(one) = way.last().and_then(|last| next.get(last)) {
            if way.contains(one) {
                break;
            }
            way.push(one);
        }
        let back = way.last().and_then(|last| next.get(last)) == Some(&agent.name.as_str());
        if back && !told.contains(agent.name.as_str()) {
            told.extend(&way);
            let way = way.join(" -> ");
            reader
                .error(*at, format!("the fallbacks {way} -> {} form a circle: nobody is left at its end", agent.name));
        }
    }
}

/// Whether what a pattern names is declared; otherwise says what was probably meant.
pub(super) fn declared(reader: &mut Reader, at: Mark, path: &str, pattern: &Pattern, known: &Directory) -> bool {
    let to = match (pattern.agent(), pattern.channel()) {
        (Some(name), _) => Address::Agent(name.to_owned()),
        (_, Some(name)) => Address::Channel(name.to_owned()),
        (None, None) => return true,
    };
    if known.knows(&to) {
        return true;
    }
    let place = match &to {
        Address::Channel(name) => format!("write `channels: {{{name}: {{}}}}`"),
        _ => "declare it under `agents` or in an agent's `pools`".to_owned(),
    };
    reader.error(at, format!("{path}: `{to}` is not declared: {} {place}", known.hint(&to)));
    false
}
