//! Events over HTTP: only reading of requests; the work is in `crate::events`.

use std::sync::Arc;

use agentbus_proto::http::{Path, Query};
use axum::Json;
use axum::extract::State;

use super::errors::Answer;
use super::router::Shared;
use crate::events::{Chain, ListQuery, Listing, Shown};

pub(super) async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<ListQuery>) -> Answer<Listing> {
    Ok(Json(shared.api.events.list(&query).await?))
}

/// The id is the rest of the path: ids of emitted events have slashes.
pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Shown> {
    Ok(Json(shared.api.events.show(&id).await?))
}

pub(super) async fn chain(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Chain> {
    Ok(Json(shared.api.events.chain(&id).await?))
}
