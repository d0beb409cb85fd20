//! The admin listener: `/livez`, `/readyz`, `/metrics` for the kubelet and Prometheus, `POST /drain` to stop gently.
//!
//! It has no token: bind it to loopback or to a pod's network. What a web page could abuse is refused: a request with an
//! `Origin` header comes from a browser, and no page has business here.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::metrics;
use crate::ready::Readiness;

/// What the admin listener shows and touches.
#[derive(Clone)]
pub struct Admin {
    /// Answers `/readyz`.
    pub readiness: Readiness,
    /// Makes the text of `/metrics`; see [`metrics::encode`].
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Cancelled by `POST /drain`.
    pub drain: CancellationToken,
}

/// The answer of `/readyz`: 200 when ready, 503 when not.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Ready {
    ready: bool,
    /// Per part `ok`, or why not.
    parts: BTreeMap<String, String>,
}

/// The routes of the admin listener.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/drain", post(drain))
        .layer(from_fn(refuse_browsers))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let parts = admin.readiness.snapshot();
    let ready = parts.iter().all(|(_, state)| state.is_ok());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = |state: Result<(), String>| state.err().unwrap_or_else(|| "ok".to_owned());
    let parts = parts.into_iter().map(|(name, state)| (name, text(state))).collect();
    (status, Json(Ready { ready, parts })).into_response()
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], (admin.metrics)()).into_response()
}

async fn drain(State(admin): State<Admin>) -> StatusCode {
    info!("drain requested");
    admin.drain.cancel();
    StatusCode::ACCEPTED
}

async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "requests from web pages are refused\n").into_response();
    }
    next.run(request).await
}
