//! Refusals of this edge: plain HTTP gets a problem, a gRPC call a status, and both have a stable code.

use agentbus_proto::failure::METADATA_CODE;
use agentbus_proto::http::Problem;
use agentbus_proto::{Code, Fault, http};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tonic::Status;

/// A fault in the words of whoever sent this request.
pub(super) fn refusal(headers: &HeaderMap, fault: Fault) -> Response {
    if is_grpc(headers) {
        Status::from(&fault).into_http::<Body>().into_response()
    } else {
        Problem::from(fault).into_response()
    }
}

/// For paths nobody serves.
pub(super) async fn other_path(request: Request) -> Response {
    if is_grpc(request.headers()) {
        let path = request.uri().path().escape_debug();
        let status = Status::from(Fault::new(Code::NotFound, format!("no such method: {path}")));
        return as_code(tonic::Code::Unimplemented, &status).into_http::<Body>().into_response();
    }
    http::other_path(request.uri().clone()).await.into_response()
}

/// Around the gRPC routes: what the library refuses by itself gets its code, too, and plain HTTP is told where it is.
pub(super) async fn coded(request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return other_path(request).await;
    }
    let response = next.run(request).await;
    let bare = |status: &Status| status.code() != tonic::Code::Ok && !status.metadata().contains_key(METADATA_CODE);
    match Status::from_header_map(response.headers()).filter(bare) {
        Some(status) => own(&status).into_http::<Body>().into_response(),
        None => response,
    }
}

/// What the library says about a request, with our code.
pub(super) fn own(status: &Status) -> Status {
    // Of a request that cannot be decoded the library says that it is an error of its own.
    if status.code() == tonic::Code::Internal && status.message().starts_with("failed to decode Protobuf message") {
        return Fault::new(Code::InvalidEvent, status.message()).into();
    }
    as_code(status.code(), &Fault::from(status).into())
}

/// The same status under another gRPC code: only our own code says more than it does.
fn as_code(code: tonic::Code, status: &Status) -> Status {
    let (message, details) = (status.message(), status.details().to_vec().into());
    Status::with_details_and_metadata(code, message, details, status.metadata().clone())
}

/// Whether this is a gRPC call, which wants its errors in trailers.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
