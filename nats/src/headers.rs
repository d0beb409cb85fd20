//! Header names on the broker: what must be read without decoding the event. The only place that spells them.
//!
//! `Nats-*` and `Ab-*` never come from an agent: headers are built here from checked values, agents have no way to set
//! one. Trace headers are lower case on the wire because servers do not rewrite case (facts: nats.md, trap 17).

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};

/// Deduplication id: `<sender>/<id>/<tag>`; successors carry `<stream>/<seq>/<group>/<tag>`, see `msg_id`.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// W3C trace context of the hop that stored the message.
pub const TRACEPARENT: &str = "traceparent";
/// W3C vendor state, passed on as it came.
pub const TRACESTATE: &str = "tracestate";
/// Content type of the event's data.
pub const CONTENT_TYPE: &str = "Content-Type";
/// Event type.
pub const TYPE: &str = "Ab-Type";
/// Correlation id of the chain.
pub const CORRELATION: &str = "Ab-Correlation";
/// Which attempt the next delivery is, from 1.
pub const ATTEMPT: &str = "Ab-Attempt";
/// Group a retry or dead letter belongs to.
pub const GROUP: &str = "Ab-Group";
/// When a retry may be delivered, RFC 3339 in UTC.
pub const NOT_BEFORE: &str = "Ab-Not-Before";
/// Where the event was first stored: `<stream>/<seq>/<subject>`.
pub const ORIGIN: &str = "Ab-Origin";
/// Time of the first failure, RFC 3339.
pub const FIRST_FAILURE: &str = "Ab-First-Failure";
/// Time of the last failure, RFC 3339.
pub const LAST_FAILURE: &str = "Ab-Last-Failure";
/// Dead letter class.
pub const CLASS: &str = "Ab-Class";
/// Why the last attempt failed, one line.
pub const CAUSE: &str = "Ab-Cause";
/// How often the event was handed out and given back without an answer.
pub const RETURNED: &str = "Ab-Returned";
/// On what was in hand when its agent died: how often it was the only thing in hand, and when the agent died last, in
/// milliseconds since the Unix epoch: `<times>/<milliseconds>`.
pub const CRASHES: &str = "Ab-Crashes";
/// Id of the event that this one is a replay of.
pub const REPLAY_OF: &str = "Ab-Replay-Of";
/// How often the event has been redriven already.
pub const REDRIVE: &str = "Ab-Redrive";
/// On an emitted event: the delivery that led to it, `<group>/<attempt>/<milliseconds when it was handed out>`.
pub const HANDLED: &str = "Ab-Handled";
/// On a receipt: when the attempt was handed out, in milliseconds since the Unix epoch.
pub const HANDED: &str = "Ab-Handed";
/// On a receipt: how the attempt ended.
pub const OUTCOME: &str = "Ab-Outcome";
/// Length of a payload that was left out of a page, in bytes.
pub(crate) const PAYLOAD_BYTES: &str = "Nats-Msg-Size";
/// Which atomic batch a message belongs to.
pub(crate) const BATCH_ID: &str = "Nats-Batch-Id";
/// Its place in it, from 1.
pub(crate) const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// On the last one: store all of them.
pub(crate) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// When a schedule fires: `@at <RFC 3339>` or six fields of cron.
pub const SCHEDULE: &str = "Nats-Schedule";
/// Where a schedule fires to.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// IANA time zone of a cron schedule.
pub const SCHEDULE_TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
/// Put on what was fired by the broker: the schedule's subject. No client can write it.
pub const SCHEDULER: &str = "Nats-Scheduler";
/// Put on what a stream took from another one by the broker: `<stream> <seq> …`.
pub const STREAM_SOURCE: &str = "Nats-Stream-Source";
/// A cron expression as its sender wrote it.
pub const CRON: &str = "Ab-Cron";
/// Lifetime of each occurrence of a schedule, in milliseconds.
pub const TTL: &str = "Ab-Ttl";
/// On a copy of what a schedule fired: `<event id> <milliseconds since the Unix epoch>`, see `schedule`.
pub const OCCURRENCE: &str = "Ab-Occurrence";
/// Which pin a message of a pinned consumer was sent under; the next request names it.
pub(crate) const PIN_ID: &str = "Nats-Pin-Id";
/// Most messages of one batch a pull may return.
pub(crate) const PENDING_MESSAGES: &str = "Nats-Pending-Messages";

/// Longest cause kept, in bytes: it is a line for people, not a log.
pub const CAUSE_BYTES_MAX: usize = 512;

/// One header's text, if present. Looks at all of them: that is cheaper than to make and hash a name, and they are few.
pub fn get<'a>(headers: Option<&'a HeaderMap>, name: &'static str) -> Option<&'a str> {
    let (_, values) = headers?.iter().find(|(other, _)| AsRef::<str>::as_ref(*other) == name)?;
    values.first().map(HeaderValue::as_str)
}

/// A header's name for building. Unlike the library's conversion from text it neither checks nor copies.
pub fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// A value that cannot break out of its header line: control characters become spaces, the length is bounded.
pub fn clean(value: &str, bytes_max: usize) -> String {
    let mut text = String::with_capacity(value.len().min(bytes_max));
    for c in value.chars() {
        if text.len() + c.len_utf8() > bytes_max {
            break;
        }
        text.push(if c.is_control() { ' ' } else { c });
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_cannot_smuggle_a_header() {
        assert_eq!(clean("failed\r\nNats-Rollup: all", 512), "failed  Nats-Rollup: all");
        assert_eq!(clean("ééé", 3), "é");
    }
}
