//! What an agent reads: the `subscribe` list, gathered into one entry per group.
//!
//! A plain topic belongs to the agent's own group (its name), a plain channel to the group of its channels, which is read
//! in order. `{patterns, group, types, attributes, order, lanes}` may name another group and narrow what comes; a channel with
//! any of these leaves the group of the channels. Entries of the same group are merged, and must then agree in the rest.
//! What is sent to the agent itself and to its pools needs no entry.

use std::collections::BTreeMap;

use agentbus_nats::grant::{Directory, GroupGrant};
use agentbus_nats::names::Names;
use agentbus_nats::pattern::{self, Pattern};
use agentbus_proto::name;

use super::read::{Map, Reader};
use super::yaml::{Mark, Node, Value};
use super::{addresses, agent};

const ALLOWED: &[&str] = &["patterns", "group", "types", "attributes", "ordered", "order", "lanes"];
const LATER: &[&str] = &["concurrency"];

/// What one group reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Who shares the deliveries.
    pub group: String,
    /// Topic and channel patterns; never empty.
    pub patterns: Vec<String>,
    /// Only these event types; empty = all.
    pub types: Vec<String>,
    /// Only events with all these attributes.
    pub attributes: BTreeMap<String, String>,
    /// One delivery at a time, in order.
    pub ordered: bool,
    /// In order within each ordering key.
    pub by_key: bool,
    /// High, normal and low priority weighed against each other.
    pub split_lanes: bool,
}

/// Whose list it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub agent: &'a str,
    /// What entries mean that say nothing about it.
    pub ordered: bool,
    pub known: &'a Directory,
}

/// Reads the list.
pub(super) fn read(reader: &mut Reader, owner: Owner<'_>, node: &Node, path: &str) -> Vec<Subscription> {
    let mut merged: Vec<(Mark, Subscription)> = Vec::new();
    for (number, item) in reader.list(node, path).iter().enumerate() {
        let name = format!("{path}[{number}]");
        let parts = match &item.value {
            Value::Map(_) => table(reader, owner, item, &name),
            _ => short(reader, owner, item, &name),
        };
        for one in parts {
            merge(reader, &mut merged, item.at, one, &name);
        }
    }
    for (at, subscription) in &merged {
        if let Err(fault) = pattern::simplify(&subscription.patterns) {
            reader.error(*at, format!("{path}: {}", fault.message));
        }
        let Subscription { group, ordered, by_key, split_lanes, .. } = subscription.clone();
        let layout = GroupGrant { name: group, ordered, by_key, split_lanes, ..GroupGrant::default() };
        if let Err(fault) = layout.check_layout() {
            reader.error(*at, format!("{path}: {}", fault.message));
        }
    }
    merged.into_iter().map(|(_, subscription)| subscription).collect()
}

fn short(reader: &mut Reader, owner: Owner<'_>, item: &Node, name: &str) -> Vec<Subscription> {
    let Some(text) = reader.text(item, name) else { return Vec::new() };
    let pattern = readable(reader, owner, item, text, name);
    pattern.map_or_else(Vec::new, |pattern| place(owner, vec![pattern], Subscription::default(), None))
}

fn table(reader: &mut Reader, owner: Owner<'_>, item: &Node, name: &str) -> Vec<Subscription> {
    let Some(map) = reader.table(item, name, ALLOWED, LATER) else { return Vec::new() };
    let Some(node) = map.get("patterns") else {
        reader.error(map.at, format!("{name} has no `patterns`, for example [notes.created]"));
        return Vec::new();
    };
    let texts = reader.texts(node, &map.name("patterns"));
    if texts.is_empty() {
        reader.error(node.at, format!("{}: at least one pattern is needed", map.name("patterns")));
    }
    let path = map.name("patterns");
    let patterns = texts.into_iter().filter_map(|(node, text)| readable(reader, owner, node, text, &path)).collect();
    let group = map.get("group").map(|node| group(reader, node, &map.name("group")));
    let types = map.get("types").map_or_else(Vec::new, |node| types(reader, node, &map.name("types")));
    let order = order(reader, &map);
    let split_lanes = split_lanes(reader, &map);
    let mut attributes = BTreeMap::new();
    if let Some(map) = map.get("attributes").and_then(|node| reader.map(node, &map.name("attributes"))) {
        for entry in map.entries {
            if let Some(value) = reader.text(&entry.value, &map.name(&entry.key)) {
                attributes.insert(entry.key.clone(), value.to_owned());
            }
        }
    }
    let group = match group {
        Some(None) => return Vec::new(),
        Some(Some(group)) => group,
        None => String::new(),
    };
    let by_key = order == Some(Order::Key);
    let rest = Subscription { group, types, attributes, by_key, split_lanes, ordered: false, patterns: Vec::new() };
    place(owner, patterns, rest, order.map(|order| order == Order::Strict))
}

