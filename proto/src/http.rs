//! Faults as HTTP answers (RFC 9457), and the checks that every HTTP API of the bus makes of a request before a handler sees
//! it: whatever is refused is refused with a problem and a stable code, and nothing that is sent is silently ignored.

use axum::body::HttpBody;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Code, Fault};

/// Media type of RFC 9457.
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A fault on its way out.
#[derive(Debug)]
pub struct Problem {
    fault: Fault,
    status: StatusCode,
    more: Option<(&'static str, Value)>,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(fault.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { fault, status, more: None }
    }
}

impl Problem {
    /// With a status of its own, where HTTP has a finer one than the code has.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// With one more member.
    #[must_use]
    pub fn with(self, member: &'static str, value: &impl serde::Serialize) -> Self {
        // What cannot be written is left out: the problem itself matters more.
        Self { more: serde_json::to_value(value).ok().map(|value| (member, value)), ..self }
    }

    /// A request that cannot be read: a wrong path, query or body.
    pub fn unreadable(what: impl std::fmt::Display) -> Self {
        Fault::new(Code::InvalidEvent, format!("the request cannot be read: {what}")).into()
    }

    fn body(&self) -> String {
        let mut body = self.fault.problem_json();
        body["status"] = self.status.as_u16().into();
        if let Some((member, value)) = &self.more {
            body[member] = value.clone();
        }
        body.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, PROBLEM)], self.body()).into_response();
        let headers = response.headers_mut();
        if self.fault.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.fault.retry_after {
            // Whole seconds are all that the header can say; the body has it exactly.
            headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        response
    }
}

/// The body of the answer to what is no HTTP, by the status that the parser has chosen for it.
pub fn unparsed(status: u16) -> String {
    let fault = match status {
        414 => Fault::new(Code::TooLarge, "the path and query of the request are too long"),
        431 => Fault::new(Code::TooLarge, "the request has too many or too long header lines"),
        _ => Fault::new(Code::InvalidEvent, "the request is not valid HTTP"),
    };
    let problem = Problem::from(fault);
    let status = StatusCode::from_u16(status).unwrap_or(problem.status);
    problem.with_status(status).body()
}

/// For paths nobody serves.
pub async fn other_path(uri: Uri) -> Problem {
    Fault::new(Code::NotFound, format!("nothing is served at `{}`", uri.path().escape_debug())).into()
}

/// For methods that a path does not take; the router adds `Allow`.
pub async fn other_method(method: Method, uri: Uri) -> Problem {
    let fault = Fault::new(Code::NotFound, format!("`{}` takes no {method}", uri.path().escape_debug()));
    Problem::from(fault).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// In front of all routes: percent-encoding must be right, and a method that means no body comes without one.
pub async fn readable(request: Request, next: Next) -> Response {
    let parts = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    if let Some(bad) = parts.contains('%').then(|| bad_encoding(parts)).flatten() {
        return Problem::unreadable(format_args!("`{bad}` in its path or query is no percent-encoded UTF-8"))
            .into_response();
    }
    let bodiless = [Method::GET, Method::HEAD, Method::DELETE].contains(request.method());
    if bodiless && !request.body().is_end_stream() {
        return Problem::unreadable(format_args!("a {} takes no body", request.method())).into_response();
    }
    next.run(request).await
}

/// In front of the routes that take no query.
pub async fn no_query(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    match query.split('&').find(|pair| !pair.is_empty()) {
        None => next.run(request).await,
        Some(pair) => {
            let key = pair.split('=').next().unwrap_or_default().escape_debug();
            Problem::unreadable(format_args!("unknown query key `{key}`: there are none here")).into_response()
        }
    }
}

/// The first thing in a path or query that is not right.
fn bad_encoding(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let digits = String::from_utf8_lossy(&rest[..rest.len().min(2)]);
        // A sign would be taken for a part of a number.
        let hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match u8::from_str_radix(&digits, 16) {
            Ok(byte) if hex => decoded.push(byte),
            _ => return Some(format!("%{}", digits.escape_debug())),
        }
        rest = &rest[2..];
    }
    let error = std::str::from_utf8(&decoded).err()?;
    Some(format!("%{:02X}", decoded[error.valid_up_to()]))
}

/// The path's parameters, or a problem.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|error| Problem::unreadable(error.body_text()))
    }
}

/// The query, or a problem.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|error| Problem::unreadable(error.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_right_or_named() {
        for good in ["", "/v1/events/a%2Fb", "/%E2%82%AC?x=%00&y=+", "/plain"] {
            assert_eq!(bad_encoding(good), None, "{good}");
        }
        for (bad, wanted) in
            [("/%", "%"), ("/%4", "%4"), ("/%zz/x", "%zz"), ("/%+1", "%+1"), ("/a%FFb", "%FF"), ("/x?y=%C3", "%C3")]
        {
            assert_eq!(bad_encoding(bad).as_deref(), Some(wanted), "{bad}");
        }
    }

    #[test]
    fn what_is_no_http_has_a_code_and_the_status_of_http() {
        for (status, code) in [(400, Code::InvalidEvent), (414, Code::TooLarge), (431, Code::TooLarge)] {
            let body: Value = serde_json::from_str(&unparsed(status)).unwrap();
            assert_eq!((&body["status"], Fault::from_problem_json(&body).unwrap().code), (&status.into(), code));
        }
    }
}
