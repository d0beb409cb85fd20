//! Compares the topology with a broker and applies the difference. Updates or reports; never deletes, never recreates.

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::{self, ErrorCode, stream};
use serde::Serialize;
use serde_json::{Map, Value};

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
pub async fn plan(context: &jetstream::Context, names: &Names, sizes: &Sizes) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::new();
    for wanted in wanted(context, names, sizes) {
        let name = wanted.name.clone();
        steps.push(match existing(context, &name).await? {
            None => Step::Create { name },
            Some(found) => {
                let changes = diff(&wanted, &found)?;
                if changes.is_empty() { Step::Same { name } } else { Step::Update { name, changes } }
            }
        });
    }
    let bucket = format!("KV_{}", names.registry());
    let found = existing(context, &bucket).await?.is_some();
    steps.push(if found { Step::Same { name: bucket } } else { Step::Create { name: bucket } });
    steps.extend(unknown(context, names, &steps).await?);
    Ok(steps)
}

/// Makes the streams and the registry as the table says; returns what was done.
pub async fn apply(context: &jetstream::Context, names: &Names, sizes: &Sizes) -> Result<Vec<Step>, Fault> {
    let steps = plan(context, names, sizes).await?;
    for wanted in wanted(context, names, sizes) {
        let Some(step) = steps.iter().find(|step| step_name(step) == wanted.name) else { continue };
        let name = wanted.name.clone();
        match step {
            Step::Create { .. } => {
                context.create_stream(&wanted).await.map_err(|error| refused(&name, "create", &error))?;
            }
            Step::Update { .. } => {
                context.update_stream(&wanted).await.map_err(|error| refused(&name, "update", &error))?;
            }
            Step::Same { .. } | Step::Unknown { .. } => {}
        }
    }
    let registry = topology::registry(names, sizes);
    let bucket = registry.bucket.clone();
    context.create_or_update_key_value(registry).await.map_err(|error| refused(&bucket, "create", &error))?;
    Ok(steps)
}

/// The streams for the broker at hand: how large a message may be follows from what it takes itself.
fn wanted(context: &jetstream::Context, names: &Names, sizes: &Sizes) -> Vec<stream::Config> {
    let told = context.client().server_info().max_payload;
    topology::streams(names, sizes, if told == 0 { topology::BROKER_BYTES_MAX } else { told })
}

fn step_name(step: &Step) -> &str {
    match step {
        Step::Create { name } | Step::Update { name, .. } | Step::Same { name } | Step::Unknown { name } => name,
    }
}

async fn existing(context: &jetstream::Context, name: &str) -> Result<Option<stream::Config>, Fault> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) => match error.kind() {
            jetstream::context::GetStreamErrorKind::JetStream(inner)
                if inner.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(refused(name, "read", &error)),
        },
    }
}

async fn unknown(context: &jetstream::Context, names: &Names, known: &[Step]) -> Result<Vec<Step>, Fault> {
    use futures_util::TryStreamExt;
    let prefix = format!("AB_{}_", names.namespace());
    let all: Vec<String> =
        context.stream_names().try_collect().await.map_err(|error| refused("streams", "list", &error))?;
    let ours = all.into_iter().filter(|name| name.starts_with(&prefix));
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

fn refused(name: &str, verb: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !why.contains(&cause_text) {
            why = format!("{why}: {cause_text}");
        }
        source = cause.source();
    }
    if why.contains("10047") || why.contains("insufficient storage") {
        why.push_str(" (the broker's storage quota is smaller than the streams: raise it or free disk space)");
        return Fault::new(Code::CapacityExceeded, format!("cannot {verb} `{name}`: {why}"));
    }
    Fault::new(Code::BrokerDown, format!("cannot {verb} `{name}`: {why}"))
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
