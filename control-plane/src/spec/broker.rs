//! Which bus the project runs on, as it is written: `broker: {mode: managed}` or `{mode: memory}`; `{wall: true}` puts its
//! sidecars behind the wall.

use super::read::{Map, Reader};
use super::yaml::Node;

/// The bus of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BrokerMode {
    /// `up` finds and runs a nats-server.
    #[default]
    Managed,
    /// The bus is inside `up`: no broker, and nothing of it survives that process.
    Memory,
}

/// Reads `broker` of the file: which bus, and whether its sidecars are behind the wall. Without it, a managed broker and none.
pub(super) fn read(reader: &mut Reader, root: &Map<'_>) -> (BrokerMode, bool) {
    let Some(map) =
        root.get("broker").and_then(|node| reader.table(node, "broker", &["mode", "wall"], &["url", "creds"]))
    else {
        return Default::default();
    };
    let wall = map.get("wall").and_then(|node| reader.boolean(node, "broker.wall").map(|wall| (node, wall)));
    let mode = match map.get("mode") {
        Some(node) => mode(reader, node),
        None => {
            if map.get("wall").is_none() {
                reader.error(map.at, "broker says nothing; write `mode: managed`, `mode: memory` or `wall: true`");
            }
            BrokerMode::default()
        }
    };
    if let Some((node, true)) = wall
        && mode == BrokerMode::Memory
    {
        reader.error(node.at, "`wall` in broker needs a broker: the wall is between two of its accounts");
    }
    (mode, wall.is_some_and(|(_, wall)| wall))
}

fn mode(reader: &mut Reader, node: &Node) -> BrokerMode {
    match reader.text(node, "broker.mode") {
        Some("memory") => BrokerMode::Memory,
        Some("managed") | None => BrokerMode::Managed,
        Some(_) => {
            reader.wrong(node, "broker.mode", "managed or memory");
            BrokerMode::Managed
        }
    }
}
