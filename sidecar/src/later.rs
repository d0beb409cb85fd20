//! Events for later: checked here like any event, then stored by the control plane, which alone may. The broker fires
//! them; what comes of it needs neither this sidecar nor the control plane.

use std::time::{Duration, SystemTime};

use agentbus_nats::headers;
use agentbus_nats::schedule::{Accepted, Cancel, Cancelled, CronWords, EVENT_BYTES_MAX, List, Listed, Request};
use agentbus_proto::{Code, EventHead, Fault, name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::control::Control;
use crate::outbound::{Outbound, Parent, Wish};

/// When an event is to be published.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// Once, at this moment.
    At(SystemTime),
    /// Once, so long from now.
    After(Duration),
    /// Again and again.
    Cron(CronWords),
}

/// Stores an event for later. Its id names the schedule; the same id again replaces it.
pub async fn schedule(
    outbound: &Outbound,
    control: &Control,
    event: Bytes,
    when: When,
    wish: Wish,
    parent: &Parent,
) -> Result<Accepted, Fault> {
    // Before anything is made of it: an id of our own would be a token.
    let given = EventHead::decode(&event)?.id;
    if !given.is_empty() {
        let why = |fault: Fault| Fault::new(Code::InvalidEvent, format!("`id` names the schedule: {}", fault.message));
        name::token(&given).map_err(why)?;
    }
    // The lifetime counts from each firing, so it is no business of this event yet.
    let checked = outbound.check(event, Wish { ttl: None, ..wish }, parent, None)?;
    let message = checked.message();
    if message.payload.len() > EVENT_BYTES_MAX {
        let why = format!("the event has {} bytes; at most {EVENT_BYTES_MAX} can be scheduled", message.payload.len());
        return Err(Fault::new(Code::TooLarge, why));
    }
    let mut request = Request {
        subject: message.subject.clone(),
        event: STANDARD.encode(&message.payload),
        ttl_ms: wish.ttl.map(millis),
        traceparent: headers::get(Some(&message.headers), headers::TRACEPARENT).map(str::to_owned),
        ..Request::default()
    };
    match when {
        When::At(at) => request.at_ms = Some(millis(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())),
        When::After(after) => request.after_ms = Some(millis(after)),
        When::Cron(cron) => request.cron = Some(cron),
    }
    control.call("schedule", &request).await
}

/// A page of the agent's schedules.
pub async fn list(control: &Control, request: &List) -> Result<Listed, Fault> {
    control.call("schedules", request).await
}

/// Ends a schedule; false when there was none.
pub async fn cancel(control: &Control, id: &str) -> Result<bool, Fault> {
    let answer: Cancelled = control.call("cancel", &Cancel { id: id.to_owned() }).await?;
    Ok(answer.cancelled)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
