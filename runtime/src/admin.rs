//! The admin listener: `/livez`, `/readyz`, `/metrics` for the kubelet and Prometheus, and where a token was set for it
//! `POST /drain` to stop gently (a signal does the same).
//!
//! Looking needs no token: bind it to loopback or to a pod's network. What a web page could abuse is refused: a request with an
//! `Origin` header comes from a browser, and one whose `Host` is a name other than `localhost` may come from a page whose
//! name was rebound to this address. Probes and Prometheus use addresses, which nobody can rebind.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use sha2::{Digest, Sha256};
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
    /// What `POST /drain` must show; none = it is not there.
    pub token: Option<String>,
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
    let mut router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text));
    if admin.token.iter().any(|token| !token.is_empty()) {
        router = router.route("/drain", post(drain));
    }
    router.layer(from_fn(refuse_browsers)).with_state(admin)
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

async fn drain(State(admin): State<Admin>, headers: HeaderMap) -> StatusCode {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Digests, so that the time it takes tells nothing about the token.
    let same = |wanted: String| shown.is_some_and(|shown| Sha256::digest(shown) == Sha256::digest(wanted));
    if !admin.token.is_some_and(same) {
        return StatusCode::UNAUTHORIZED;
    }
    info!("drain requested");
    admin.drain.cancel();
    StatusCode::ACCEPTED
}

async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "requests from web pages are refused\n").into_response();
    }
    if !names_an_address(request.headers(), request.uri()) {
        return (StatusCode::FORBIDDEN, "use an IP address or localhost in `Host`\n").into_response();
    }
    next.run(request).await
}

/// Whether all that names the host, of HTTP/2 in the URI and of HTTP/1 in the header, is an address or `localhost`.
fn names_an_address(headers: &HeaderMap, uri: &Uri) -> bool {
    let headers = headers.get_all(header::HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
    let mut named = uri.authority().cloned().map(Some).into_iter().chain(headers).peekable();
    let is_address = |authority: Authority| {
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
    };
    named.peek().is_some() && named.all(|authority| authority.is_some_and(is_address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_rebound_are_told_from_addresses() {
        let named = |hosts: &[&'static str], uri: &'static str| {
            let hosts = hosts.iter().map(|host| (header::HOST, host.parse().unwrap()));
            names_an_address(&hosts.collect(), &Uri::from_static(uri))
        };
        for good in ["127.0.0.1:9090", "10.1.2.3", "[::1]:9090", "[fd00::7]", "localhost", "LocalHost:80"] {
            assert!(named(&[good], "/readyz"), "{good}");
        }
        for bad in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b"]
        {
            assert!(!named(&[bad], "/readyz"), "{bad}");
        }
        assert!(!named(&[], "/readyz"));
        assert!(named(&[], "http://10.1.2.3:9090/readyz") && !named(&[], "http://evil.example/readyz"));
        assert!(!named(&["10.1.2.3"], "http://evil.example/readyz"));
    }
}
