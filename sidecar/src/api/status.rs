//! Where events are, over HTTP and gRPC: asked of the control plane, which knows what this agent may see.

use agentbus_proto::event::v1::Event;
use agentbus_proto::http::{Path, Problem};
use agentbus_proto::json::EventJson;
use agentbus_proto::sidecar::v1::{Attempt, GetStatusRequest, GroupStatus, State as Where, get_status_request::By};
use agentbus_proto::sidecar::wire::{EventStatus, GetStatusResponse};
use agentbus_proto::{Code, Fault, timestamp};
use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use prost::Message;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;

/// One event. The id is the rest of the path: ids of emitted events have slashes.
pub(super) async fn event(Shared(state): Shared<State>, Path(id): Path<String>) -> Result<Response, Problem> {
    let told: Value = state.control.call("status", &json!({"event_id": id})).await?;
    Ok(Json(told).into_response())
}

/// All events of a chain.
pub(super) async fn chain(Shared(state): Shared<State>, Path(id): Path<String>) -> Result<Response, Problem> {
    let told: Value = state.control.call("status", &json!({"correlation_id": id})).await?;
    Ok(Json(told).into_response())
}

/// Both over gRPC.
pub(super) async fn get(state: &State, request: GetStatusRequest) -> Result<GetStatusResponse, Fault> {
    let question = match request.by {
        Some(By::EventId(id)) => json!({"event_id": id}),
        Some(By::CorrelationId(id)) => json!({"correlation_id": id}),
        None => return Err(Fault::new(Code::InvalidEvent, "name an `event_id` or a `correlation_id`")),
    };
    let told: Told = state.control.call("status", &question).await?;
    Ok(GetStatusResponse { events: told.events.into_iter().map(EventTold::into_wire).collect() })
}

/// What the control plane tells, as far as the contract has a place for it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    events: Vec<EventTold>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventTold {
    event: Value,
    stream: String,
    seq: u64,
    stored_at: String,
    groups: Vec<GroupTold>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupTold {
    group: String,
    state: String,
    attempt: u32,
    agent: String,
    instance: String,
    since: Option<String>,
    due: Option<String>,
    reason: String,
    class: String,
    dead_letter: Option<u64>,
    note: String,
    attempts: Vec<AttemptTold>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AttemptTold {
    attempt: u32,
    agent: String,
    handed: Option<String>,
    ended: Option<String>,
    outcome: String,
    reason: String,
    inferred: bool,
}

impl EventTold {
    fn into_wire(self) -> EventStatus {
        let json = serde_json::from_value::<EventJson>(self.event).unwrap_or_default();
        EventStatus {
            event: Event::try_from(json).unwrap_or_default().encode_to_vec().into(),
            stream: self.stream,
            seq: self.seq,
            groups: self.groups.into_iter().map(GroupTold::into_proto).collect(),
            stored: timestamp::parse(&self.stored_at),
        }
    }
}

impl GroupTold {
    fn into_proto(self) -> GroupStatus {
        GroupStatus {
            state: state(&self.state).into(),
            since: moment(self.since),
            due: moment(self.due),
            dead_letter: self.dead_letter.unwrap_or(0),
            attempts: self.attempts.into_iter().map(AttemptTold::into_proto).collect(),
            group: self.group,
            attempt: self.attempt,
            agent: self.agent,
            reason: self.reason,
            instance: self.instance,
            class: self.class,
            note: self.note,
        }
    }
}

impl AttemptTold {
    fn into_proto(self) -> Attempt {
        let Self { attempt, agent, handed, ended, outcome, reason, inferred } = self;
        Attempt { attempt, agent, handed: moment(handed), ended: moment(ended), outcome, reason, inferred }
    }
}

fn state(word: &str) -> Where {
    match word {
        "accepted" => Where::Accepted,
        "delivered" => Where::Delivered,
        "acked" => Where::Acked,
        "retrying" => Where::Retrying,
        "dead" => Where::Dead,
        "expired" => Where::Expired,
        _ => Where::Unspecified,
    }
}

fn moment(text: Option<String>) -> Option<Timestamp> {
    text.as_deref().and_then(timestamp::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_control_plane_tells_keeps_its_meaning() {
        let told = json!({"events": [{
            "event": {"id": "e", "source": "list", "to": "notes.created", "type": "notes.created"},
            "stream": "S", "seq": 7, "stored_at": "2026-11-20T10:00:00.500Z",
            "groups": [{
                "group": "check", "state": "retrying", "attempt": 2, "agent": "check", "due": "2026-11-20T10:00:05.000Z",
                "reason": "boom", "attempts": [{"attempt": 1, "agent": "check", "outcome": "failed", "reason": "boom"}],
                "queue_wait_ms": 3,
            }],
        }], "complete": true});
        let told: Told = serde_json::from_value(told).unwrap();
        let status = told.events.into_iter().map(EventTold::into_wire).next().unwrap();
        let event = Event::decode(status.event).unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str(), status.seq), ("e", "list", 7));
        assert_eq!(status.stored.map(|at| at.nanos), Some(500_000_000));
        let group = &status.groups[0];
        assert_eq!((group.state(), group.attempt, group.reason.as_str()), (Where::Retrying, 2, "boom"));
        assert!(group.due.is_some() && group.since.is_none());
        assert_eq!(group.attempts[0].outcome, "failed");
    }

    #[test]
    fn a_state_of_a_newer_control_plane_is_unknown() {
        assert_eq!(state("parked"), Where::Unspecified);
    }
}
