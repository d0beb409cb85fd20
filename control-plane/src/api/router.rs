//! The routes, and what every handler has at hand.

use std::sync::Arc;

use agentbus_nats::bus::Bus;
use agentbus_nats::identity::Layout;
use agentbus_nats::names::Names;
use agentbus_nats::topology::Sizes;
use agentbus_proto::http::{Problem, no_query, other_method, other_path, readable};
use agentbus_runtime::serve::Peer;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;

use super::{auth, dead_letters, events, replay, streams, system};
use crate::dead_letters::{DeadLetters, Shares};
use crate::events::Events;
use crate::replay::Replays;
use crate::status::InstanceStatus;
use crate::trimmer::Alarms;

/// Longest request body, in bytes: a thousand sequence numbers and some.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What the API stands on.
pub struct ApiState {
    /// With the control plane's rights.
    pub bus: Arc<dyn Bus>,
    /// Of the namespace served.
    pub names: Names,
    /// How it lies on the broker.
    pub layout: Layout,
    /// Wanted sizes of the streams.
    pub sizes: Sizes,
    /// What callers must show. Empty: nobody gets in.
    pub token: String,
    /// Answers questions about events.
    pub events: Arc<Events>,
    /// Reads and redrives dead letters.
    pub letters: Arc<DeadLetters>,
    /// Knows which groups have used up their share of them.
    pub shares: Arc<Shares>,
    /// What runs.
    pub instances: watch::Receiver<Vec<InstanceStatus>>,
    /// Copies stored events.
    pub replays: Replays,
    /// Groups that keep the stream from being trimmed.
    pub alarms: Alarms,
    /// The groups that exist now.
    pub groups: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

/// Shared by all handlers.
pub(super) struct Shared {
    pub api: ApiState,
}

/// The API. To be served on loopback.
pub fn router(state: ApiState) -> Router {
    let shared = Arc::new(Shared { api: state });
    let queried =
        Router::new().route("/v1/dead-letters", get(dead_letters::list)).route("/v1/events", get(events::list));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/v1/status", get(system::status))
        .route("/v1/agents", get(system::agents))
        .route("/v1/dead-letters/groups", get(dead_letters::causes))
        .route("/v1/dead-letters/redrive", post(dead_letters::redrive))
        .route("/v1/dead-letters/{seq}", get(dead_letters::show))
        .route("/v1/events/{*id}", get(events::show))
        .route("/v1/chains/{*id}", get(events::chain))
        .route("/v1/replay", post(replay::run))
        .route("/v1/streams/plan", get(streams::plan))
        .route("/v1/streams/apply", post(streams::apply))
        .route_layer(from_fn(no_query))
        .merge(queried)
        .fallback(other_path)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn(readable))
        .layer(from_fn_with_state(shared.clone(), admit))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/livez" {
        return next.run(request).await;
    }
    if let Err(fault) = auth::check(request.headers(), request.uri(), &shared.api.token) {
        return Problem::from(fault).into_response();
    }
    // From now on this connection is kept.
    if let Some(peer) = request.extensions().get::<Peer>() {
        peer.admit();
    }
    next.run(request).await
}
