//! Who may come in: the bearer token, a loopback `Host`, and no foreign `Origin`.
//!
//! Loopback alone is no protection: any web page can make a browser send requests here, and a rebound DNS name can make
//! it read the answers. So every request shows the token, names us by a loopback name, and carries no foreign origin.

use std::sync::Arc;

use agentbus_proto::{Code, Fault};
use agentbus_runtime::serve::Peer;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::refusal;
use crate::metrics::{Metrics, Outcome};

/// The checks' data.
#[derive(Clone)]
pub(super) struct Door {
    inner: Arc<Inner>,
}

struct Inner {
    token: String,
    hosts: Vec<String>,
    metrics: Metrics,
}

impl Door {
    pub(super) fn new(token: &str, port: u16, metrics: Metrics) -> Self {
        let hosts = ["127.0.0.1", "localhost", "[::1]"].iter().map(|name| format!("{name}:{port}")).collect();
        Self { inner: Arc::new(Inner { token: token.to_owned(), hosts, metrics }) }
    }

    fn refuse(&self, headers: &HeaderMap, uri: &Uri) -> Option<Fault> {
        // HTTP/2 carries the host as :authority, HTTP/1 as a header; whoever sends both, or one twice, must mean us each
        // time. Text that is not ASCII becomes a name that is nobody's.
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let named = uri.authority().map(|authority| authority.as_str().to_owned());
        let hosts: Vec<String> = named.into_iter().chain(headers.get_all(header::HOST).iter().map(text)).collect();
        let foreign = hosts.iter().find(|host| !self.is_ours(host) && !host.eq_ignore_ascii_case("localhost"));
        if hosts.is_empty() || foreign.is_some() {
            let host = foreign.map(String::as_str).unwrap_or_default();
            let why = format!("`Host: {}` is not this sidecar; use 127.0.0.1 or localhost", host.escape_debug());
            return Some(Fault::new(Code::ScopeDenied, why));
        }
        let same_origin = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| self.is_ours(host));
        if let Some(origin) = headers.get_all(header::ORIGIN).iter().map(text).find(|origin| !same_origin(origin)) {
            let why = format!("requests from the web page `{}` are refused", origin.escape_debug());
            return Some(Fault::new(Code::ScopeDenied, why));
        }
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, token) = given.split_at_checked(BEARER.len()).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(BEARER) || !same(token, self.inner.token.as_bytes()) {
            let why = "missing or wrong token: send `Authorization: Bearer $AGENTBUS_TOKEN`";
            return Some(Fault::new(Code::Unauthenticated, why));
        }
        None
    }

    /// A loopback name with our port. The port is part of it: another server on this machine is another origin.
    fn is_ours(&self, host: &str) -> bool {
        self.inner.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }
}

/// The scheme of RFC 6750, in any case.
const BEARER: &[u8] = b"Bearer ";

/// Compares without telling by its time where the first difference is.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

/// The middleware in front of everything.
pub(super) async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.refuse(request.headers(), request.uri()) {
        None => {
            // From now on this connection is kept.
            if let Some(peer) = request.extensions().get::<Peer>() {
                peer.admit();
            }
            next.run(request).await
        }
        Some(fault) => {
            door.inner.metrics.refused.get_or_create(&Outcome { outcome: fault.code.as_str() }).inc();
            refusal(request.headers(), fault)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>, authorization: Option<&str>) -> Option<Code> {
        let door = Door::new("secret", 4001, Metrics::new());
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
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
        assert_eq!(check("127.0.0.1:4001", Some("http://localhost"), good), Some(Code::ScopeDenied));
        assert_eq!(check("127.0.0.1:4001", Some("http://b\u{fc}cher.example"), good), Some(Code::ScopeDenied));
        assert_eq!(check("localhost", None, Some("bearer secret")), None);
    }

    #[test]
    fn a_second_host_does_not_slip_in() {
        let door = Door::new("secret", 4001, Metrics::new());
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
        headers.insert(header::HOST, "127.0.0.1:4001".parse().unwrap());
        let refused = |headers: &HeaderMap, uri| door.refuse(headers, &Uri::from_static(uri)).map(|fault| fault.code);
        assert_eq!(refused(&headers, "/v1/publish"), None);
        assert_eq!(refused(&headers, "http://evil.example/v1/publish"), Some(Code::ScopeDenied));
        headers.append(header::HOST, "evil.example".parse().unwrap());
        assert_eq!(refused(&headers, "/v1/publish"), Some(Code::ScopeDenied));
    }
}
