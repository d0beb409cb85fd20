//! Bodies and queries of the API that are not another module's types. The command line uses the same ones.

use agentbus_nats::plan;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dead_letters::Filter;
use crate::status::InstanceStatus;

/// Query of `GET /v1/dead-letters`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    /// See [`Filter`]; likewise for the next four.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Type pattern.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Part of the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Also those that have been redriven.
    pub all: bool,
    /// Most letters wanted, 1 to 1000. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only behind this number.
    pub after: u64,
}

impl ListQuery {
    /// The conditions.
    pub fn filter(&self) -> Filter {
        let Self { group, class, event_type, cause, all, .. } = self.clone();
        Filter { group, class, event_type, cause, all }
    }
}

/// Answer of `GET /v1/agents`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agents {
    /// All instances.
    pub agents: Vec<InstanceStatus>,
}

/// Answer of `GET /v1/streams/plan` and `POST /v1/streams/apply`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    /// What is to be done, or what was done.
    pub steps: Vec<Step>,
    /// The wanted streams, as `nats stream add --config` reads them. Only in a plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<Value>,
}

/// The actions of a [`Step`].
pub const PLAN_ACTIONS: [&str; 4] = ["create", "update", "same", "unknown"];

/// What is to be done about one stream or bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// One of [`PLAN_ACTIONS`]; `unknown` is ours by name but not in the table, and left alone.
    pub action: String,
    /// Stream or bucket.
    pub name: String,
    /// What differs, for `update`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// One differing field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Field in the server's JSON.
    pub field: String,
    /// Value on the broker.
    pub from: Value,
    /// Value in the table.
    pub to: Value,
}

impl Step {
    /// Whether applying does something about it.
    pub fn changes_something(&self) -> bool {
        matches!(self.action.as_str(), "create" | "update")
    }
}

impl From<plan::Step> for Step {
    fn from(step: plan::Step) -> Self {
        let (action, name, changes) = match step {
            plan::Step::Create { name } => (0, name, Vec::new()),
            plan::Step::Update { name, changes } => (1, name, changes),
            plan::Step::Same { name } => (2, name, Vec::new()),
            plan::Step::Unknown { name } => (3, name, Vec::new()),
        };
        let changes = changes.into_iter().map(|plan::Change { field, from, to }| Change { field, from, to }).collect();
        Self { action: PLAN_ACTIONS[action].to_owned(), name, changes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_spelled_as_the_plan_spells_them() {
        let name = || "S".to_owned();
        let changes = vec![plan::Change { field: "max_bytes".into(), from: 1.into(), to: 2.into() }];
        for step in [
            plan::Step::Create { name: name() },
            plan::Step::Update { name: name(), changes },
            plan::Step::Same { name: name() },
            plan::Step::Unknown { name: name() },
        ] {
            let (written, changes) = (serde_json::to_value(&step).unwrap(), step.changes_something());
            let ours = Step::from(step);
            assert_eq!(serde_json::to_value(&ours).unwrap(), written);
            assert_eq!(ours.changes_something(), changes);
        }
    }
}
