//! Whether a schedule may be stored, and as which message. Pure: the time comes in.

use std::time::{Duration, SystemTime};

use agentbus_nats::moves::rfc3339;
use agentbus_nats::pattern::Pattern;
use agentbus_nats::publisher::Message;
use agentbus_nats::schedule::{Cron, EVENT_BYTES_MAX, Request};
use agentbus_nats::subject::{self, EventSubject};
use agentbus_nats::{headers, msg_id};
use agentbus_proto::{Address, Code, EventHead, Fault, name};
use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How far back a moment may lie: it fires at once then. Longer ago it is a mistake.
const PAST_MAX: Duration = Duration::from_secs(60);
/// How far ahead a moment may lie.
const AHEAD_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Who asks, and what is known of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub namespace: &'a str,
    /// Name, as the broker has checked it.
    pub agent: &'a str,
    /// Address patterns it may publish to.
    pub publish: &'a [String],
    /// Seals the ids of schedules.
    pub secret: &'a str,
    /// Random: tells requests apart.
    pub nonce: u64,
}

/// A schedule that may be stored.
#[derive(Debug)]
pub(super) struct Plan {
    pub id: String,
    pub message: Message,
    pub next: SystemTime,
}

/// Once or again and again.
enum When {
    At(SystemTime),
    Cron(Cron, String, String),
}

/// Checks a request. Nothing that the sidecar has checked already is believed: a stolen token must not write through us
/// what the broker would refuse.
pub(super) fn decide(asker: Asker<'_>, request: &Request, now: SystemTime) -> Result<Plan, Fault> {
    let invalid = |why: String| Fault::new(Code::InvalidEvent, why);
    let payload = STANDARD.decode(&request.event).map_err(|error| invalid(format!("`event` is no base64: {error}")))?;
    if payload.len() > EVENT_BYTES_MAX {
        let why = format!("the event has {} bytes; at most {EVENT_BYTES_MAX} can be scheduled", payload.len());
        return Err(Fault::new(Code::TooLarge, why));
    }
    let head = EventHead::decode(&payload)?;
    name::token(&head.id).map_err(|fault| invalid(format!("`id` names the schedule: {}", fault.message)))?;
    if head.reply_by.is_some() {
        return Err(invalid("an ask cannot be scheduled: whoever asks waits for the reply".to_owned()));
    }
    let target = target(asker, request, &head)?;
    let when = when(request, now)?;
    let mut map = HeaderMap::new();
    let next = match &when {
        When::At(at) => {
            map.insert(headers::SCHEDULE, format!("@at {}", rfc3339(*at)));
            if let Some(trace) = &request.traceparent {
                map.insert(headers::TRACEPARENT, headers::clean(trace, 64));
            }
            *at
        }
        When::Cron(cron, expression, zone) => {
            map.insert(headers::SCHEDULE, cron.pattern());
            map.insert(headers::CRON, expression.as_str());
            if !zone.is_empty() {
                map.insert(headers::SCHEDULE_TIME_ZONE, zone.as_str());
            }
            cron.next(now).ok_or_else(|| invalid(format!("`cron` is `{expression}`: that never comes")))?
        }
    };
    map.insert(headers::SCHEDULE_TARGET, target);
    map.insert(headers::TYPE, headers::clean(head.effective_type(), 255));
    if !head.content_type.is_empty() {
        map.insert(headers::CONTENT_TYPE, headers::clean(&head.content_type, 255));
    }
    if !head.correlation_id.is_empty() && head.correlation_id != head.id {
        map.insert(headers::CORRELATION, headers::clean(&head.correlation_id, 128));
    }
    if let Some(ttl) = request.ttl_ms {
        if ttl == 0 {
            return Err(invalid("`ttl` is 0: nobody would ever be given it".to_owned()));
        }
        map.insert(headers::TTL, ttl.to_string());
    }
    // Each request is a decision of its own: only what our own publisher sends again is a duplicate. An id made of the
    // content would swallow a schedule that was cancelled and is wanted again.
    let id = format!("{}/{}/{:x}", asker.agent, head.id, asker.nonce);
    map.insert(headers::MSG_ID, msg_id::sealed(&id, asker.secret));
    let subject = subject::schedule(asker.namespace, asker.agent, &head.id);
    Ok(Plan { id: head.id, message: Message { subject, headers: map, payload: payload.into() }, next })
}

