//! A small HTTP/1.1 client for the JSON APIs on loopback: the control plane's, and a sidecar's.
//!
//! One connection per request: a command makes a handful. Every request has a limit in time and every answer one in size.
//! Refusals come back as the [`Fault`] the other side meant. No TLS, no redirects, no proxies: it only ever talks to this machine.

use std::time::Duration;

use agentbus_proto::{Code, Fault};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

/// Largest answer, in bytes: a page of dead letters with their payloads.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Time to get a connection: it is the same machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// An API at a base URL, spoken to with a bearer token.
#[derive(Clone, Debug)]
pub struct Api {
    /// For error messages.
    name: &'static str,
    /// The code when nobody answers.
    away: Code,
    base: String,
    token: String,
    limit: Duration,
}

impl Api {
    /// A control plane at `base`, `http://host:port`; `name` is for error messages.
    pub fn new(name: &'static str, base: &str, token: &str) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { name, away: Code::ControlPlaneDown, base, token: token.to_owned(), limit: Duration::from_secs(60) }
    }

    /// A sidecar at `base`.
    pub fn sidecar(base: &str, token: &str) -> Self {
        Self { away: Code::BrokerDown, ..Self::new("the sidecar", base, token) }
    }

    /// Longest time one request may take; the default is 60 s.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// POST with a JSON body.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Fault> {
        let body = serde_json::to_vec(body).map_err(|error| Fault::new(Code::InvalidEvent, error.to_string()))?;
        self.post_bytes(path, body.into()).await
    }

    /// POST with a body that somebody else has written.
    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, Fault> {
        self.call(Method::POST, path, body).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Fault> {
        let unknown = || {
            Fault::new(
                Code::OutcomeUnknown,
                format!("{} at {} did not answer within {:?}", self.name, self.base, self.limit),
            )
        };
        let answer =
            tokio::time::timeout(self.limit, self.exchange(method, path, body)).await.map_err(|_| unknown())??;
        let answer = if answer.is_empty() { Bytes::from_static(b"null") } else { answer };
        serde_json::from_slice(&answer)
            .map_err(|error| self.odd(&format!("its answer to {path} cannot be read: {error}")))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Fault> {
        let authority = self.base.strip_prefix("http://").ok_or_else(|| {
            Fault::new(Code::BadConfig, format!("`{}` is not an http:// URL of this machine", self.base))
        })?;
        let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(authority)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.away(&error.to_string())),
            Err(_) => return Err(self.away("no connection within 5 s")),
        };
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.away(&error.to_string()))?;
        // Ends with `sender`; aborted at the latest when the guard is dropped.
        let _driver = Abort(tokio::spawn(async move {
            connection.await.map_err(|error| tracing::debug!(%error, "connection ended"))
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Fault::new(Code::BadConfig, format!("cannot ask {}{path}: {error}", self.base)))?;
        let broken = |error: hyper::Error| {
            Fault::new(Code::OutcomeUnknown, format!("the connection to {} at {} broke: {error}", self.name, self.base))
        };
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.odd(&format!("its answer cannot be read: {error}")))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, &body)) }
    }

    fn refusal(&self, status: http::StatusCode, body: &[u8]) -> Fault {
        let problem = serde_json::from_slice::<Value>(body).ok();
        problem.as_ref().and_then(Fault::from_problem_json).unwrap_or_else(|| {
            let code = match status.as_u16() {
                401 => Code::Unauthenticated,
                403 => Code::ScopeDenied,
                404 | 405 => Code::NotFound,
                413 => Code::TooLarge,
                429 => Code::RateLimited,
                400..=499 => Code::InvalidEvent,
                503 => self.away,
                _ => Code::OutcomeUnknown,
            };
            let said = crate::output::printable(&String::from_utf8_lossy(&body[..body.len().min(300)]));
            Fault::new(code, format!("{} answered {status}: {said}", self.name))
        })
    }

    fn away(&self, why: &str) -> Fault {
        let message = format!(
            "{} at {} cannot be reached ({why}); is the bus running? see `agentbus status` or start it: `agentbus up -d`",
            self.name, self.base
        );
        Fault::new(self.away, message)
    }

    fn odd(&self, what: &str) -> Fault {
        Fault::new(Code::OutcomeUnknown, format!("{} at {}: {what}", self.name, self.base))
    }
}

/// A query string value, percent-encoded.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

struct Abort<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("a b&c=d/é"), "a%20b%26c%3Dd%2F%C3%A9");
    }

    #[test]
    fn a_refusal_keeps_its_code_and_a_bare_status_gets_one() {
        let api = Api::new("the control plane", "http://127.0.0.1:1", "t");
        let fault = Fault::new(Code::StreamFull, "full");
        let body = fault.problem_json().to_string();
        assert_eq!(api.refusal(http::StatusCode::TOO_MANY_REQUESTS, body.as_bytes()), fault);
        assert_eq!(api.refusal(http::StatusCode::UNAUTHORIZED, b"no").code, Code::Unauthenticated);
    }
}
