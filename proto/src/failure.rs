//! A failure that a caller can act on, and its three spellings: the `Failure` of the contract (inside streams), a gRPC
//! status (unary calls), and an HTTP problem (RFC 9457).
//!
//! It does not keep a chain of causes: what crosses a process boundary is the code, a text and when to try again.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::code::Code;
use crate::duration;
use crate::sidecar::v1 as pb;

/// Metadata of a failed gRPC call: the code, for clients that do not decode status details.
pub const METADATA_CODE: &str = "agentbus-code";
/// Metadata of a failed gRPC call: milliseconds after which another try makes sense.
pub const METADATA_RETRY_AFTER: &str = "agentbus-retry-after-ms";
/// Domain of the `google.rpc.ErrorInfo` in the status details.
pub const ERROR_DOMAIN: &str = "agentbus.dev";

/// Why something was refused or could not be done. `message` says what is wrong and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    /// The stable code; decides status and exit code.
    pub code: Code,
    /// Text for people: lower case, no full stop, names the thing.
    pub message: String,
    /// Earliest moment at which another try makes sense, from now.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault without a time to try again.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// Adds when another try makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The body of an HTTP answer, to be sent as `application/problem+json` with `code.http_status()`.
    /// `retry_after` is a duration as text (`"2s"`) and left out when unknown.
    pub fn problem_json(&self) -> Value {
        let mut problem = json!({
            "type": format!("urn:agentbus:error:{}", self.code),
            "title": self.code.title(),
            "status": self.code.http_status(),
            "detail": self.message,
            "code": self.code.as_str(),
        });
        if let Some(after) = self.retry_after {
            problem["retry_after"] = Value::String(duration::format(after));
        }
        problem
    }

    /// Reads an HTTP problem as `problem_json` writes it. `None` when it has no known code.
    pub fn from_problem_json(problem: &Value) -> Option<Self> {
        let code = problem.get("code")?.as_str()?.parse().ok()?;
        let message = problem.get("detail").and_then(Value::as_str).unwrap_or_default().to_owned();
        let after = problem.get("retry_after").and_then(Value::as_str).and_then(|text| duration::parse(text).ok());
        Some(Self { code, message, retry_after: after })
    }
}

impl From<&Fault> for pb::Failure {
    fn from(fault: &Fault) -> Self {
        Self {
            code: fault.code.as_str().to_owned(),
            message: fault.message.clone(),
            retry_after: fault.retry_after.map(duration::to_proto),
        }
    }
}

impl From<Fault> for pb::Failure {
    fn from(fault: Fault) -> Self {
        (&fault).into()
    }
}

/// A code this build does not know, from a newer peer, becomes `OUTCOME_UNKNOWN` with the code in the text: nothing
/// may be concluded from it.
impl From<pb::Failure> for Fault {
    fn from(failure: pb::Failure) -> Self {
        let retry_after = failure.retry_after.and_then(|after| duration::from_proto(&after));
        match failure.code.parse() {
            Ok(code) => Self { code, message: failure.message, retry_after },
            Err(_) => {
                let message = format!("{}: {}", failure.code, failure.message);
                Self { code: Code::OutcomeUnknown, message, retry_after }
            }
        }
    }
}

impl From<&Fault> for tonic::Status {
    fn from(fault: &Fault) -> Self {
        let mut metadata = MetadataMap::new();
        metadata.insert(METADATA_CODE, AsciiMetadataValue::from_static(fault.code.as_str()));
        if let Some(after) = fault.retry_after {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            metadata.insert(METADATA_RETRY_AFTER, millis.into());
        }
        tonic::Status::with_details_and_metadata(fault.code.grpc(), fault.message.clone(), details(fault), metadata)
    }
}

impl From<Fault> for tonic::Status {
    fn from(fault: Fault) -> Self {
        (&fault).into()
    }
}

impl From<tonic::Status> for Fault {
    fn from(status: tonic::Status) -> Self {
        (&status).into()
    }
}

