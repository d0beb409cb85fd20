//! What an agent reads: the `subscribe` list, gathered into one entry per group.
//!
//! A plain pattern belongs to the agent's own group (its name); `{patterns, group, types, attributes}` may name another
//! one. Entries of the same group are merged, and must then ask for the same types and attributes.

use std::collections::BTreeMap;

use agentbus_nats::pattern;
use agentbus_proto::name;

use super::agent;
use super::read::Reader;
use super::yaml::{Mark, Node, Value};

const ALLOWED: &[&str] = &["patterns", "group", "types", "attributes"];
const LATER: &[&str] = &["concurrency", "pools", "priority"];

/// What one group reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Who shares the deliveries.
    pub group: String,
    /// Topic patterns; never empty.
    pub patterns: Vec<String>,
    /// Only these event types; empty = all.
    pub types: Vec<String>,
    /// Only events with all these attributes.
    pub attributes: BTreeMap<String, String>,
}

/// Reads the list.
pub(super) fn read(reader: &mut Reader, agent: &str, node: &Node, path: &str) -> Vec<Subscription> {
    let mut merged: Vec<(Mark, Subscription)> = Vec::new();
    for (number, item) in reader.list(node, path).iter().enumerate() {
        let name = format!("{path}[{number}]");
        let one = match &item.value {
            Value::Map(_) => table(reader, agent, item, &name),
            _ => short(reader, agent, item, &name),
        };
        if let Some(one) = one {
            merge(reader, &mut merged, item.at, one, &name);
        }
    }
    for (at, subscription) in &merged {
        if let Err(fault) = pattern::simplify(&subscription.patterns) {
            reader.error(*at, format!("{path}: {}", fault.message));
        }
    }
    merged.into_iter().map(|(_, subscription)| subscription).collect()
}

fn short(reader: &mut Reader, agent: &str, item: &Node, name: &str) -> Option<Subscription> {
    let text = reader.text(item, name)?;
    agent::pattern(reader, item, text, name).then(|| Subscription {
        group: agent.to_owned(),
        patterns: vec![text.to_owned()],
        types: Vec::new(),
        attributes: BTreeMap::new(),
    })
}

fn table(reader: &mut Reader, agent: &str, item: &Node, name: &str) -> Option<Subscription> {
    let map = reader.table(item, name, ALLOWED, LATER)?;
    let Some(node) = map.get("patterns") else {
        reader.error(map.at, format!("{name} has no `patterns`, for example [notes.created]"));
        return None;
    };
    let texts = reader.texts(node, &map.name("patterns"));
    if texts.is_empty() {
        reader.error(node.at, format!("{}: at least one pattern is needed", map.name("patterns")));
    }
    let good = texts.into_iter().filter(|(node, text)| agent::pattern(reader, node, text, &map.name("patterns")));
    let patterns: Vec<String> = good.map(|(_, text)| text.to_owned()).collect();
    let group = map.get("group").map_or(Some(agent.to_owned()), |node| group(reader, node, &map.name("group")));
    let types = map.get("types").map_or_else(Vec::new, |node| types(reader, node, &map.name("types")));
    let mut attributes = BTreeMap::new();
    if let Some(map) = map.get("attributes").and_then(|node| reader.map(node, &map.name("attributes"))) {
        for entry in map.entries {
            if let Some(value) = reader.text(&entry.value, &map.name(&entry.key)) {
                attributes.insert(entry.key.clone(), value.to_owned());
            }
        }
    }
    let complete = !patterns.is_empty();
    Some(Subscription { group: group?, patterns, types, attributes }).filter(|_| complete)
}

fn group(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let text = reader.text(node, path)?;
    match name::lower_name("group", text) {
        Ok(()) => Some(text.to_owned()),
        Err(fault) => {
            reader.error(node.at, format!("{path}: {}", fault.message));
            None
        }
    }
}

fn types(reader: &mut Reader, node: &Node, path: &str) -> Vec<String> {
    let mut types = Vec::new();
    for (node, text) in reader.texts(node, path) {
        match text.split('.').try_for_each(name::token) {
            Ok(()) => types.push(text.to_owned()),
            Err(fault) => reader.error(node.at, format!("{path}: type `{}`: {}", text.escape_debug(), fault.message)),
        }
    }
    types
}

fn merge(reader: &mut Reader, merged: &mut Vec<(Mark, Subscription)>, at: Mark, one: Subscription, name: &str) {
    let Some((_, known)) = merged.iter_mut().find(|(_, known)| known.group == one.group) else {
        merged.push((at, one));
        return;
    };
    if known.types != one.types || known.attributes != one.attributes {
        let group = &one.group;
        let message =
            format!("{name}: group `{group}` already has other types or attributes; give one a `group` of its own");
        reader.error(at, message);
        return;
    }
    let fresh = one.patterns.into_iter().filter(|pattern| !known.patterns.contains(pattern)).collect::<Vec<_>>();
    known.patterns.extend(fresh);
}
