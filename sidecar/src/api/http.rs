//! The same verbs as HTTP/JSON, so that curl and any language without a gRPC client can be an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use agentbus_proto::duration::Text;
use agentbus_proto::json::{DeliveryJson, PublishAnswerJson, PublishJson};
use agentbus_proto::sidecar::v1::Subscription;
use agentbus_proto::{Code, Fault, timestamp};
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{State, receive};
use crate::inbound::{How, hub};
use crate::outbound::Parent;

/// The description of this API, written by hand and checked by a test against the routes.
const OPENAPI: &str = include_str!("openapi.json");

/// Media type of RFC 9457.
const PROBLEM: &str = "application/problem+json";

/// A long poll without `wait`.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);

/// Routes of the HTTP API.
pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/v1/publish", post(publish))
        .route("/v1/subscriptions", post(subscribe))
        .route("/v1/receive", post(receive_events))
        .route("/v1/deliveries/{id}/{verb}", post(settle))
        .route("/openapi.json", get(openapi))
        .method_not_allowed_fallback(other_method)
        .with_state(state)
}

/// For paths nobody serves. A gRPC call gets gRPC's own answer.
pub(super) async fn other_path(request: Request) -> Response {
    let path = request.uri().path().escape_debug().to_string();
    if is_grpc(request.headers()) {
        return tonic::Status::unimplemented(format!("no such method: {path}")).into_http::<Body>().into_response();
    }
    unserved(StatusCode::NOT_FOUND, format!("nothing is served at `{path}`; GET /openapi.json tells what is"))
}

async fn other_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path().escape_debug());
    unserved(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("`{path}` takes no {method}; GET /openapi.json tells what it takes"),
    )
}

/// A problem about the request line: plain HTTP, none of the contract's codes means it.
fn unserved(status: StatusCode, detail: String) -> Response {
    let title = status.canonical_reason().unwrap_or_default().to_lowercase();
    let problem = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    (status, [(header::CONTENT_TYPE, PROBLEM)], problem.to_string()).into_response()
}

/// Whether this is a gRPC call, which wants its errors in trailers.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// RFC 9457.
pub(super) fn problem(fault: &Fault) -> Response {
    let status = StatusCode::from_u16(fault.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(fault.problem_json())).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PROBLEM));
    if fault.code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = fault.retry_after {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

/// A fault as an answer.
struct Problem(Fault);

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        problem(&self.0)
    }
}

type Answer = Result<Response, Problem>;

async fn publish(Shared(state): Shared<State>, headers: HeaderMap, request: Request) -> Answer {
    let body = body(&state, request).await?;
    let (event, ttl) = PublishJson::from_slice(&body)?.into_event()?;
    let parent = parent(&headers);
    let sent = state.outbound.send(event.encode_to_vec().into(), ttl, &parent, None).await?;
    let (id, stored) = sent.stored().await?;
    Ok(Json(stored_json(id, stored)).into_response())
}

fn stored_json(id: String, stored: agentbus_nats::publisher::Stored) -> PublishAnswerJson {
    PublishAnswerJson {
        id,
        stored: "broker".to_owned(),
        stream: stored.stream,
        seq: Some(stored.seq),
        duplicate: Some(stored.duplicate),
    }
}

/// Body of `POST /v1/subscriptions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscribeBody {
    #[serde(default)]
    patterns: Vec<String>,
    #[serde(default)]
    group: String,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    ordered: bool,
}

async fn subscribe(Shared(state): Shared<State>, request: Request) -> Answer {
    let wanted: SubscribeBody = parse(&body(&state, request).await?)?;
    let subscription = Subscription {
        patterns: wanted.patterns,
        group: wanted.group,
        types: wanted.types,
        attributes: wanted.attributes,
        ordered: wanted.ordered,
    };
    let groups = state.control.join(&[subscription]).await?;
    Ok(Json(json!({"group": groups.first(), "groups": state.hub.group_names()})).into_response())
}

/// Body of `POST /v1/receive`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReceiveBody {
    max: Option<usize>,
    wait: Option<Text>,
}

#[derive(Serialize)]
struct ReceiveAnswer {
    deliveries: Vec<DeliveryJson>,
}

