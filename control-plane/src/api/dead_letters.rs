//! Dead letters over HTTP: only reading of requests; the work is in `crate::dead_letters`.

use std::sync::Arc;

use agentbus_proto::{Code, Fault};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use http::StatusCode;

use super::answers::ListQuery;
use super::errors::{Answer, Problem};
use super::router::Shared;
use crate::dead_letters::{Causes, Page, Report, Request, Shown};

/// Letters of a page unless told otherwise.
const LIMIT_DEFAULT: usize = 100;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page> {
    let Query(query) = query.map_err(|error| Problem::unreadable(error.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    Ok(Json(shared.api.letters.list(&query.filter(), limit, query.after).await?))
}

pub(super) async fn causes(State(shared): State<Arc<Shared>>) -> Answer<Causes> {
    Ok(Json(shared.api.letters.causes().await?))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, seq: Result<Path<u64>, PathRejection>) -> Answer<Shown> {
    let Path(seq) = seq.map_err(|error| Problem::unreadable(error.body_text()))?;
    Ok(Json(shared.api.letters.show(seq).await?))
}

pub(super) async fn redrive(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Answer<Report> {
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Fault::new(Code::TooLarge, "the request is too large").into(),
        _ => Problem::unreadable(error.body_text()),
    })?;
    let request: Request = serde_json::from_slice(&body).map_err(Problem::unreadable)?;
    Ok(Json(shared.api.letters.redrive(&request, "api").await?))
}
