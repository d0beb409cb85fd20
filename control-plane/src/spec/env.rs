//! The environment an agent asks for: variables handed through by name, and variables with fixed values.

use std::collections::BTreeMap;

use super::read::{Map, Reader};
use super::yaml::{Mark, Node};

/// Variables the bus sets itself.
const RESERVED_ENV: &[&str] =
    &["AGENTBUS_URL", "AGENTBUS_TOKEN", "AGENTBUS_AGENT", "AGENTBUS_NAMESPACE", "AGENTBUS_INSTANCE", "AGENTBUS_STATE"];

/// The environment of the agent's program beyond the allow-list and the bus's own variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// Names of variables handed through.
    pub pass: Vec<String>,
    /// Variables with fixed values.
    pub set: BTreeMap<String, String>,
}

/// Reads `env`.
pub(super) fn read(reader: &mut Reader, map: &Map<'_>) -> Env {
    let path = map.name("env");
    let Some(map) = map.get("env").and_then(|node| reader.table(node, &path, &["pass", "set"], &[])) else {
        return Env::default();
    };
    let pass = map.get("pass").map_or_else(Vec::new, |node| pass(reader, node, &map.name("pass")));
    let set = map.get("set").and_then(|node| reader.map(node, &map.name("set")));
    Env { pass, set: set.map_or_else(BTreeMap::new, |map| set_values(reader, &map)) }
}

fn pass(reader: &mut Reader, node: &Node, path: &str) -> Vec<String> {
    let texts = reader.texts(node, path);
    texts
        .into_iter()
        .filter(|(node, text)| variable(reader, node.at, text, path))
        .map(|(_, text)| text.into())
        .collect()
}

/// A variable with nothing behind it is empty, which is a value.
fn set_values(reader: &mut Reader, map: &Map<'_>) -> BTreeMap<String, String> {
    let mut set = BTreeMap::new();
    for entry in map.entries {
        let value = if entry.value.is_nothing() { Some("") } else { reader.text(&entry.value, &map.name(&entry.key)) };
        if variable(reader, entry.at, &entry.key, &map.path)
            && let Some(value) = value
        {
            set.insert(entry.key.clone(), value.to_owned());
        }
    }
    set
}

fn variable(reader: &mut Reader, at: Mark, text: &str, path: &str) -> bool {
    let good =
        |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit());
    if text.is_empty() || !text.bytes().enumerate().all(good) {
        let shown = text.escape_debug();
        reader.error(at, format!("{path}: `{shown}` is no variable name; use letters, digits and _"));
        return false;
    }
    if RESERVED_ENV.contains(&text) {
        reader.error(at, format!("{path}: `{text}` is set by the bus itself"));
        return false;
    }
    true
}
