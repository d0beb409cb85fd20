//! Replays that store copies, over HTTP: only reading of requests; the work is in `crate::replay`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;

use super::errors::{Answer, Problem};
use super::router::Shared;
use crate::replay::{Report, Request};

pub(super) async fn run(State(shared): State<Arc<Shared>>, body: Result<Bytes, BytesRejection>) -> Answer<Report> {
    let body = body.map_err(|error| Problem::unreadable(error.body_text()))?;
    let request: Request = serde_json::from_slice(&body).map_err(Problem::unreadable)?;
    Ok(Json(shared.api.replays.run(&request, "api").await?))
}
