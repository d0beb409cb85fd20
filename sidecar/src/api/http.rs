//! The same verbs as HTTP/JSON, so that curl and any language without a gRPC client can be an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use agentbus_nats::names::Names;
use agentbus_proto::duration::Text;
use agentbus_proto::event::v1::Event;
use agentbus_proto::http::{Path, Problem, Query, no_query, other_method};
use agentbus_proto::json::{DeliveryJson, PublishAnswerJson, PublishJson, ReplyWithJson};
use agentbus_proto::sidecar::v1::Subscription;
use agentbus_proto::sidecar::wire;
use agentbus_proto::{Code, Fault, legacy, timestamp};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::{parse, parse_or_default, read};
use super::{State, receive, replay, schedules, status};
use crate::inbound::{How, ReplyWith, hub};
use crate::outbound::{Kept, Parent, Wish};

/// The description of this API, written by hand and checked by a test against the routes.
const OPENAPI: &str = include_str!("openapi.json");

/// A long poll without `wait`.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);

/// Routes of the HTTP API.
pub(super) fn router(state: State) -> Router {
    let queried = Router::new().route("/v1/schedules", get(schedules::list)).route("/v1/receive", post(receive_events));
    Router::new()
        .route("/v1/publish", post(publish))
        .route("/v1/messages", post(publish_message))
        .route("/v1/ask", post(super::ask::ask))
        .route("/v1/subscriptions", post(subscribe))
        .route("/v1/deliveries/{id}/{verb}", post(settle))
        .route("/v1/schedules", post(schedules::create))
        .route("/v1/schedules/{id}", delete(schedules::cancel))
        .route("/v1/replay", post(replay::http))
        .route("/v1/events/{*id}", get(status::event))
        .route("/v1/chains/{*id}", get(status::chain))
        .route("/openapi.json", get(openapi))
        .route_layer(from_fn(no_query))
        .merge(queried)
        .method_not_allowed_fallback(other_method)
        .with_state(state)
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

type Answer = Result<Response, Problem>;

async fn publish(Shared(state): Shared<State>, headers: HeaderMap, request: Request) -> Answer {
    let body = body(&state, request).await?;
    let json = PublishJson::from_slice(&body)?;
    let park = json.park;
    let (event, ttl) = json.into_event()?;
    send(&state, &headers, &event, Wish { ttl, park }).await
}

/// `POST /v1/messages`: the same for a message of the older format.
async fn publish_message(Shared(state): Shared<State>, headers: HeaderMap, request: Request) -> Answer {
    let body = body(&state, request).await?;
    let (event, ttl) = legacy::accept(&body, state.outbound.agent())?;
    send(&state, &headers, &event, Wish { ttl, park: false }).await
}

async fn send(state: &State, headers: &HeaderMap, event: &Event, wish: Wish) -> Answer {
    let mut sent = state.outbound.send(event.encode_to_vec().into(), wish, &parent(headers), None).await?;
    Ok(match sent.outcome().await? {
        (id, Kept::Broker(stored)) => Json(stored_json(id, stored)).into_response(),
        (id, Kept::Spool) => {
            let answer =
                PublishAnswerJson { id, stored: "spool".to_owned(), stream: String::new(), seq: None, duplicate: None };
            (StatusCode::ACCEPTED, Json(answer)).into_response()
        }
    })
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
    #[serde(default)]
    by_key: bool,
    #[serde(default)]
    split_lanes: bool,
}

async fn subscribe(Shared(state): Shared<State>, request: Request) -> Answer {
    let wanted: SubscribeBody = parse(&body(&state, request).await?)?;
    let subscription = Subscription {
        patterns: wanted.patterns,
        group: wanted.group,
        types: wanted.types,
        attributes: wanted.attributes,
        ordered: wanted.ordered,
        by_key: wanted.by_key,
        split_lanes: wanted.split_lanes,
    };
    let groups = state.control.join(&[subscription]).await?;
    let mut all = state.hub.group_names();
    all.sort_by_key(|name| (Names::is_reserved(name), name.clone()));
    Ok(Json(json!({"group": groups.first(), "groups": all})).into_response())
}

/// Body of `POST /v1/receive`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReceiveBody {
    max: Option<usize>,
    wait: Option<Text>,
    group: String,
}

/// Query of `POST /v1/receive`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiveQuery {
    #[serde(default)]
    format: Format,
}

/// What a delivery holds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// The event, as `event`.
    #[default]
    Event,
    /// A message of the older format, as `message`.
    Message,
}

#[derive(Serialize)]
struct ReceiveAnswer<D> {
    deliveries: Vec<D>,
}

async fn receive_events(
    Shared(state): Shared<State>,
    Query(ReceiveQuery { format }): Query<ReceiveQuery>,
    request: Request,
) -> Answer {
    let wanted: ReceiveBody = parse_or_default(&body(&state, request).await?)?;
    if state.hub.is_draining() {
        return Err(hub::draining().into());
    }
    let wait = wanted.wait.map_or(WAIT_DEFAULT, |wait| wait.0);
    let groups = state.control.joined(&wanted.group)?;
    let deliveries = receive::receive(&state.hub, &groups, wanted.max.unwrap_or(1), wait).await?;
    match format {
        Format::Event => handed(&state, deliveries, DeliveryJson::from_wire).await,
        Format::Message => handed(&state, deliveries, legacy::hand).await,
    }
}

/// The deliveries as they are `written`.
async fn handed<D: Serialize>(
    state: &State,
    deliveries: Vec<wire::Delivery>,
    written: fn(wire::Delivery) -> Result<D, Fault>,
) -> Answer {
    let mut answer = ReceiveAnswer { deliveries: Vec::with_capacity(deliveries.len()) };
    for delivery in deliveries {
        let id = delivery.delivery_id.clone();
        match written(delivery) {
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
    #[serde(deserialize_with = "agentbus_proto::json::objects")]
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
        "reply" => How::Reply(reply(parse_or_default(&body)?)?),
        other => {
            let why = format!("`{other}` is no settle verb: use ack, nack, reject, extend or reply");
            return Err(Fault::new(Code::NotFound, why).into());
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

fn reply(body: ReplyWithJson) -> Result<ReplyWith, Fault> {
    let (data, content_type) = body.content()?;
    let ReplyWithJson { more, index, error_code, error_message, .. } = body;
    Ok(ReplyWith { data, content_type, more, index, error_code, error_message })
}

fn emit(body: AckBody) -> Result<Vec<Bytes>, Fault> {
    let encode = |(index, json): (usize, PublishJson)| {
        if json.park {
            return Err(in_emit(index, Fault::new(Code::InvalidEvent, "`park` is not supported in `emit`")));
        }
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

pub(super) fn parent(headers: &HeaderMap) -> Parent {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Parent::from_headers(text("traceparent"), text("tracestate"))
}

pub(super) async fn body(state: &State, request: Request) -> Result<Bytes, Fault> {
    read(request, state.outbound.limits().event_bytes_max).await
}
