//! The stable error codes and what each means to a caller: HTTP status, gRPC status, exit code, and whether trying again
//! makes sense. The one table that turns a failure into an answer.
//!
//! A code once published keeps its name and meaning for ever. It does not carry the text of an error: see `Fault`.

use std::fmt;
use std::str::FromStr;

/// Why something was refused or could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The event breaks a rule: bad id, type, attribute, encoding.
    InvalidEvent,
    /// The address is malformed, or nobody declared it.
    InvalidAddress,
    /// The event is larger than allowed.
    TooLarge,
    /// No token, or a wrong one.
    Unauthenticated,
    /// The agent may not do this.
    ScopeDenied,
    /// No such delivery.
    UnknownDelivery,
    /// Nothing is served at this path or with this method.
    NotFound,
    /// Nobody serves the address of an ask.
    NoResponder,
    /// The delivery is no longer held: its deadline passed or it was taken back.
    LeaseLost,
    /// The event had expired.
    Expired,
    /// Too many events in one chain: probably a loop.
    HopLimit,
    /// The agent publishes faster than allowed.
    RateLimited,
    /// A budget or quota is used up.
    Quota,
    /// No room for more groups, consumers or connections.
    CapacityExceeded,
    /// The stream has reached its size limit.
    StreamFull,
    /// Too many failures lately; not even tried.
    CircuitOpen,
    /// The broker cannot be reached.
    BrokerDown,
    /// The control plane cannot be reached.
    ControlPlaneDown,
    /// The broker cannot be reached and the local spool is full.
    SpoolFull,
    /// The sidecar is shutting down.
    Draining,
    /// It may or may not have happened. Sending again with the same id is safe.
    OutcomeUnknown,
    /// No final reply in time.
    ReplyTimeout,
    /// Who was asked replied that it cannot do it.
    ReplyFailed,
    /// The configuration cannot be used.
    BadConfig,
}

impl Code {
    /// Every code, in the order of the contract.
    pub const ALL: [Code; 24] = [
        Code::InvalidEvent,
        Code::InvalidAddress,
        Code::TooLarge,
        Code::Unauthenticated,
        Code::ScopeDenied,
        Code::UnknownDelivery,
        Code::NotFound,
        Code::NoResponder,
        Code::LeaseLost,
        Code::Expired,
        Code::HopLimit,
        Code::RateLimited,
        Code::Quota,
        Code::CapacityExceeded,
        Code::StreamFull,
        Code::CircuitOpen,
        Code::BrokerDown,
        Code::ControlPlaneDown,
        Code::SpoolFull,
        Code::Draining,
        Code::OutcomeUnknown,
        Code::ReplyTimeout,
        Code::ReplyFailed,
        Code::BadConfig,
    ];

