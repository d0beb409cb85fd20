//! Which bus the project runs on, as it is written: `broker: {mode: managed}` or `{mode: memory}`.

use super::read::{Map, Reader};

/// The bus of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BrokerMode {
    /// `up` finds and runs a nats-server.
    #[default]
    Managed,
    /// The bus is inside `up`: no broker, and nothing of it survives that process.
    Memory,
}

/// Reads `broker` of the file; without one, a managed broker.
pub(super) fn read(reader: &mut Reader, root: &Map<'_>) -> BrokerMode {
    let Some(map) = root.get("broker").and_then(|node| reader.table(node, "broker", &["mode"], &["url", "creds"]))
    else {
        return BrokerMode::default();
    };
    let Some(node) = map.get("mode") else {
        reader.error(map.at, "`mode` is missing in broker; write `mode: managed` or `mode: memory`");
        return BrokerMode::default();
    };
    match reader.text(node, "broker.mode") {
        Some("memory") => BrokerMode::Memory,
        Some("managed") | None => BrokerMode::Managed,
        Some(_) => {
            reader.wrong(node, "broker.mode", "managed or memory");
            BrokerMode::Managed
        }
    }
}
