//! Compares the topology with a broker and applies the difference. Updates or reports; never deletes, never recreates.

use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::stream;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::bus::Bus;
use crate::names::Names;
use crate::topology::{self, Sizes};

/// What is to be done about one asset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Step {
    /// It does not exist yet.
    Create {
        /// Asset name.
        name: String,
    },
    /// It exists and differs.
    Update {
        /// Asset name.
        name: String,
        /// What differs.
        changes: Vec<Change>,
    },
    /// It is as the table says.
    Same {
        /// Asset name.
        name: String,
    },
    /// It exists and is ours by name, but not in the table. Left alone.
    Unknown {
        /// Asset name.
        name: String,
    },
}

/// One differing field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Field in the server's JSON.
    pub field: String,
    /// Value on the broker.
    pub from: Value,
    /// Value in the table.
    pub to: Value,
}

impl Step {
    /// Whether applying would do something.
    pub fn changes_something(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Update { .. })
    }
}

/// The table as the nats CLI reads it (`nats stream add --config`), one object per stream. For a broker with the usual
/// `max_payload`, as none is asked.
pub fn table(names: &Names, sizes: &Sizes) -> Result<Vec<Value>, serde_json::Error> {
    topology::streams(names, sizes, topology::BROKER_BYTES_MAX).iter().map(serde_json::to_value).collect()
}

/// What applying would do to the streams.
pub async fn plan(bus: &dyn Bus, names: &Names, sizes: &Sizes) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::new();
    for wanted in wanted(bus, names, sizes) {
        let name = wanted.name.clone();
        steps.push(match bus.stream(&name).await?.map(|info| info.config) {
            None => Step::Create { name },
            Some(found) => {
                let changes = diff(&wanted, &found)?;
                if changes.is_empty() { Step::Same { name } } else { Step::Update { name, changes } }
            }
        });
    }
    steps.extend(receipts(bus, names, sizes).await?);
    let bucket = format!("KV_{}", names.registry());
    let found = bus.stream(&bucket).await?.is_some();
    steps.push(if found { Step::Same { name: bucket } } else { Step::Create { name: bucket } });
    steps.extend(unknown(bus, names, &steps).await?);
    Ok(steps)
}

/// Makes the streams and the registry as the table says; returns what was done.
pub async fn apply(bus: &dyn Bus, names: &Names, sizes: &Sizes) -> Result<Vec<Step>, Fault> {
    let steps = plan(bus, names, sizes).await?;
    let mut streams = wanted(bus, names, sizes);
    // Those that take from another one after it: else the broker would look for it again only seconds later.
    streams.sort_by_key(|stream| stream.sources.is_some());
    // Updated only: `Create` is never planned for it.
    streams.push(receipts_table(bus, names, sizes));
    for wanted in streams {
        let Some(step) = steps.iter().find(|step| step_name(step) == wanted.name) else { continue };
        match step {
            Step::Create { .. } => bus.create_stream(&wanted).await?,
            Step::Update { .. } => bus.update_stream(&wanted).await?,
            Step::Same { .. } | Step::Unknown { .. } => {}
        }
    }
    bus.put_bucket(topology::registry(names, sizes)).await?;
    Ok(steps)
}

/// The streams for the broker at hand: how large a message may be follows from what it takes itself.
fn wanted(bus: &dyn Bus, names: &Names, sizes: &Sizes) -> Vec<stream::Config> {
    let told = bus.server().message_bytes_max;
    topology::streams(names, sizes, if told == 0 { topology::BROKER_BYTES_MAX } else { told })
}

/// The stream of receipts for the bus at hand.
pub fn receipts_table(bus: &dyn Bus, names: &Names, sizes: &Sizes) -> stream::Config {
    let mut wanted = topology::receipts(names, sizes);
    if bus.server().in_process {
        // Nothing expires there; its size bounds it.
        wanted.max_age = Duration::ZERO;
    }
    wanted
}

/// It is made on first use, so it is only looked at where it exists.
async fn receipts(bus: &dyn Bus, names: &Names, sizes: &Sizes) -> Result<Option<Step>, Fault> {
    let name = names.receipts();
    let Some(found) = bus.stream(&name).await? else { return Ok(None) };
    let changes = diff(&receipts_table(bus, names, sizes), &found.config)?;
    Ok(Some(if changes.is_empty() { Step::Same { name } } else { Step::Update { name, changes } }))
}

fn step_name(step: &Step) -> &str {
    match step {
        Step::Create { name } | Step::Update { name, .. } | Step::Same { name } | Step::Unknown { name } => name,
    }
}

async fn unknown(bus: &dyn Bus, names: &Names, known: &[Step]) -> Result<Vec<Step>, Fault> {
    let prefix = format!("AB_{}_", names.namespace());
    let ours = bus.stream_names().await?.into_iter().filter(|name| name.starts_with(&prefix));
    Ok(ours
        .filter(|name| !known.iter().any(|step| step_name(step) == name))
        .map(|name| Step::Unknown { name })
        .collect())
}

/// Fields that are ours to set and differ. Fields the server adds by itself are not a difference.
fn diff(wanted: &stream::Config, found: &stream::Config) -> Result<Vec<Change>, Fault> {
    let object = |config: &stream::Config| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Fault::new(Code::BadConfig, "a stream configuration is no JSON object")),
    };
    let (wanted, found): (Map<String, Value>, Map<String, Value>) = (object(wanted)?, object(found)?);
    let fields = wanted.iter().filter(|(field, _)| field.as_str() != "metadata");
    let differing = fields.filter(|(field, to)| found.get(*field).unwrap_or(&Value::Null) != *to && !is_unset(to));
    Ok(differing
        .map(|(field, to)| Change {
            field: field.clone(),
            from: found.get(field).cloned().unwrap_or(Value::Null),
            to: to.clone(),
        })
        .collect())
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_fields_make_a_difference() {
        let names = Names::new("default");
        let wanted = topology::streams(&names, &Sizes::default(), topology::BROKER_BYTES_MAX).remove(0);
        let mut found = wanted.clone();
        found.metadata.insert("_nats.ver".into(), "2.15.2".into());
        assert_eq!(diff(&wanted, &found).unwrap(), []);
        found.max_bytes = 5;
        let changes = diff(&wanted, &found).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].field, "max_bytes");
        let unlimited = stream::Config { max_message_size: -1, ..wanted.clone() };
        let changes = diff(&wanted, &unlimited).unwrap();
        assert_eq!((changes.len(), changes[0].field.as_str()), (1, "max_msg_size"));
    }
}
