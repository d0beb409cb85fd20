//! `streams plan|apply` over HTTP.

use std::sync::Arc;
use std::time::SystemTime;

use agentbus_nats::publisher::Message;
use agentbus_nats::{headers, moves, plan, subject};
use agentbus_proto::{Code, Fault};
use async_nats::HeaderMap;
use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::answers::{Step, Streams};
use super::errors::{Answer, Body, parse_nothing};
use super::router::Shared;

/// Name of the fact, below `aba.<ns>.`.
const APPLIED: &str = "topology.applied.v1";

pub(super) async fn plan(State(shared): State<Arc<Shared>>) -> Answer<Streams> {
    let api = &shared.api;
    let steps = plan::plan(&*api.bus, &api.names, &api.sizes).await?;
    let table = plan::table(&api.names, &api.sizes)
        .map_err(|error| Fault::new(Code::BadConfig, format!("the streams cannot be written as JSON: {error}")))?;
    Ok(Json(Streams { steps: steps.into_iter().map(Step::from).collect(), table }))
}

pub(super) async fn apply(State(shared): State<Arc<Shared>>, body: Body) -> Answer<Streams> {
    parse_nothing(body)?;
    let api = &shared.api;
    let steps = plan::apply(&*api.bus, &api.names, &api.sizes).await?;
    let steps: Vec<Step> = steps.into_iter().map(Step::from).collect();
    if steps.iter().any(Step::changes_something) {
        record(&shared, &steps).await;
    }
    Ok(Json(Streams { steps, table: Vec::new() }))
}

/// The streams are as wanted by now, so a fact that cannot be stored is no reason to fail.
async fn record(shared: &Shared, steps: &[Step]) {
    let at = moves::rfc3339(SystemTime::now());
    let mut headers = HeaderMap::new();
    headers.insert(headers::MSG_ID, format!("topology/{at}"));
    headers.insert(headers::CONTENT_TYPE, "application/json");
    let subject = subject::audit(shared.api.names.namespace(), APPLIED);
    let payload = json!({"by": "api", "at": at, "steps": steps}).to_string();
    if let Err(fault) = shared.api.bus.store(Message { subject, headers, payload: payload.into() }).await {
        tracing::warn!(%fault, "streams applied, but the fact could not be stored");
    }
}