/// The order in which a group works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    Key,
    Strict,
    None,
}

/// `lanes: split | one`.
pub(super) fn split_lanes(reader: &mut Reader, map: &Map<'_>) -> bool {
    let words = [("split", true), ("one", false)];
    let lanes = map.get("lanes").and_then(|node| reader.choice(node, &map.name("lanes"), &words, &[]));
    lanes.unwrap_or(false)
}

/// `order: key | strict | none`; `ordered: true` is the older word for strict.
pub(super) fn order(reader: &mut Reader, map: &Map<'_>) -> Option<Order> {
    let words = [("key", Order::Key), ("strict", Order::Strict), ("none", Order::None)];
    let order = map.get("order").and_then(|node| reader.choice(node, &map.name("order"), &words, &[]));
    let ordered = map.get("ordered").and_then(|node| reader.boolean(node, &map.name("ordered")));
    if order.is_some() && ordered.is_some() {
        let at = map.get("ordered").map_or(map.at, |node| node.at);
        reader.error(at, format!("{}: `order` says it already; leave `ordered` out", map.name("ordered")));
    }
    order.or(ordered.map(|ordered| if ordered { Order::Strict } else { Order::None }))
}

/// Gives each pattern its group: the named one, or the agent's, or that of its channels.
fn place(owner: Owner<'_>, patterns: Vec<Pattern>, rest: Subscription, ordered: Option<bool>) -> Vec<Subscription> {
    let plain = rest.group.is_empty()
        && rest.types.is_empty()
        && rest.attributes.is_empty()
        && ordered != Some(false)
        && !rest.split_lanes;
    let (channels, others): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|one| plain && one.is_channel());
    let texts = |patterns: Vec<Pattern>| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let group = if rest.group.is_empty() { owner.agent.to_owned() } else { rest.group.clone() };
    let own = Subscription { group, patterns: texts(others), ordered: ordered.unwrap_or(owner.ordered), ..rest };
    let group = Names::channels_group(owner.agent);
    let in_order = Subscription { group, patterns: texts(channels), ordered: true, ..Subscription::default() };
    [own, in_order].into_iter().filter(|one| !one.patterns.is_empty()).collect()
}

/// A pattern that may be read: not the address of an agent or a pool.
fn readable(reader: &mut Reader, owner: Owner<'_>, node: &Node, text: &str, path: &str) -> Option<Pattern> {
    let pattern = agent::pattern(reader, node, text, path, owner.known)?;
    if pattern.is_agent() {
        let why = "what is sent to an agent or a pool is read by it alone; an agent gets its own without subscribing, \
                   `pools` makes it a member of a pool";
        reader.error(node.at, format!("{path}: `{text}`: {why}"));
        return None;
    }
    Some(pattern)
}

fn group(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let text = reader.text(node, path)?;
    if let Err(fault) = name::lower_name("group", text) {
        reader.error(node.at, format!("{path}: {}", fault.message));
        return None;
    }
    addresses::usable(reader, node.at, "group", text).then(|| text.to_owned())
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
    let layout = |one: &Subscription| (one.ordered, one.by_key, one.split_lanes);
    if known.types != one.types || known.attributes != one.attributes || layout(known) != layout(&one) {
        let group = &one.group;
        let what = if layout(known) == layout(&one) { "types or attributes" } else { "order or lanes" };
        let message = format!("{name}: group `{group}` already has other {what}; give one a `group` of its own");
        reader.error(at, message);
        return;
    }
    let fresh = one.patterns.into_iter().filter(|pattern| !known.patterns.contains(pattern)).collect::<Vec<_>>();
    known.patterns.extend(fresh);
}
