//! Request bodies: bounded while they are read, and parsed with the place of a mistake.

use agentbus_proto::{Code, Fault};
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::{Duration, Instant, timeout_at};

/// How long a body may take: it comes from a process beside this one.
const WAIT: Duration = Duration::from_secs(60);

/// The request's body, bounded: an event as base64 in JSON is a third longer than its bytes. A length told in advance
/// is refused before anything is read.
pub(super) async fn read(request: Request<Body>, event_bytes_max: usize) -> Result<Bytes, Fault> {
    let bytes_max = event_bytes_max.saturating_mul(2).max(64 * 1024);
    let too_large = |bytes: String| {
        let why = format!(
            "the request has {bytes} bytes; at most {bytes_max} are allowed, and {event_bytes_max} for an event"
        );
        Fault::new(Code::TooLarge, why)
    };
    let body = request.into_body();
    let told = body.size_hint().lower();
    if told > bytes_max as u64 {
        return Err(too_large(told.to_string()));
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::with_capacity(usize::try_from(told).unwrap_or_default());
    let end = Instant::now() + WAIT;
    let late =
        |_| Fault::new(Code::InvalidEvent, format!("the request's body was not there within {} s", WAIT.as_secs()));
    while let Some(chunk) = timeout_at(end, chunks.next()).await.map_err(late)? {
        let chunk = chunk.map_err(|_| Fault::new(Code::InvalidEvent, "the request's body ended early"))?;
        if bytes.len() + chunk.len() > bytes_max {
            return Err(too_large(format!("more than {bytes_max}")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    agentbus_proto::json::object(body)
}

/// An empty body means the defaults: `curl -X POST …/ack` suffices.
pub(super) fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse(body) }
}