/// Where it fires to: only below the agent's own name, and where it might publish itself.
fn target(asker: Asker<'_>, request: &Request, head: &EventHead) -> Result<String, Fault> {
    let Asker { namespace, agent, publish, .. } = asker;
    let denied = |why: String| Err(Fault::new(Code::ScopeDenied, why));
    let parsed = EventSubject::parse(&request.subject).filter(|parsed| parsed.render() == request.subject);
    // What follows a name is not part of the address: wildcards and line ends would reach the broker with our rights.
    let plain = |parsed: &EventSubject| {
        let kind = &parsed.event_type;
        kind.is_empty() || kind.split('.').all(|part| name::token(part).is_ok())
    };
    let part = |parsed: &EventSubject| parsed.part == '-' || matches!(parsed.part, '0'..='9' | 'a'..='f');
    let parsed = parsed.filter(plain).filter(part);
    let Some(parsed) = parsed.filter(|parsed| parsed.namespace == namespace) else {
        return denied(format!("`{}` is no subject of an event here", request.subject.escape_debug()));
    };
    let stated = head.to.as_ref().map(Address::try_from).transpose()?;
    if parsed.sender != agent || head.source != agent || stated.as_ref() != Some(&parsed.to) {
        return denied(format!("agent `{agent}` may schedule events in its own name only"));
    }
    let allowed = publish.iter().filter_map(|text| Pattern::parse(text).ok());
    if !allowed.into_iter().any(|pattern| pattern.matches_address(&parsed.to)) {
        let to = &parsed.to;
        return denied(format!("agent `{agent}` may not publish to `{to}`: add it to `publish` in agentbus.yaml"));
    }
    let due = subject::due(namespace, &head.id, &request.subject);
    due.ok_or_else(|| Fault::new(Code::InvalidAddress, "the event has no subject"))
}

