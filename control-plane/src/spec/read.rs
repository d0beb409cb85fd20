//! Typed reading of a tree: each getter reports what is wrong with its place and goes on, so that one run finds all.

use std::collections::HashSet;
use std::time::Duration;

use agentbus_proto::{did_you_mean, duration};

use super::errors::SpecError;
use super::yaml::{Entry, Mark, Node, Value};

/// Collects mistakes.
#[derive(Default)]
pub(super) struct Reader {
    pub errors: Vec<SpecError>,
}

/// A mapping under the name it has in messages: `agents.check.retry`.
#[derive(Clone)]
pub(super) struct Map<'n> {
    pub path: String,
    pub at: Mark,
    pub entries: &'n [Entry],
}

impl<'n> Map<'n> {
    /// The value of a key; the first one if it is there twice. A key with nothing behind it counts as absent.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value).filter(|node| !node.is_nothing())
    }

    pub fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The name of a key in messages.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl Reader {
    pub fn error(&mut self, at: Mark, message: impl Into<String>) {
        self.errors.push(SpecError::new(at, message.into()));
    }

    /// A mapping with free keys (agent names, variables).
    pub fn map<'n>(&mut self, node: &'n Node, path: &str) -> Option<Map<'n>> {
        let Value::Map(entries) = &node.value else {
            self.wrong(node, path, "a mapping (`key: value`)");
            return None;
        };
        let mut seen = HashSet::new();
        for entry in entries {
            if !seen.insert(entry.key.as_str()) {
                let place = if path.is_empty() { "the file".to_owned() } else { path.to_owned() };
                self.error(entry.at, format!("duplicate key `{}` in {place}", entry.key));
            }
        }
        Some(Map { path: path.to_owned(), at: node.at, entries })
    }

    /// A mapping with known keys. `later` are keys of the contract that this version does not serve yet.
    pub fn table<'n>(&mut self, node: &'n Node, path: &str, allowed: &[&str], later: &[&str]) -> Option<Map<'n>> {
        let map = self.map(node, path)?;
        let place = if path.is_empty() { "the file".to_owned() } else { path.to_owned() };
        for entry in map.entries.iter().filter(|entry| !allowed.contains(&entry.key.as_str())) {
            let key = &entry.key;
            let list = allowed.join(", ");
            let message = if later.contains(&key.as_str()) {
                format!("`{key}` in {place} is not supported in this version; allowed here: {list}")
            } else if let Some(guess) = did_you_mean(key, allowed) {
                format!("unknown key `{key}` in {place}; did you mean `{guess}`? allowed here: {list}")
            } else {
                format!("unknown key `{key}` in {place}; allowed here: {list}")
            };
            self.error(entry.at, message);
        }
        Some(map)
    }

    pub fn wrong(&mut self, node: &Node, path: &str, wanted: &str) {
        let place = if path.is_empty() { "the file" } else { path };
        let found = match &node.value {
            Value::Scalar { text, .. } if !node.is_nothing() => format!("`{}`", short(text)),
            _ => node.kind().to_owned(),
        };
        self.error(node.at, format!("{place} must be {wanted}, not {found}"));
    }

    /// Any single value as its text: `1` and `true` too, as programs take them on a command line.
    pub fn text<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } if !node.is_nothing() => Some(text),
            _ => {
                self.wrong(node, path, "text");
                None
            }
        }
    }

    pub fn list<'n>(&mut self, node: &'n Node, path: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            _ => {
                self.wrong(node, path, "a list (`[a, b]`)");
                &[]
            }
        }
    }

    /// A list of texts, each with its node for further checks.
    pub fn texts<'n>(&mut self, node: &'n Node, path: &str) -> Vec<(&'n Node, &'n str)> {
        let items = self.list(node, path).iter().enumerate();
        items.filter_map(|(at, item)| self.text(item, &format!("{path}[{at}]")).map(|text| (item, text))).collect()
    }

    pub fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.wrong(node, path, "true or false");
                None
            }
        }
    }

    pub fn integer(&mut self, node: &Node, path: &str, least: u32, most: u32) -> Option<u32> {
        let number = match &node.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.wrong(node, path, &format!("a whole number from {least} to {most}"));
        }
        number
    }

    pub fn number(&mut self, node: &Node, path: &str, least: f64, most: f64) -> Option<f64> {
        let number = match &node.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.wrong(node, path, &format!("a number from {least} to {most}"));
        }
        number
    }

    pub fn duration(&mut self, node: &Node, path: &str, least: Duration, most: Duration) -> Option<Duration> {
        let text = self.text(node, path)?;
        match duration::parse(text) {
            Err(error) => {
                self.error(node.at, format!("{path}: {error}"));
                None
            }
            Ok(value) if (least..=most).contains(&value) => Some(value),
            Ok(_) => {
                let (least, most) = (duration::format(least), duration::format(most));
                self.wrong(node, path, &format!("from {least} to {most}"));
                None
            }
        }
    }

    /// One of a few words. `later` are words of the contract that this version does not serve yet.
    pub fn choice<T: Copy>(&mut self, node: &Node, path: &str, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let text = self.text(node, path)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let list = names.join(", ");
        let message = if later.contains(&text) {
            format!("{path} `{text}` is not supported in this version; use one of: {list}")
        } else {
            let guess = did_you_mean(text, &names).map(|guess| format!("; did you mean `{guess}`?"));
            format!("{path} must be one of: {list}, not `{}`{}", short(text), guess.unwrap_or_default())
        };
        self.error(node.at, message);
        None
    }
}

/// A value that fits into a message, on one line.
fn short(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_debug())
}
