//! Status and agents over HTTP.
//!
//! Status always answers: what the broker does not tell is named as a problem beside what is known without it.

use std::collections::HashMap;
use std::sync::Arc;

use agentbus_nats::connect::State as LinkState;
use agentbus_nats::{consumers, subject};
use async_nats::jetstream::stream::Info;
use axum::Json;
use axum::extract::State;
use futures_util::TryStreamExt;

use super::answers::Agents;
use super::router::{ApiState, Shared};
use crate::status::{BrokerStatus, GroupStatus, StreamStatus, SystemStatus};

pub(super) async fn agents(State(shared): State<Arc<Shared>>) -> Json<Agents> {
    Json(Agents { agents: shared.api.instances.borrow().clone() })
}

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Json<SystemStatus> {
    let api = &shared.api;
    let mut status = SystemStatus {
        namespace: api.names.namespace().to_owned(),
        broker: broker(api),
        agents: api.instances.borrow().clone(),
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
            Ok(dead) => status.groups = groups(api, &dead).await,
            Err(why) => status.broker.problem = Some(why),
        }
    }
    Json(status)
}

fn broker(api: &ApiState) -> BrokerStatus {
    let info = api.link.client.server_info();
    let problem = match &*api.link.state().borrow() {
        LinkState::Up(_) => None,
        LinkState::Down(why) => Some(why.clone()),
    };
    let url = format!("nats://{}:{}", info.host, info.port);
    BrokerStatus { url, version: info.version, connected: problem.is_none(), problem }
}

async fn streams(api: &ApiState) -> Result<Vec<StreamStatus>, String> {
    let names = &api.names;
    let mut streams = Vec::new();
    for name in [names.events(), names.retry(), names.dead_letters(), names.audit()] {
        let stream = api.context.get_stream(&name).await.map_err(|error| format!("cannot read `{name}`: {error}"))?;
        let Info { state, config, .. } = stream.cached_info();
        let (messages, bytes, max_bytes) = (state.messages, state.bytes, config.max_bytes);
        streams.push(StreamStatus { name, messages, bytes, max_bytes });
    }
    Ok(streams)
}

/// Dead letters per group: the stream counts them by subject.
async fn dead_letters(api: &ApiState) -> Result<HashMap<String, u64>, String> {
    let name = api.names.dead_letters();
    let why = |error: &dyn std::fmt::Display| format!("cannot count `{name}`: {error}");
    let stream = api.context.get_stream_no_info(&name).await.map_err(|error| why(&error))?;
    let all = subject::dead_letter(api.names.namespace(), "*", "*", "*");
    let mut subjects = stream.info_with_subjects(all).await.map_err(|error| why(&error))?;
    let mut counts = HashMap::new();
    while let Some((subject, count)) = subjects.try_next().await.map_err(|error| why(&error))? {
        let group = subject.split('.').nth(2).unwrap_or_default().to_owned();
        *counts.entry(group).or_default() += count as u64;
    }
    Ok(counts)
}

async fn groups(api: &ApiState, dead: &HashMap<String, u64>) -> Vec<GroupStatus> {
    let mut groups = Vec::new();
    for group in (api.groups)() {
        // One by one, so that a group whose consumer is missing does not hide the others.
        let mut status = match consumers::states(&api.context, &api.names, std::slice::from_ref(&group)).await {
            Ok(states) => states.into_iter().next().map(GroupStatus::from).unwrap_or_default(),
            Err(fault) => GroupStatus { problem: Some(fault.message), ..GroupStatus::default() },
        };
        status.dead_letters = dead.get(&group).copied().unwrap_or(0);
        status.group = group;
        groups.push(status);
    }
    groups
}
