//! `POST /v1/ask` and the Ask call: one answer, or each reply as it comes.

use std::convert::Infallible;
use std::time::Duration;

use agentbus_proto::event::v1::Event;
use agentbus_proto::http::Problem;
use agentbus_proto::json::{AnswerJson, AskJson, Asked, EventJson};
use agentbus_proto::sidecar::wire::{AskRequest, AskResponse};
use agentbus_proto::{Code, Fault};
use axum::Json;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use tonic::Status;

use super::State;
use crate::ask::{Pending, Reply};
use crate::outbound::Parent;

/// Most bytes of all replies to one ask that are answered together.
const TOGETHER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A stream without replies says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The answers to a gRPC caller.
pub(super) type Answers = BoxStream<'static, Result<AskResponse, Status>>;

/// `POST /v1/ask`.
pub(super) async fn ask(
    Shared(state): Shared<State>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let body = super::http::body(&state, request).await?;
    let Asked { event, ttl, timeout } = AskJson::from_slice(&body)?.into_ask()?;
    let parent = super::http::parent(&headers);
    let event = event.encode_to_vec().into();
    let pending = Box::pin(state.asks.ask(event, ttl, timeout, &parent)).await?;
    if wants_stream(&headers) { Ok(streamed(pending)) } else { together(pending).await }
}

pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|one| one.trim().starts_with("text/event-stream"))
}

/// All replies in one answer, when the final one is here.
async fn together(mut pending: Pending) -> Result<Response, Problem> {
    let (mut before, mut shares, mut bytes) = (Vec::new(), Vec::new(), 0);
    while let Some(reply) = pending.next().await? {
        if reply.info.index == 0 {
            // Another handling of the ask begins anew.
            (before, shares, bytes) = (Vec::new(), Vec::new(), 0);
        }
        bytes += reply.event.len();
        if bytes > TOGETHER_BYTES_MAX {
            let why = format!("the replies have more than {TOGETHER_BYTES_MAX} bytes together: read them as a stream");
            return Err(Fault::new(Code::TooLarge, why).into());
        }
        let event = json(&reply)?;
        if let Some(fault) = reply.failure() {
            return Ok(Problem::from(fault).with("reply", &event).into_response());
        }
        if reply.info.r#final {
            return Ok(Json(AnswerJson { reply: event, r#final: true, before }).into_response());
        }
        before.push(event);
        shares.push(reply.share);
    }
    Err(Fault::new(Code::ReplyTimeout, "the replies ended without a final one").into())
}

/// Each reply as an event `reply`; what ends the ask early as an event `error`.
fn streamed(pending: Pending) -> Response {
    let events = stream::unfold(Some(pending), |pending| async {
        let mut pending = pending?;
        let (event, more) = match pending.next().await {
            Ok(Some(reply)) => server_sent(&reply),
            Ok(None) => return None,
            Err(fault) => (error_event(&fault), false),
        };
        Some((Ok::<_, Infallible>(event), more.then_some(pending)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn server_sent(reply: &Reply) -> (sse::Event, bool) {
    let last = reply.info.r#final;
    let answer = json(reply).map(|event| AnswerJson { reply: event, r#final: last, before: Vec::new() });
    let event = answer.and_then(|answer| {
        let odd = |error: axum::Error| Fault::new(Code::InvalidEvent, error.to_string());
        sse::Event::default().event("reply").id(reply.info.index.to_string()).json_data(answer).map_err(odd)
    });
    match event {
        Ok(event) => (event, !last),
        Err(fault) => (error_event(&fault), false),
    }
}

fn error_event(fault: &Fault) -> sse::Event {
    sse::Event::default().event("error").data(fault.problem_json().to_string())
}

fn json(reply: &Reply) -> Result<EventJson, Fault> {
    let odd = |error| Fault::new(Code::InvalidEvent, format!("the reply is no event: {error}"));
    Ok(EventJson::from(&Event::decode(reply.event.clone()).map_err(odd)?))
}

/// Asks for a gRPC caller. A reply that is a failure is sent, and is the status, too.
pub(super) async fn grpc(state: &State, request: AskRequest, parent: &Parent) -> Result<Answers, Fault> {
    let timeout = request.timeout.map(|timeout| super::duration("timeout", timeout)).transpose()?;
    let pending = Box::pin(state.asks.ask(request.event, None, timeout, parent)).await?;
    let answers = stream::try_unfold((pending, None), |(mut pending, failure)| async move {
        if let Some(fault) = failure {
            return Err(Status::from(fault));
        }
        let Some(reply) = pending.next().await? else { return Ok(None) };
        let failure = reply.failure();
        Ok(Some((AskResponse { r#final: reply.info.r#final, reply: reply.event }, (pending, failure))))
    });
    Ok(answers.boxed())
}
