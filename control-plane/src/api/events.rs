//! Events over HTTP: only reading of requests; the work is in `crate::events`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};

use super::errors::{Answer, Problem};
use super::router::Shared;
use crate::events::{Chain, ListQuery, Listing, Shown};

type Id = Result<Path<String>, PathRejection>;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Listing> {
    let Query(query) = query.map_err(|error| Problem::unreadable(error.body_text()))?;
    Ok(Json(shared.api.events.list(&query).await?))
}

/// The id is the rest of the path: ids of emitted events have slashes.
pub(super) async fn show(State(shared): State<Arc<Shared>>, id: Id) -> Answer<Shown> {
    let Path(id) = id.map_err(|error| Problem::unreadable(error.body_text()))?;
    Ok(Json(shared.api.events.show(&id).await?))
}

pub(super) async fn chain(State(shared): State<Arc<Shared>>, id: Id) -> Answer<Chain> {
    let Path(id) = id.map_err(|error| Problem::unreadable(error.body_text()))?;
    Ok(Json(shared.api.events.chain(&id).await?))
}