async fn receive_events(Shared(state): Shared<State>, request: Request) -> Answer {
    let wanted: ReceiveBody = parse_or_default(&body(&state, request).await?)?;
    if state.hub.is_draining() {
        return Err(hub::draining().into());
    }
    let wait = wanted.wait.map_or(WAIT_DEFAULT, |wait| wait.0);
    let groups = state.control.joined()?;
    let deliveries = receive::receive(&state.hub, &groups, wanted.max.unwrap_or(1), wait).await?;
    let mut answer = ReceiveAnswer { deliveries: Vec::with_capacity(deliveries.len()) };
    for delivery in deliveries {
        let id = delivery.delivery_id.clone();
        match DeliveryJson::from_wire(delivery) {
            Ok(delivery) => answer.deliveries.push(delivery),
            // One that is no event must not take the others with it: it would come again and again.
            Err(fault) => drop(state.hub.settle(&id, How::Reject { reason: fault.message }).await),
        }
    }
    Ok(Json(answer).into_response())
}

/// Bodies of the settle verbs; each takes only its own keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AckBody {
    emit: Vec<PublishJson>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NackBody {
    retry_after: Option<Text>,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RejectBody {
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    by: Text,
}

async fn settle(Shared(state): Shared<State>, Path((id, verb)): Path<(String, String)>, request: Request) -> Answer {
    let body = body(&state, request).await?;
    let how = match verb.as_str() {
        "ack" => How::Ack { emit: emit(parse_or_default(&body)?)? },
        "nack" => {
            let NackBody { retry_after, reason } = parse_or_default(&body)?;
            How::Nack { retry_after: retry_after.map(|wait| wait.0), reason }
        }
        "reject" => How::Reject { reason: parse_or_default::<RejectBody>(&body)?.reason },
        "extend" => How::Extend { by: parse::<ExtendBody>(&body)?.by.0 },
        other => {
            let why = format!("`{other}` is no settle verb: use ack, nack, reject or extend");
            return Err(Fault::new(Code::UnknownDelivery, why).into());
        }
    };
    let settled = state.hub.settle(&id, how).await?;
    let emitted: Vec<_> = settled.emitted.into_iter().map(|(id, stored)| stored_json(id, stored)).collect();
    let mut answer = json!({"delivery_id": id});
    if !emitted.is_empty() {
        answer["emitted"] = json!(emitted);
    }
    if let Some(deadline) = settled.deadline.and_then(|deadline| timestamp::format(&deadline.into())) {
        answer["deadline"] = json!(deadline);
    }
    Ok(Json(answer).into_response())
}

fn emit(body: AckBody) -> Result<Vec<Bytes>, Fault> {
    let encode = |(index, json): (usize, PublishJson)| {
        let (event, ttl) = json.into_event().map_err(|fault| in_emit(index, fault))?;
        if ttl.is_some() {
            return Err(in_emit(index, Fault::new(Code::InvalidEvent, "`ttl` is not supported in `emit`")));
        }
        Ok(event.encode_to_vec().into())
    };
    body.emit.into_iter().enumerate().map(encode).collect()
}

fn in_emit(index: usize, fault: Fault) -> Fault {
    Fault { message: format!("emit[{index}]: {}", fault.message), ..fault }
}

fn parent(headers: &HeaderMap) -> Parent {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Parent::from_headers(text("traceparent"), text("tracestate"))
}

/// The request's body, bounded: an event as base64 in JSON is a third longer than its bytes. A length told in advance
/// is refused before anything is read.
async fn body(state: &State, request: Request<Body>) -> Result<Bytes, Fault> {
    let limit = state.outbound.limits().event_bytes_max;
    let bytes_max = limit.saturating_mul(2).max(64 * 1024);
    let too_large = |bytes: String| {
        let why = format!("the request has {bytes} bytes; at most {bytes_max} are allowed, and {limit} for an event");
        Fault::new(Code::TooLarge, why)
    };
    let body = request.into_body();
    let told = body.size_hint().lower();
    if told > bytes_max as u64 {
        return Err(too_large(told.to_string()));
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::with_capacity(usize::try_from(told).unwrap_or_default());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Fault::new(Code::InvalidEvent, "the request's body ended early"))?;
        if bytes.len() + chunk.len() > bytes_max {
            return Err(too_large(format!("more than {bytes_max}")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::new(Code::InvalidEvent, format!("invalid JSON: {error}")))
}

/// An empty body means the defaults: `curl -X POST …/ack` suffices.
fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse(body) }
}
