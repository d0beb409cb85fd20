//! Schedules over HTTP and gRPC: the same three calls in two spellings.

use std::time::{Duration, SystemTime};

use agentbus_nats::schedule::{Accepted, CronWords, List, Listed, Scheduled};
use agentbus_proto::duration::{self, Text};
use agentbus_proto::event::v1::Event;
use agentbus_proto::http::{Path, Problem, Query};
use agentbus_proto::json::{Members, PublishJson, event_to_json};
use agentbus_proto::sidecar::v1::{Cron, ScheduleResponse};
use agentbus_proto::sidecar::wire::{ListSchedulesResponse, ScheduleInfo, ScheduleRequest, schedule_request};
use agentbus_proto::{Address, Code, Fault, timestamp};
use axum::Json;
use axum::extract::{Request, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::State;
use super::body::read;
use crate::later::{self, When};
use crate::outbound::{Parent, Wish};

/// Schedules of a page for which no size is asked.
const PAGE_DEFAULT: usize = 100;

type Answer = Result<Response, Problem>;

/// Keys of `POST /v1/schedules` that `POST /v1/publish` does not have.
#[derive(Debug, Default, PartialEq)]
struct Times {
    at: Option<String>,
    after: Option<Text>,
    cron: Option<String>,
    time_zone: Option<String>,
}

impl Times {
    /// Takes its keys out of a body; the rest is an event to be published.
    fn split(body: &[u8]) -> Result<(Self, Vec<u8>), Fault> {
        let Members(mut keys) = agentbus_proto::json::object(body)?;
        let mut take = |key: &str| keys.remove(key);
        let times = Self {
            at: take("at").map(|raw| value("at", &raw)).transpose()?,
            after: take("after").map(|raw| value("after", &raw)).transpose()?,
            cron: take("cron").map(|raw| value("cron", &raw)).transpose()?,
            time_zone: take("time_zone").map(|raw| value("time_zone", &raw)).transpose()?,
        };
        let rest = serde_json::to_vec(&keys).map_err(|error| Fault::new(Code::InvalidEvent, error.to_string()))?;
        Ok((times, rest))
    }

    fn when(self) -> Result<When, Fault> {
        let invalid = |why: &str| Err(Fault::new(Code::InvalidEvent, why));
        match self {
            Self { time_zone: Some(_), cron: None, .. } => {
                invalid("`time_zone` goes with `cron`; `at` has its zone in it: 2026-11-20T10:00:00+01:00")
            }
            Self { at: Some(at), after: None, cron: None, .. } => match timestamp::parse(&at).map(SystemTime::try_from)
            {
                Some(Ok(at)) => Ok(When::At(at)),
                _ => {
                    let shown = at.escape_debug();
                    invalid(&format!("`at` is `{shown}`; write it like `2026-11-20T10:00:00Z`"))
                }
            },
            Self { at: None, after: Some(after), cron: None, .. } => Ok(When::After(after.0)),
            Self { at: None, after: None, cron: Some(expression), time_zone } => {
                Ok(When::Cron(CronWords { expression, time_zone: time_zone.unwrap_or_default() }))
            }
            _ => invalid("say exactly one of `at`, `after` and `cron`"),
        }
    }
}

fn value<T: for<'de> Deserialize<'de>>(key: &str, raw: &RawValue) -> Result<T, Fault> {
    serde_json::from_str(raw.get()).map_err(|error| Fault::new(Code::InvalidEvent, format!("`{key}`: {error}")))
}

pub(super) async fn create(Shared(state): Shared<State>, headers: HeaderMap, request: Request) -> Answer {
    let body = read(request, state.outbound.limits().event_bytes_max).await?;
    let (times, rest) = Times::split(&body)?;
    // First what is misspelled: it may be why a time is missing.
    let json = PublishJson::from_slice(&rest)?;
    let when = times.when()?;
    let park = json.park;
    let (event, ttl) = json.into_event()?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let parent = Parent::from_headers(text("traceparent"), text("tracestate"));
    let (wish, event) = (Wish { ttl, park }, event.encode_to_vec().into());
    let accepted = later::schedule(&state.outbound, &state.control, event, when, wish, &parent).await?;
    Ok(Json(json!({"id": accepted.id, "next": moment(accepted.next_ms)})).into_response())
}

/// Query of `GET /v1/schedules`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Page {
    page_token: String,
    page_size: usize,
}

impl Page {
    fn list(&self) -> Result<List, Fault> {
        let wrong = || Fault::new(Code::InvalidEvent, "`page_token` is not one that was given out");
        let from = match self.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| wrong())?,
        };
        Ok(List { from, limit: if self.page_size == 0 { PAGE_DEFAULT } else { self.page_size } })
    }
}

pub(super) async fn list(Shared(state): Shared<State>, Query(page): Query<Page>) -> Answer {
    let Listed { schedules, next } = later::list(&state.control, &page.list()?).await?;
    let schedules = schedules.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    let mut answer = json!({"schedules": schedules});
    if let Some(next) = next {
        answer["next_page_token"] = json!(next.to_string());
    }
    Ok(Json(answer).into_response())
}

pub(super) async fn cancel(Shared(state): Shared<State>, Path(id): Path<String>) -> Answer {
    let cancelled = later::cancel(&state.control, &id).await?;
    Ok(Json(json!({"id": id, "cancelled": cancelled})).into_response())
}

