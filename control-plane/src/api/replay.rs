//! Replays that store copies, over HTTP: only reading of requests; the work is in `crate::replay`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::errors::{Answer, Body, parse};
use super::router::Shared;
use crate::replay::{Report, Request};

pub(super) async fn run(State(shared): State<Arc<Shared>>, body: Body) -> Answer<Report> {
    let request: Request = parse(body)?;
    Ok(Json(shared.api.replays.run(&request, "api").await?))
}
