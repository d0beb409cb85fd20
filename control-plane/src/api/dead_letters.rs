//! Dead letters over HTTP: only reading of requests; the work is in `crate::dead_letters`.

use std::sync::Arc;

use agentbus_proto::http::{Path, Query};
use axum::Json;
use axum::extract::State;

use super::answers::ListQuery;
use super::errors::{Answer, Body, parse};
use super::router::Shared;
use crate::dead_letters::{Causes, Page, Report, Request, Shown};

/// Letters of a page unless told otherwise.
const LIMIT_DEFAULT: usize = 100;

pub(super) async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<ListQuery>) -> Answer<Page> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    Ok(Json(shared.api.letters.list(&query.filter(), limit, query.after).await?))
}

pub(super) async fn causes(State(shared): State<Arc<Shared>>) -> Answer<Causes> {
    Ok(Json(shared.api.letters.causes().await?))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(seq): Path<u64>) -> Answer<Shown> {
    Ok(Json(shared.api.letters.show(seq).await?))
}

pub(super) async fn redrive(State(shared): State<Arc<Shared>>, body: Body) -> Answer<Report> {
    let request: Request = parse(body)?;
    Ok(Json(shared.api.letters.redrive(&request, "api").await?))
}
