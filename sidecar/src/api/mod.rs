//! The localhost edge: gRPC and HTTP/JSON on one port, behind one door (`door`).
//!
//! `grpc` and `publish_stream`, `subscribe` serve the typed API; `http` the same verbs as JSON; `receive` is the long
//! poll both share. Types are converted here and nowhere deeper.

mod ask;
mod body;
mod door;
mod grpc;
mod http;
mod problem;
mod publish_stream;
mod receive;
mod replay;
mod schedules;
mod status;
mod subscribe;

use std::time::Duration;

use agentbus_proto::http::readable;
use agentbus_proto::sidecar::wire::sidecar_server::SidecarServer;
use agentbus_proto::{FILE_DESCRIPTOR_SET, Fault};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::ask::Asks;
use crate::control::Control;
use crate::inbound::Hub;
use crate::metrics::Metrics;
use crate::outbound::Outbound;

/// Largest gRPC frame: room for an ack with many emitted events, far below what would hurt.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone)]
pub struct State {
    /// The way out.
    pub outbound: Outbound,
    /// The way in.
    pub hub: Hub,
    /// Joins groups.
    pub control: Control,
    /// Asks of the agent.
    pub asks: Asks,
    /// Counters.
    pub metrics: Metrics,
    /// Ends long streams when the listeners close.
    pub stop: CancellationToken,
}

/// The whole edge. `port` is what a `Host` header must name.
pub fn router(state: State, token: &str, port: u16) -> Router {
    let sidecar = SidecarServer::new(grpc::Service::new(state.clone()))
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    let mut routes = Routes::new(sidecar);
    match tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()
    {
        Ok(reflection) => routes = routes.add_service(reflection),
        Err(error) => tracing::error!(%error, "no gRPC reflection"),
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, state.clone()));
    let grpc = routes.add_service(health).prepare().into_axum_router();
    let door = door::Door::new(token, port, state.metrics.clone());
    // The last fallback wins, or the gRPC routes would answer any unknown path with 200 and an empty body.
    let grpc = grpc.reset_fallback().layer(from_fn(problem::coded));
    let routes = http::router(state).merge(grpc).fallback(problem::other_path);
    routes.layer(from_fn(readable)).layer(from_fn_with_state(door, door::check))
}

/// `grpc.health.v1`: serving while the broker is reached and no drain has begun.
async fn report_health(reporter: tonic_health::server::HealthReporter, state: State) {
    let mut link = state.hub.bus().state();
    loop {
        let serving = state.hub.bus().is_up() && !state.hub.is_draining();
        let status =
            if serving { tonic_health::ServingStatus::Serving } else { tonic_health::ServingStatus::NotServing };
        reporter.set_service_status("", status).await;
        reporter.set_service_status("agentbus.sidecar.v1.Sidecar", status).await;
        tokio::select! {
            () = state.stop.cancelled() => return,
            changed = link.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// A protobuf duration as ours; negative or out of range is refused.
fn duration(what: &str, duration: prost_types::Duration) -> Result<Duration, Fault> {
    Duration::try_from(duration)
        .map_err(|_| Fault::new(agentbus_proto::Code::InvalidEvent, format!("`{what}` is negative or out of range")))
}
