//! Replay to oneself: stored events as a stream, over gRPC, as lines of JSON, or as server-sent events.
//!
//! Pages come from the control plane, which knows what this agent may read; what is handed on is byte for byte as stored.
//! The pace is kept here. Nothing is delivered, so there is nothing to ack.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use agentbus_nats::replay::{Ask, Page, Part, Stored, VERB};
use agentbus_proto::duration::Text;
use agentbus_proto::event::v1::Event;
use agentbus_proto::http::Problem;
use agentbus_proto::json::event_to_json;
use agentbus_proto::sidecar::v1::{ReplayRequest, replay_request};
use agentbus_proto::sidecar::wire::ReplayResponse;
use agentbus_proto::{Code, Fault, timestamp};
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::State;
use super::body::{parse_or_default, read};
use crate::control::Control;

/// Events made ready for a reader that is slower than the bus.
const READY_MAX: usize = 4;
/// A stream without events says this often that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const SPEED_MAX: f32 = 1_000_000.0;

/// One stored event, whole.
struct Found {
    stream: String,
    seq: u64,
    stored: SystemTime,
    event: Bytes,
}

/// Reads on, page by page.
struct Reader {
    control: Control,
    stream: String,
    ask: Ask,
    page: std::vec::IntoIter<Stored>,
    more: bool,
    speed: f64,
    /// When the first event was handed on, and when it was stored.
    clock: Option<(Instant, SystemTime)>,
}

impl Reader {
    /// Reads the first page, so that what is refused is refused before anything is answered.
    async fn open(state: &State, ask: Ask, speed: f32) -> Result<Self, Fault> {
        if ask.patterns.is_empty() {
            let why = "name at least one address pattern in `patterns`, for example `notes.>`";
            return Err(Fault::new(Code::InvalidAddress, why));
        }
        if !(0.0..=SPEED_MAX).contains(&speed) {
            return Err(Fault::new(Code::InvalidEvent, "`speed` is 0 (as fast as possible) to 1000000"));
        }
        let stream = agentbus_nats::names::Names::new(state.control.grant().namespace).events();
        let (control, page, speed) = (state.control.clone(), Vec::new().into_iter(), f64::from(speed));
        let mut reader = Self { control, stream, ask, page, more: true, speed, clock: None };
        reader.turn().await?;
        Ok(reader)
    }

    async fn turn(&mut self) -> Result<(), Fault> {
        let page: Page = self.control.call(VERB, &self.ask).await?;
        self.ask.from_seq = page.next;
        self.ask.to_seq = Some(page.to_seq);
        self.more = page.next.is_some();
        self.page = page.events.into_iter();
        Ok(())
    }

    /// The next event when it is its time; none at the end.
    async fn next(&mut self) -> Result<Option<Found>, Fault> {
        let stored = loop {
            match self.page.next() {
                Some(stored) => break stored,
                None if self.more => self.turn().await?,
                None => return Ok(None),
            }
        };
        let found = self.whole(stored).await?;
        self.pace(found.stored).await;
        Ok(Some(found))
    }

    /// Fetches what of a large event did not fit into the page.
    async fn whole(&self, stored: Stored) -> Result<Found, Fault> {
        let decode = |text: &str| {
            let odd = |error| Fault::new(Code::ControlPlaneDown, format!("unreadable page: {error}"));
            STANDARD.decode(text).map_err(odd)
        };
        let mut event = decode(&stored.payload)?;
        while event.len() < stored.bytes {
            let part = Some(Part { seq: stored.seq, offset: event.len() });
            let rest: Stored = self.control.call(VERB, &Ask { part, ..Ask::default() }).await?;
            let rest = decode(&rest.payload)?;
            if rest.is_empty() {
                return Err(Fault::new(Code::ControlPlaneDown, format!("event {} came in pieces", stored.seq)));
            }
            event.extend_from_slice(&rest);
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(stored.stored_ns);
        Ok(Found { stream: self.stream.clone(), seq: stored.seq, stored: at, event: event.into() })
    }

    async fn pace(&mut self, stored: SystemTime) {
        if self.speed <= 0.0 {
            return;
        }
        let (began, first) = *self.clock.get_or_insert((Instant::now(), stored));
        let after = stored.duration_since(first).unwrap_or_default();
        let after = Duration::try_from_secs_f64(after.as_secs_f64() / self.speed).unwrap_or(Duration::MAX);
        if let Some(due) = began.checked_add(after) {
            tokio::time::sleep_until(due).await;
        }
    }
}

/// Over gRPC. Ends when the caller goes, or this sidecar stops.
pub(super) async fn grpc(
    state: &State,
    request: ReplayRequest,
) -> Result<mpsc::Receiver<Result<ReplayResponse, Status>>, Fault> {
    let nanos = |what: &str, time: prost_types::Timestamp| {
        let bad = || Fault::new(Code::InvalidEvent, format!("`{what}` is no moment"));
        timestamp::to_system(&time).map(since_epoch).ok_or_else(bad)
    };
    let mut ask = Ask { patterns: request.patterns, ..Ask::default() };
    match request.from {
        Some(replay_request::From::Seq(seq)) => ask.from_seq = Some(seq),
        Some(replay_request::From::Time(time)) => ask.since_ns = Some(nanos("time", time)?),
        None => {}
    }
    ask.to_seq = Some(request.to_seq).filter(|seq| *seq > 0);
    ask.until_ns = request.to_time.map(|time| nanos("to_time", time)).transpose()?;
    let mut reader = Reader::open(state, ask, request.speed).await?;
    let (tx, rx) = mpsc::channel(READY_MAX);
    let stop = state.stop.clone();
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                () = tx.closed() => return,
                () = stop.cancelled() => return,
                next = reader.next() => next,
            };
            let (answer, more) = match next {
                Ok(Some(found)) => (Ok(response(found)), true),
                Ok(None) => return,
                Err(fault) => (Err(fault.into()), false),
            };
            if tx.send(answer).await.is_err() || !more {
                return;
            }
        }
    });
    Ok(rx)
}

