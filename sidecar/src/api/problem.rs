//! Faults as HTTP answers (RFC 9457), and the answers for what is not served at all.

use agentbus_proto::{Code, Fault};
use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Media type of RFC 9457.
const PROBLEM: &str = "application/problem+json";

/// RFC 9457.
pub(super) fn problem(fault: &Fault) -> Response {
    respond(fault, fault.problem_json())
}

/// RFC 9457, with one more member.
pub(super) fn problem_with(fault: &Fault, member: &str, value: &impl serde::Serialize) -> Response {
    let mut problem = fault.problem_json();
    // What cannot be written is left out: the problem itself matters more.
    problem[member] = serde_json::to_value(value).unwrap_or_default();
    respond(fault, problem)
}

fn respond(fault: &Fault, problem: serde_json::Value) -> Response {
    let status = StatusCode::from_u16(fault.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    if fault.code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = fault.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

/// A fault as an answer.
pub(super) struct Problem(pub(super) Fault);

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        problem(&self.0)
    }
}

/// For paths nobody serves. A gRPC call gets gRPC's own answer.
pub(super) async fn other_path(request: Request) -> Response {
    let path = request.uri().path().escape_debug().to_string();
    if is_grpc(request.headers()) {
        return tonic::Status::unimplemented(format!("no such method: {path}")).into_http::<Body>().into_response();
    }
    unserved(StatusCode::NOT_FOUND, format!("nothing is served at `{path}`; GET /openapi.json tells what is"))
}

pub(super) async fn other_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path().escape_debug());
    unserved(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("`{path}` takes no {method}; GET /openapi.json tells what it takes"),
    )
}

/// A problem about the request line: plain HTTP, none of the contract's codes means it.
fn unserved(status: StatusCode, detail: String) -> Response {
    let title = status.canonical_reason().unwrap_or_default().to_lowercase();
    let problem = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    (status, [(header::CONTENT_TYPE, PROBLEM)], problem.to_string()).into_response()
}

/// Whether this is a gRPC call, which wants its errors in trailers.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
