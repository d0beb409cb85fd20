//! Who may come in: the bearer token, a loopback `Host`, and no foreign `Origin`.
//!
//! Loopback alone is no protection: any web page can make a browser send requests here, and a rebound DNS name can make
//! it read the answers. So every request shows the token, names us by a loopback name, and carries no foreign origin.

use std::sync::Arc;

use agentbus_proto::{Code, Fault};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::http::problem;
use crate::metrics::{Metrics, Outcome};

/// The checks' data.
#[derive(Clone)]
pub(super) struct Door {
    inner: Arc<Inner>,
}

struct Inner {
    authorization: String,
    hosts: Vec<String>,
    metrics: Metrics,
}

impl Door {
    pub(super) fn new(token: &str, port: u16, metrics: Metrics) -> Self {
        let hosts = ["127.0.0.1", "localhost", "[::1]"].iter().map(|name| format!("{name}:{port}")).collect();
        Self { inner: Arc::new(Inner { authorization: format!("Bearer {token}"), hosts, metrics }) }
    }

    fn refuse(&self, headers: &HeaderMap, uri: &Uri) -> Option<Fault> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // HTTP/2 carries the host as :authority; a unix socket's client may send any plain name without a port.
        let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(header::HOST));
        if !host.is_some_and(|host| self.is_ours(host)) {
            let why = format!("`Host: {}` is not this sidecar; use 127.0.0.1 or localhost", host.unwrap_or_default());
            return Some(Fault::new(Code::ScopeDenied, why));
        }
        let foreign = |origin: &str| !origin.strip_prefix("http://").is_some_and(|host| self.is_ours(host));
        if let Some(origin) = text(header::ORIGIN).filter(|origin| foreign(origin)) {
            return Some(Fault::new(Code::ScopeDenied, format!("requests from the web page `{origin}` are refused")));
        }
        let given = text(header::AUTHORIZATION).unwrap_or_default();
        if !same(given.as_bytes(), self.inner.authorization.as_bytes()) {
            let why = "missing or wrong token: send `Authorization: Bearer $AGENTBUS_TOKEN`";
            return Some(Fault::new(Code::Unauthenticated, why));
        }
        None
    }

    fn is_ours(&self, host: &str) -> bool {
        self.inner.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host)) || host.eq_ignore_ascii_case("localhost")
    }
}

/// Compares without telling by its time where the first difference is.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

/// The middleware in front of everything.
pub(super) async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    let Some(fault) = door.refuse(request.headers(), request.uri()) else { return next.run(request).await };
    door.inner.metrics.refused.get_or_create(&Outcome { outcome: fault.code.as_str() }).inc();
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::from(&fault).into_http::<axum::body::Body>().into_response();
    }
    problem(&fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>, authorization: Option<&str>) -> Option<Code> {
        let door = Door::new("secret", 4001, Metrics::new());
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        }
        door.refuse(&headers, &Uri::from_static("/v1/publish")).map(|fault| fault.code)
    }

    #[test]
    fn only_the_agent_comes_in() {
        let good = Some("Bearer secret");
        assert_eq!(check("127.0.0.1:4001", None, good), None);
        assert_eq!(check("LOCALHOST:4001", None, good), None);
        assert_eq!(check("[::1]:4001", Some("http://localhost:4001"), good), None);
        assert_eq!(check("127.0.0.1:4001", None, None), Some(Code::Unauthenticated));
        assert_eq!(check("127.0.0.1:4001", None, Some("Bearer secreT")), Some(Code::Unauthenticated));
        assert_eq!(check("127.0.0.1:4001", None, Some("Bearer secret2")), Some(Code::Unauthenticated));
        assert_eq!(check("evil.example:4001", None, good), Some(Code::ScopeDenied));
        assert_eq!(check("127.0.0.1:9999", None, good), Some(Code::ScopeDenied));
        assert_eq!(check("127.0.0.1:4001", Some("http://evil.example"), good), Some(Code::ScopeDenied));
        assert_eq!(check("127.0.0.1:4001", Some("null"), good), Some(Code::ScopeDenied));
    }
}