    /// The name on the wire: `INVALID_EVENT`.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// A few words for people: the title of the HTTP problem.
    pub fn title(self) -> &'static str {
        self.row().1
    }

    /// Status of a gRPC call that fails with it.
    pub fn grpc(self) -> tonic::Code {
        self.row().2
    }

    /// Status of an HTTP request that fails with it.
    pub fn http_status(self) -> u16 {
        self.row().3
    }

    /// Exit code of a command that fails with it: 64 bad config, 65 bad input, 69 nobody serves, 75 try again,
    /// 77 denied, 124 timeout, 1 other.
    pub fn exit(self) -> i32 {
        self.row().4
    }

    /// The same request, with the same id, may succeed later without anybody changing it.
    pub fn retryable(self) -> bool {
        self.exit() == 75 || self == Code::OutcomeUnknown
    }

    fn row(self) -> (&'static str, &'static str, tonic::Code, u16, i32) {
        use tonic::Code as Grpc;
        match self {
            Code::InvalidEvent => ("INVALID_EVENT", "invalid event", Grpc::InvalidArgument, 400, 65),
            Code::InvalidAddress => ("INVALID_ADDRESS", "invalid address", Grpc::InvalidArgument, 400, 65),
            Code::TooLarge => ("TOO_LARGE", "event too large", Grpc::InvalidArgument, 413, 65),
            Code::Unauthenticated => ("UNAUTHENTICATED", "not authenticated", Grpc::Unauthenticated, 401, 77),
            Code::ScopeDenied => ("SCOPE_DENIED", "not allowed", Grpc::PermissionDenied, 403, 77),
            Code::UnknownDelivery => ("UNKNOWN_DELIVERY", "unknown delivery", Grpc::NotFound, 404, 69),
            Code::NotFound => ("NOT_FOUND", "not found", Grpc::NotFound, 404, 69),
            Code::NoResponder => ("NO_RESPONDER", "nobody serves this address", Grpc::NotFound, 404, 69),
            Code::LeaseLost => ("LEASE_LOST", "delivery no longer held", Grpc::Aborted, 409, 1),
            Code::Expired => ("EXPIRED", "event expired", Grpc::FailedPrecondition, 410, 1),
            Code::HopLimit => ("HOP_LIMIT", "too many hops", Grpc::FailedPrecondition, 422, 65),
            Code::RateLimited => ("RATE_LIMITED", "rate limited", Grpc::ResourceExhausted, 429, 75),
            Code::Quota => ("QUOTA", "quota used up", Grpc::ResourceExhausted, 429, 75),
            Code::CapacityExceeded => ("CAPACITY_EXCEEDED", "capacity exceeded", Grpc::ResourceExhausted, 429, 75),
            Code::StreamFull => ("STREAM_FULL", "stream full", Grpc::ResourceExhausted, 429, 75),
            Code::CircuitOpen => ("CIRCUIT_OPEN", "circuit open", Grpc::Unavailable, 503, 75),
            Code::BrokerDown => ("BROKER_DOWN", "broker not reachable", Grpc::Unavailable, 503, 75),
            Code::ControlPlaneDown => ("CONTROL_PLANE_DOWN", "control plane not reachable", Grpc::Unavailable, 503, 75),
            Code::SpoolFull => ("SPOOL_FULL", "spool full", Grpc::Unavailable, 503, 75),
            Code::Draining => ("DRAINING", "shutting down", Grpc::Unavailable, 503, 75),
            Code::OutcomeUnknown => ("OUTCOME_UNKNOWN", "outcome unknown", Grpc::DeadlineExceeded, 504, 124),
            Code::ReplyTimeout => ("REPLY_TIMEOUT", "no reply in time", Grpc::DeadlineExceeded, 504, 124),
            Code::ReplyFailed => ("REPLY_FAILED", "who was asked cannot do it", Grpc::FailedPrecondition, 422, 1),
            // Over an API it is what somebody sent, so the answers are those of bad input.
            Code::BadConfig => ("BAD_CONFIG", "bad configuration", Grpc::InvalidArgument, 400, 64),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not one of the published codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown error code `{0}`")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Code::ALL.into_iter().find(|code| code.as_str() == text).ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_name() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
        }
        assert_eq!("invalid_event".parse::<Code>(), Err(UnknownCode("invalid_event".into())));
    }

    #[test]
    fn answers_are_those_of_the_contract() {
        let check = |code: Code, grpc: tonic::Code, http: u16, exit: i32, retryable: bool| {
            assert_eq!((code.grpc(), code.http_status(), code.exit(), code.retryable()), (grpc, http, exit, retryable));
        };
        check(Code::TooLarge, tonic::Code::InvalidArgument, 413, 65, false);
        check(Code::ScopeDenied, tonic::Code::PermissionDenied, 403, 77, false);
        check(Code::LeaseLost, tonic::Code::Aborted, 409, 1, false);
        check(Code::StreamFull, tonic::Code::ResourceExhausted, 429, 75, true);
        check(Code::Draining, tonic::Code::Unavailable, 503, 75, true);
        check(Code::OutcomeUnknown, tonic::Code::DeadlineExceeded, 504, 124, true);
        check(Code::ReplyTimeout, tonic::Code::DeadlineExceeded, 504, 124, false);
        check(Code::BadConfig, tonic::Code::InvalidArgument, 400, 64, false);
    }
}
