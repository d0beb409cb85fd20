//! Faults as HTTP answers: RFC 9457 problems. The only place that does it here.

use agentbus_proto::{Code, Fault};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// A fault on its way out.
pub(super) struct Problem {
    fault: Fault,
    status: StatusCode,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(fault.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { fault, status }
    }
}

impl Problem {
    /// A request that cannot be read: a wrong query, body or number.
    pub(super) fn unreadable(what: impl std::fmt::Display) -> Self {
        Fault::new(Code::InvalidEvent, format!("the request cannot be read: {what}")).into()
    }

    /// Nothing is served there.
    pub(super) fn no_route(what: &str) -> Self {
        let fault = Fault::new(Code::InvalidAddress, format!("the control plane serves no `{}`", what.escape_debug()));
        Self { fault, status: StatusCode::NOT_FOUND }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.fault.problem_json();
        body["status"] = self.status.as_u16().into();
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        let mut response = (self.status, kind, body.to_string()).into_response();
        if let Some(after) = self.fault.retry_after {
            // Whole seconds are all that the header can say; the body has it exactly.
            response.headers_mut().insert(header::RETRY_AFTER, after.as_secs().max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What a handler gives back.
pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;