fn shown(schedule: &Scheduled) -> Result<Value, Fault> {
    let event = Event::decode(event(schedule)?).map_err(|error| Fault::new(Code::InvalidEvent, error.to_string()))?;
    let to = event.to.as_ref().and_then(|to| Address::try_from(to).ok()).map(|to| to.to_string());
    let mut shown = json!({"id": schedule.id, "agent": schedule.agent, "to": to, "event": event_to_json(&event)});
    if let Some(cron) = &schedule.cron {
        shown["cron"] = json!(cron.expression);
        shown["time_zone"] = json!(if cron.time_zone.is_empty() { "UTC" } else { &cron.time_zone });
    }
    if let Some(next) = schedule.next_ms {
        shown["next"] = json!(moment(next));
    }
    if let Some(ttl) = schedule.ttl_ms {
        shown["ttl"] = json!(duration::format(Duration::from_millis(ttl)));
    }
    Ok(shown)
}

fn event(schedule: &Scheduled) -> Result<Bytes, Fault> {
    let unreadable = |error| Fault::new(Code::ControlPlaneDown, format!("unreadable answer: {error}"));
    STANDARD.decode(&schedule.event).map(Bytes::from).map_err(unreadable)
}

fn moment(millis: u64) -> Option<String> {
    timestamp::format(&stamp(millis)?)
}

fn stamp(millis: u64) -> Option<prost_types::Timestamp> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).map(Into::into)
}

/// The gRPC spelling of [`create`].
pub(super) async fn rpc_create(
    state: &State,
    request: ScheduleRequest,
    parent: &Parent,
) -> Result<ScheduleResponse, Fault> {
    let when = match request.when {
        Some(schedule_request::When::At(at)) => {
            let wrong = |_| Fault::new(Code::InvalidEvent, "`at` is no time");
            When::At(SystemTime::try_from(at).map_err(wrong)?)
        }
        Some(schedule_request::When::After(after)) => When::After(super::duration("after", after)?),
        Some(schedule_request::When::Cron(Cron { expression, time_zone })) => {
            When::Cron(CronWords { expression, time_zone })
        }
        None => return Err(Fault::new(Code::InvalidEvent, "say exactly one of `at`, `after` and `cron`")),
    };
    let ttl = request.ttl.map(|ttl| super::duration("ttl", ttl)).transpose()?;
    let wish = Wish { ttl, park: request.park };
    let Accepted { id, next_ms } =
        later::schedule(&state.outbound, &state.control, request.event, when, wish, parent).await?;
    Ok(ScheduleResponse { schedule_id: id, next: stamp(next_ms) })
}

/// The gRPC spelling of [`list`].
pub(super) async fn rpc_list(
    state: &State,
    page_token: String,
    page_size: u32,
) -> Result<ListSchedulesResponse, Fault> {
    let page = Page { page_token, page_size: page_size as usize };
    let Listed { schedules, next } = later::list(&state.control, &page.list()?).await?;
    let info = |schedule: Scheduled| {
        Ok(ScheduleInfo {
            event: event(&schedule)?,
            schedule_id: schedule.id,
            cron: schedule.cron.map(|CronWords { expression, time_zone }| Cron { expression, time_zone }),
            next: schedule.next_ms.and_then(stamp),
            ttl: schedule.ttl_ms.map(Duration::from_millis).map(duration::to_proto),
        })
    };
    Ok(ListSchedulesResponse {
        schedules: schedules.into_iter().map(info).collect::<Result<_, Fault>>()?,
        next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(body: &str) -> Result<When, String> {
        Times::split(body.as_bytes()).and_then(|(times, _)| times.when()).map_err(|fault| fault.message)
    }

    #[test]
    fn a_body_says_when_in_one_way() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(when(r#"{"to":"a","at":"1970-01-01T00:00:01Z"}"#), Ok(When::At(at)));
        assert_eq!(when(r#"{"to":"a","after":"10m"}"#), Ok(When::After(Duration::from_secs(600))));
        let cron = CronWords { expression: "0 9 * * *".into(), time_zone: "Europe/Berlin".into() };
        assert_eq!(when(r#"{"cron":"0 9 * * *","time_zone":"Europe/Berlin"}"#), Ok(When::Cron(cron)));
        for (body, why) in [
            (r#"{"to":"a"}"#, "exactly one"),
            (r#"{"at":"1970-01-01T00:00:01Z","after":"1s"}"#, "exactly one"),
            (r#"{"at":"tomorrow"}"#, "`at` is `tomorrow`"),
            (r#"{"after":"soon"}"#, "`after`"),
            (r#"{"cron":5}"#, "`cron`"),
            (r#"{"after":"1s","time_zone":"UTC"}"#, "`time_zone` goes with `cron`"),
        ] {
            let told = when(body).unwrap_err();
            assert!(told.contains(why), "{body}: {told}");
        }
    }

    #[test]
    fn the_rest_of_a_body_is_an_event() {
        let (_, rest) = Times::split(br#"{"to":"a","data":{"b": 1.50},"after":"1s"}"#).unwrap();
        assert_eq!(rest, br#"{"data":{"b": 1.50},"to":"a"}"#);
    }
}
