//! What handlers give back, and how they read a body.

use agentbus_proto::http::Problem;
use agentbus_proto::{Code, Fault};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use http::StatusCode;
use serde::de::DeserializeOwned;

/// What a handler gives back.
pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

/// A body as axum hands it over.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// Reads a JSON object.
pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    Ok(agentbus_proto::json::object(&bytes(body)?)?)
}

/// Where nothing is to be told, an empty body, or an empty object.
pub(super) fn parse_nothing(body: Body) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let bytes = bytes(body)?;
    if !bytes.trim_ascii().is_empty() {
        agentbus_proto::json::object::<Nothing>(&bytes)?;
    }
    Ok(())
}

fn bytes(body: Body) -> Result<Bytes, Problem> {
    body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Fault::new(Code::TooLarge, "the request is too large").into(),
        _ => Problem::unreadable(error.body_text()),
    })
}