fn when(request: &Request, now: SystemTime) -> Result<When, Fault> {
    let invalid = |why: String| Err(Fault::new(Code::InvalidEvent, why));
    match (request.at_ms, request.after_ms, &request.cron) {
        (Some(at), None, None) => {
            let Some(at) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at)) else {
                return invalid("`at` is no time".to_owned());
            };
            if at + PAST_MAX < now {
                return invalid(format!("`at` is {}, which is past", rfc3339(at)));
            }
            if at.duration_since(now).is_ok_and(|ahead| ahead > AHEAD_MAX) {
                return invalid(format!("`at` is {}; at most ten years ahead are allowed", rfc3339(at)));
            }
            Ok(When::At(at))
        }
        (None, Some(after), None) => match Duration::from_millis(after) {
            after if after > AHEAD_MAX => invalid("`after` is more than ten years".to_owned()),
            after => Ok(When::At(now + after)),
        },
        (None, None, Some(cron)) => {
            let parsed = Cron::parse(&cron.expression, &cron.time_zone)?;
            // It becomes a header: one line.
            let expression = cron.expression.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            Ok(When::Cron(parsed, expression, cron.time_zone.clone()))
        }
        _ => invalid("say exactly one of `at`, `after` and `cron`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use agentbus_nats::schedule::CronWords;
    use agentbus_proto::event::v1::Event;
    use prost::Message as _;

    use super::*;

    const SUBJECT: &str = "ab.default.n.list.topic.-.file.found";

    fn event() -> Event {
        let to = Address::Topic("file.found".into());
        Event { id: "tick".into(), source: "list".into(), to: Some(to.into()), ..Event::default() }
    }

    fn request(event: &Event) -> Request {
        let event = STANDARD.encode(event.encode_to_vec());
        Request { subject: SUBJECT.into(), event, after_ms: Some(5_000), ..Request::default() }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
    }

    fn run(request: &Request) -> Result<Plan, Fault> {
        let publish = ["file.*".to_owned()];
        decide(Asker { namespace: "default", agent: "list", publish: &publish, secret: "s", nonce: 7 }, request, now())
    }

    fn header(plan: &Plan, name: &'static str) -> String {
        headers::get(Some(&plan.message.headers), name).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_schedule_is_stored_under_its_agent_and_fires_to_its_address() {
        let plan = run(&Request { ttl_ms: Some(9), ..request(&event()) }).unwrap();
        assert_eq!((plan.id.as_str(), plan.next), ("tick", now() + Duration::from_secs(5)));
        assert_eq!(plan.message.subject, "abs.default.s.list.tick");
        assert_eq!(header(&plan, headers::SCHEDULE), "@at 2026-11-18T11:06:45.000Z");
        assert_eq!(header(&plan, headers::SCHEDULE_TARGET), "abs.default.due.tick.n.list.topic.-.file.found");
        assert_eq!(header(&plan, headers::MSG_ID), msg_id::sealed("list/tick/7", "s"));
        assert_eq!((header(&plan, headers::TTL).as_str(), header(&plan, headers::TYPE).as_str()), ("9", "file.found"));
    }

    #[test]
    fn cron_goes_to_the_broker_in_six_fields_with_its_zone() {
        let cron = CronWords { expression: "0 9 * * 1-5".into(), time_zone: "Europe/Berlin".into() };
        let plan = run(&Request { after_ms: None, cron: Some(cron), ..request(&event()) }).unwrap();
        assert_eq!(header(&plan, headers::SCHEDULE), "0 0 9 * * 1-5");
        assert_eq!(header(&plan, headers::SCHEDULE_TIME_ZONE), "Europe/Berlin");
        assert_eq!(header(&plan, headers::CRON), "0 9 * * 1-5");
        assert_eq!(rfc3339(plan.next), "2026-11-19T08:00:00.000Z");
        let lines = CronWords { expression: " 0 9 * *\r\n1-5\n".into(), time_zone: String::new() };
        let plan = run(&Request { after_ms: None, cron: Some(lines), ..request(&event()) }).unwrap();
        assert_eq!(header(&plan, headers::CRON), "0 9 * * 1-5");
    }

    #[test]
    fn what_an_agent_may_not_publish_it_may_not_schedule() {
        let check = |request: Request, code: Code, why: &str| {
            let fault = run(&request).unwrap_err();
            assert_eq!(fault.code, code, "{fault}");
            assert!(fault.message.contains(why), "{fault}");
        };
        let good = request(&event());
        let to = |subject: &str| Request { subject: subject.into(), ..good.clone() };
        check(to("ab.default.n.boss.topic.-.file.found"), Code::ScopeDenied, "its own name");
        check(to("ab.other.n.list.topic.-.file.found"), Code::ScopeDenied, "no subject");
        check(to("aba.default.fact"), Code::ScopeDenied, "no subject");
        check(to("ab.default.n.list.topic.-.file.*"), Code::ScopeDenied, "own name");
        check(request(&Event { source: "boss".into(), ..event() }), Code::ScopeDenied, "its own name");
        let named = Event { to: Some(Address::Agent("b".into()).into()), ..event() };
        for end in ["agent.-.b.t\r\nNats-Rollup: all", "agent.-.b.*", "agent.-.b.t v", "agent.\n.b.t", "agent.*.b.t"] {
            let subject = format!("ab.default.n.list.{end}");
            check(Request { subject, ..request(&named) }, Code::ScopeDenied, "no subject");
        }
        let audit = Event { to: Some(Address::Topic("audit.done".into()).into()), ..event() };
        let audit = Request { subject: "ab.default.n.list.topic.-.audit.done".into(), ..request(&audit) };
        check(audit, Code::ScopeDenied, "may not publish to `audit.done`");
        check(request(&Event { id: "a.b".into(), ..event() }), Code::InvalidEvent, "`id` names the schedule");
        check(request(&Event { data: vec![0; EVENT_BYTES_MAX].into(), ..event() }), Code::TooLarge, "at most 32768");
        check(Request { event: "?".into(), ..good.clone() }, Code::InvalidEvent, "base64");
        check(request(&Event { reply_by: Some(now().into()), ..event() }), Code::InvalidEvent, "an ask");
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        let base = Request { after_ms: None, ..request(&event()) };
        let millis =
            |time: SystemTime| u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let at = |time| Request { at_ms: Some(millis(time)), ..base.clone() };
        let cron = |text: &str| Request {
            cron: Some(CronWords { expression: text.into(), time_zone: String::new() }),
            ..base.clone()
        };
        assert!(run(&at(now() - Duration::from_secs(30))).is_ok());
        for (request, why) in [
            (base.clone(), "exactly one"),
            (Request { after_ms: Some(1), ..at(now()) }, "exactly one"),
            (at(now() - Duration::from_secs(61)), "which is past"),
            (at(now() + AHEAD_MAX + Duration::from_secs(1)), "ten years"),
            (Request { at_ms: Some(u64::MAX), ..base.clone() }, "ten years"),
            (Request { after_ms: Some(u64::MAX), ..base.clone() }, "ten years"),
            (cron("0 0 31 2 *"), "never comes"),
            (cron("soon"), "five fields"),
            (Request { ttl_ms: Some(0), ..request(&event()) }, "`ttl` is 0"),
        ] {
            let fault = run(&request).unwrap_err();
            assert_eq!(fault.code, Code::InvalidEvent);
            assert!(fault.message.contains(why), "{fault}");
        }
    }
}