fn response(found: Found) -> ReplayResponse {
    let Found { stream, seq, stored, event } = found;
    ReplayResponse { event, stream, seq, stored: Some(timestamp::from_system(stored)) }
}

/// Body of `POST /v1/replay`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReplayBody {
    patterns: Vec<String>,
    from_seq: Option<u64>,
    since: Option<String>,
    last: Option<Text>,
    to_seq: Option<u64>,
    until: Option<String>,
    speed: f32,
}

impl ReplayBody {
    fn ask(self, now: SystemTime) -> Result<(Ask, f32), Fault> {
        let moment = |what: &str, text: &str| {
            let bad = || Fault::new(Code::InvalidEvent, format!("`{what}` is no moment such as 2026-11-20T10:00:00Z"));
            timestamp::parse(text).and_then(|time| timestamp::to_system(&time)).map(since_epoch).ok_or_else(bad)
        };
        let since = self.since.as_deref().map(|text| moment("since", text)).transpose()?;
        let last = self.last.and_then(|last| now.checked_sub(last.0)).map(since_epoch);
        if since.is_some() && last.is_some() {
            return Err(Fault::new(Code::InvalidEvent, "`since` and `last` both say where to begin: use one"));
        }
        let until_ns = self.until.as_deref().map(|text| moment("until", text)).transpose()?;
        let (patterns, from_seq, to_seq) = (self.patterns, self.from_seq, self.to_seq);
        Ok((Ask { patterns, from_seq, since_ns: since.or(last), to_seq, until_ns, part: None }, self.speed))
    }
}

/// Over HTTP: one JSON object per line, or server-sent events where the caller accepts them.
pub(super) async fn http(
    Shared(state): Shared<State>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let body: ReplayBody = parse_or_default(&read(request, state.outbound.limits().event_bytes_max).await?)?;
    let (ask, speed) = body.ask(SystemTime::now())?;
    let lines = lines(Reader::open(&state, ask, speed).await?, state.stop.clone());
    if super::ask::wants_stream(&headers) {
        let events = futures_util::StreamExt::map(lines, |line| {
            Ok::<_, Infallible>(sse::Event::default().data(line.to_string()))
        });
        return Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response());
    }
    let text = futures_util::StreamExt::map(lines, |line| Ok::<_, Infallible>(format!("{line}\n")));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(text)).into_response())
}

/// Each event as an object; what ends the stream early as an object with `error`.
fn lines(reader: Reader, stop: tokio_util::sync::CancellationToken) -> impl Stream<Item = Value> + Send + 'static {
    stream::unfold(Some((reader, stop)), |state| async {
        let (mut reader, stop) = state?;
        let next = tokio::select! {
            () = stop.cancelled() => return None,
            next = reader.next() => next,
        };
        match next {
            Ok(Some(found)) => Some((line(&found), Some((reader, stop)))),
            Ok(None) => None,
            Err(fault) => Some((json!({"error": fault.problem_json()}), None)),
        }
    })
}

fn line(found: &Found) -> Value {
    let stored = timestamp::format(&timestamp::from_system(found.stored)).unwrap_or_default();
    let mut line = json!({"stream": found.stream, "seq": found.seq, "stored_at": stored});
    match Event::decode(found.event.clone()) {
        Ok(event) => line["event"] = event_to_json(&event),
        Err(error) => {
            line["undecodable"] = json!(error.to_string());
            line["payload_base64"] = json!(STANDARD.encode(&found.event));
        }
    }
    line
}

fn since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
