//! The channels of a project: `channels: [engineering]`, or with options `channels: {engineering: {retention: 24h}}`.
//!
//! Only names are kept here. `all` is always a channel; it is written down for its options only.

use std::collections::BTreeSet;

use super::addresses;
use super::read::Reader;
use super::yaml::{Node, Value};

/// Options of a channel; `retention` is read in its own file.
const ALLOWED: &[&str] = &["retention"];

/// Reads the list or mapping: the names.
pub(super) fn read(reader: &mut Reader, node: &Node) -> BTreeSet<String> {
    if matches!(node.value, Value::List(_)) {
        let texts = reader.texts(node, "channels");
        let good = texts.into_iter().filter(|(node, text)| addresses::usable(reader, node.at, "channel", text));
        return good.map(|(_, text)| text.to_owned()).collect();
    }
    let mut channels = BTreeSet::new();
    let Some(map) = reader.map(node, "channels") else { return channels };
    for entry in map.entries {
        if !entry.value.is_nothing() {
            reader.table(&entry.value, &map.name(&entry.key), ALLOWED, &[]);
        }
        if addresses::usable(reader, entry.at, "channel", &entry.key) {
            channels.insert(entry.key.clone());
        }
    }
    channels
}
