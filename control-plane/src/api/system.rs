//! Status and agents over HTTP.
//!
//! Status always answers: what the broker does not tell is named as a problem beside what is known without it. Groups that
//! nobody declares or has joined any more are shown as long as the broker has them: what waits for them is kept.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use agentbus_nats::connect::State as LinkState;
use agentbus_nats::names::Names;
use agentbus_nats::{consumers, subject, topology};
use axum::Json;
use axum::extract::State;

use super::answers::Agents;
use super::router::{ApiState, Shared};
use crate::status::{BrokerStatus, GroupStatus, StreamStatus, SystemStatus};

/// Consumers looked at in search of groups that nobody is in: four pages of the broker's list.
const LISTED_MAX: usize = 1024;
/// Of these groups, shown at most; each takes two questions to the broker.
const ABANDONED_MAX: usize = 64;
const ABANDONED: &str = "no agent in this group any more";
const STALLED: &str =
    "stalled: its dead letters have used up its share; send some again or set `retention.dead_letters`";

pub(super) async fn agents(State(shared): State<Arc<Shared>>) -> Json<Agents> {
    Json(Agents { agents: shared.api.instances.borrow().clone() })
}

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Json<SystemStatus> {
    let api = &shared.api;
    let mut status = SystemStatus {
        namespace: api.names.namespace().to_owned(),
        broker: broker(api),
        agents: api.instances.borrow().clone(),
        alarms: api.alarms.borrow().clone(),
        ..SystemStatus::default()
    };
    if status.broker.connected {
        match streams(api).await {
            Ok(streams) => status.streams = streams,
            Err(why) => status.broker.problem = Some(why),
        }
    }
    // A broker that did not answer once would only be waited for again and again.
    if status.broker.connected && status.broker.problem.is_none() {
        match dead_letters(api).await {
            Ok(dead) => {
                let known = (api.groups)();
                status.groups = groups(api, &known, &dead).await;
                match abandoned(api, &known).await {
                    Ok(names) => status.groups.extend(groups(api, &names, &dead).await.into_iter().map(noted)),
                    Err(why) => status.broker.problem = Some(why),
                }
            }
            Err(why) => status.broker.problem = Some(why),
        }
    }
    for alarm in &status.alarms {
        let group = status.groups.iter_mut().find(|group| group.group == alarm.group);
        group.map(|group| group.problem.get_or_insert_with(|| alarm.message.clone()));
    }
    Json(status)
}

fn broker(api: &ApiState) -> BrokerStatus {
    let server = api.bus.server();
    let problem = match &*api.bus.state().borrow() {
        LinkState::Up(_) => None,
        LinkState::Down(why) => Some(why.clone()),
    };
    BrokerStatus { url: server.url, version: server.version, layout: api.layout, connected: problem.is_none(), problem }
}

async fn streams(api: &ApiState) -> Result<Vec<StreamStatus>, String> {
    let names = &api.names;
    let mut streams = Vec::new();
    for name in [names.events(), names.retry(), names.dead_letters(), names.schedules(), names.audit()] {
        let found = api.bus.stream(&name).await.map_err(|fault| format!("cannot read `{name}`: {}", fault.message))?;
        let info = found.ok_or_else(|| format!("cannot read `{name}`: there is no such stream"))?;
        let (messages, bytes, max_bytes) = (info.messages, info.bytes, info.config.max_bytes);
        streams.push(StreamStatus { name, messages, bytes, max_bytes });
    }
    Ok(streams)
}

/// Dead letters per group: the stream counts them by subject.
async fn dead_letters(api: &ApiState) -> Result<HashMap<String, u64>, String> {
    let all = subject::dead_letter(api.names.namespace(), "*", "*", "*");
    let subjects = api.bus.subjects(&api.names.dead_letters(), &all).await.map_err(|fault| fault.message)?;
    let mut counts = HashMap::new();
    for (subject, count) in subjects {
        let group = subject.split('.').nth(2).unwrap_or_default().to_owned();
        *counts.entry(group).or_default() += count;
    }
    Ok(counts)
}

async fn groups(api: &ApiState, names: &[String], dead: &HashMap<String, u64>) -> Vec<GroupStatus> {
    let mut groups = Vec::new();
    for group in names {
        // One by one, so that a group whose consumer is missing does not hide the others.
        let mut status = match consumers::states(&*api.bus, &api.names, std::slice::from_ref(group)).await {
            Ok(states) => states.into_iter().next().map(GroupStatus::from).unwrap_or_default(),
            Err(fault) => GroupStatus { problem: Some(fault.message), ..GroupStatus::default() },
        };
        status.dead_letters = dead.get(group).copied().unwrap_or(0);
        status.group.clone_from(group);
        status.stalled = status.dead_letters > 0 && api.shares.is_stalled(group).await;
        if status.stalled {
            status.problem.get_or_insert_with(|| STALLED.to_owned());
        }
        groups.push(status);
    }
    groups
}

/// Groups that the broker has and nobody here knows, by name; the first ones, when there are very many.
async fn abandoned(api: &ApiState, known: &[String]) -> Result<Vec<String>, String> {
    let listed = api.bus.consumers(&api.names.events(), LISTED_MAX).await.map_err(|fault| fault.message)?;
    let mut abandoned = BTreeSet::new();
    for consumer in listed {
        // Only those that say they are ours: somebody may look into the stream with another tool.
        let group = consumer.config.metadata.get(topology::METADATA_GROUP);
        let ours = group.filter(|group| Names::group_of(&consumer.name) == group.as_str());
        abandoned.extend(ours.filter(|group| !known.contains(group)).cloned());
    }
    Ok(abandoned.into_iter().take(ABANDONED_MAX).collect())
}

/// Whoever waits for events of such a group joined it elsewhere, at another control plane.
fn noted(mut group: GroupStatus) -> GroupStatus {
    if group.waiting == 0 {
        group.problem.get_or_insert_with(|| ABANDONED.to_owned());
    }
    group
}