/// A status without our code comes from the transport or from another server: see `guess`.
impl From<&tonic::Status> for Fault {
    fn from(status: &tonic::Status) -> Self {
        let text = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
        let code = text(METADATA_CODE).and_then(|code| code.parse().ok()).unwrap_or_else(|| guess(status.code()));
        let after = text(METADATA_RETRY_AFTER).and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
        Self { code, message: status.message().to_owned(), retry_after: after }
    }
}

/// What may safely be concluded from a bare gRPC code. A broken connection says nothing about what was done.
fn guess(code: tonic::Code) -> Code {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => Code::InvalidEvent,
        // What tonic answers to a frame over its size limit.
        tonic::Code::OutOfRange => Code::TooLarge,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::PermissionDenied => Code::ScopeDenied,
        tonic::Code::NotFound | tonic::Code::Unimplemented => Code::NotFound,
        tonic::Code::ResourceExhausted => Code::RateLimited,
        _ => Code::OutcomeUnknown,
    }
}

// The three well-known messages of rich gRPC errors; small enough not to need a crate.

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

fn details(fault: &Fault) -> Bytes {
    let any = |name: &str, value: Vec<u8>| prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value };
    let info = ErrorInfo { reason: fault.code.as_str().to_owned(), domain: ERROR_DOMAIN.to_owned() };
    let mut details = vec![any("google.rpc.ErrorInfo", info.encode_to_vec())];
    if let Some(after) = fault.retry_after {
        let retry = RetryInfo { retry_delay: Some(duration::to_proto(after)) };
        details.push(any("google.rpc.RetryInfo", retry.encode_to_vec()));
    }
    let status = RpcStatus { code: fault.code.grpc() as i32, message: fault.message.clone(), details };
    status.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> impl Iterator<Item = Fault> {
        Code::ALL.into_iter().flat_map(|code| {
            let fault = Fault::new(code, format!("about `{code}` – ünïcode"));
            [fault.clone(), fault.with_retry_after(Duration::from_millis(1500))]
        })
    }

    #[test]
    fn every_spelling_keeps_code_text_and_time() {
        for fault in faults() {
            assert_eq!(Fault::from(pb::Failure::from(&fault)), fault);
            assert_eq!(Fault::from(tonic::Status::from(&fault)), fault);
            assert_eq!(Fault::from_problem_json(&fault.problem_json()), Some(fault));
        }
    }

    #[test]
    fn a_problem_says_what_how_and_when() {
        let fault = Fault::new(Code::StreamFull, "stream `X` is full").with_retry_after(Duration::from_secs(2));
        let wanted = json!({
            "type": "urn:agentbus:error:STREAM_FULL", "title": "stream full", "status": 429,
            "detail": "stream `X` is full", "code": "STREAM_FULL", "retry_after": "2s",
        });
        assert_eq!(fault.problem_json(), wanted);
        assert_eq!(fault.to_string(), "STREAM_FULL: stream `X` is full");
    }

    #[test]
    fn a_status_carries_error_info() {
        let status = tonic::Status::from(Fault::new(Code::ScopeDenied, "no"));
        let rich = RpcStatus::decode(status.details()).unwrap();
        let info = ErrorInfo::decode(&rich.details[0].value[..]).unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SCOPE_DENIED", ERROR_DOMAIN));
    }

    #[test]
    fn a_foreign_status_claims_no_more_than_it_says() {
        let check = |status: tonic::Status, code: Code| assert_eq!(Fault::from(status).code, code);
        check(tonic::Status::unavailable("connection reset"), Code::OutcomeUnknown);
        check(tonic::Status::internal("h2"), Code::OutcomeUnknown);
        check(tonic::Status::out_of_range("frame"), Code::TooLarge);
        check(tonic::Status::unauthenticated("x"), Code::Unauthenticated);
    }

    #[test]
    fn an_unknown_code_concludes_nothing() {
        let failure = pb::Failure { code: "NEW_CODE".into(), message: "text".into(), retry_after: None };
        assert_eq!(Fault::from(failure), Fault::new(Code::OutcomeUnknown, "NEW_CODE: text"));
    }
}
