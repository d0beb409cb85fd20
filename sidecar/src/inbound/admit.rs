//! What a message from the broker is: to be handed out, to wait, done already, or a dead letter. Pure.

use std::time::{Duration, SystemTime};

use agentbus_nats::grant::{GroupGrant, Policy};
use agentbus_nats::held::nanos;
use agentbus_nats::moves::{self, Class, Origin};
use agentbus_nats::pull::Incoming;
use agentbus_nats::schedule::Occurrence;
use agentbus_nats::subject;
use agentbus_proto::event::v1::DeliveryMode;
use agentbus_proto::{EventHead, duration};
use agentbus_runtime::backoff::Backoff;

use crate::memory::{Key, Memory, Source, Verdict};

/// Early rounds of a waiting retry raise the broker's delivery count too (facts: verified.md §9); this many are
/// forgiven before a retry counts as crashing.
const EARLY_ROUNDS_MAX: u64 = 10;
/// Longest subject that can be ours (contract: 255), with some room.
const SUBJECT_BYTES_MAX: usize = 512;
/// Longest delay asked of the broker at once, by a retry's due time or by an agent: what is further ahead is looked at
/// again then. The broker takes nanoseconds in 64 bits and would read more as none.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);

/// For so long after a death a suspect that meets a busy agent goes on to other members. Afterwards it waits for its turn,
/// so that it gets one where nobody is ever free.
const SUSPECT_STAYS: Duration = Duration::from_secs(30);

/// What to do with a message.
#[derive(Debug, PartialEq)]
pub enum Admission {
    /// Hand it out.
    Deliver(Box<Fresh>),
    /// Not due yet: the broker keeps it for this long.
    Wait(Duration),
    /// Nothing for the agent: ack and count under this outcome.
    Done(&'static str),
    /// Park it.
    Dead(Class, String),
}

/// A delivery to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Fresh {
    /// The event without its payload.
    pub head: EventHead,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Most attempts: the group's policy, or less if the sender wished so.
    pub attempts_max: u32,
    /// How long the agent may hold it.
    pub ack_deadline: Duration,
    /// Acked before it is handed out: the sender asked for at most once.
    pub at_most_once: bool,
    /// An agent died with it in hand: it is handed out with nothing beside it (see `table::crash`).
    pub suspect: Option<Suspect>,
}

/// What is known of deaths of the agent with an event in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// How often nothing else was in hand: it is to blame for these.
    pub crashes: u32,
    /// The last death, in milliseconds since the Unix epoch. Those of one death have the same.
    pub death_ms: u64,
    /// A free member had time to take it: here it waits for its turn.
    pub stays: bool,
}

impl Suspect {
    /// As its headers say, or as the broker's count or the memory gives reason to.
    fn of(incoming: &Incoming, counted: bool, now: SystemTime) -> Option<Self> {
        let now_ms = millis(now);
        if let Some((crashes, death_ms)) = moves::crashes(incoming) {
            let stays = now_ms.saturating_sub(death_ms) >= SUSPECT_STAYS.as_millis() as u64;
            return Some(Self { crashes, death_ms, stays });
        }
        counted.then_some(Self { crashes: 0, death_ms: now_ms, stays: true })
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn millis(time: SystemTime) -> u64 {
    nanos(time) / 1_000_000
}

/// Decides about one message.
pub fn admit(incoming: &Incoming, group: &GroupGrant, key: &Key, memory: &Memory, now: SystemTime) -> Admission {
    if key.source == Source::Retry
        && let Some(left) = moves::wait(incoming, now)
    {
        return Admission::Wait(left.min(DELAY_MAX));
    }
    match memory.verdict(key) {
        Some(Verdict::Acked | Verdict::Nacked | Verdict::Dead | Verdict::Moved) => return Admission::Done("reacked"),
        Some(Verdict::ToPark(class, cause)) => return Admission::Dead(*class, cause.clone()),
        Some(Verdict::Lost | Verdict::Later | Verdict::Died) | None => {}
    }
    if incoming.subject.len() > SUBJECT_BYTES_MAX {
        // No sidecar writes such a subject, and a dead letter that names it might not fit.
        return Admission::Done("forged");
    }
    let mut head = match EventHead::decode(&incoming.payload) {
        Ok(head) => head,
        Err(fault) => return Admission::Dead(Class::Undecodable, fault.message),
    };
    if !is_genuine(incoming, key.source, &head.source) {
        return Admission::Done("forged");
    }
    // What a schedule fired is an event of its own: from here on under its own id, chain and expiry.
    if let Some(occurrence) = Occurrence::of(&incoming.headers, &incoming.subject, incoming.receipt.stored_at) {
        occurrence.apply(&mut head);
    }
    if let Some(expired) = expired(&head, now) {
        return expired;
    }
    if !group.wants(&head) {
        return Admission::Done("filtered");
    }
    let died = memory.verdict(key) == Some(&Verdict::Died);
    deliver(incoming, group, key.source, head, died, now)
}

/// Whether the source is the sender whose name the broker checked. On the events stream that is the subject's, whatever
/// a header says; a retry names the subject of its original, and only the group's own members can write it.
fn is_genuine(incoming: &Incoming, stream: Source, source: &str) -> bool {
    match stream {
        Source::Events => subject::sender(&incoming.subject) == Some(source),
        Source::Retry => subject::sender(&Origin::of(incoming).subject) == Some(source),
    }
}

/// Expiry is decided by who pulls: the broker would drop unread events without a word.
pub(super) fn expired(head: &EventHead, now: SystemTime) -> Option<Admission> {
    let expires = head.expired(now)?;
    let tell = head.delivery.as_ref().is_some_and(|delivery| delivery.dead_letter_if_expired);
    let cause = || format!("expired at {}", moves::rfc3339(expires));
    Some(if tell { Admission::Dead(Class::Expired, cause()) } else { Admission::Done("expired") })
}

fn deliver(
    incoming: &Incoming,
    group: &GroupGrant,
    source: Source,
    head: EventHead,
    died: bool,
    now: SystemTime,
) -> Admission {
    let policy = &group.policy;
    let wish = head.delivery.as_ref();
    let at_most_once = wish.is_some_and(|wish| wish.mode() == DeliveryMode::AtMostOnce);
    // Never twice: a failure is the last one.
    let wished = if at_most_once { 1 } else { wish.map_or(0, |wish| wish.max_attempts) };
    let attempts_max = if wished == 0 { policy.max_attempts } else { wished.min(policy.max_attempts) }.max(1);
    let delivered = incoming.receipt.delivered;
    let in_place = group.keeps_order();
    // An event is delivered a second time when a sidecar went away with it, and where order is kept after every failure;
    // copies tell their attempt themselves.
    let attempt = match source {
        Source::Retry if !in_place => moves::attempt(incoming),
        _ => u32::try_from(delivered).unwrap_or(u32::MAX),
    };
    let delivered_max = match source {
        _ if in_place => u64::from(attempts_max.max(policy.crash_limit)),
        Source::Events => u64::from(policy.crash_limit),
        Source::Retry => u64::from(policy.crash_limit) + EARLY_ROUNDS_MAX,
    };
    if delivered > delivered_max {
        let cause = format!("handed out {} times and never settled: it may take its agent down", delivered - 1);
        return Admission::Dead(Class::Crash, cause);
    }
    let deadline = wish.and_then(|wish| wish.ack_deadline).and_then(|deadline| Duration::try_from(deadline).ok());
    let ack_deadline =
        deadline.filter(|wish| !wish.is_zero()).map_or(policy.ack_deadline(), |wish| wish.min(policy.ack_deadline()));
    let suspect = Suspect::of(incoming, died || delivered == delivered_max, now);
    Admission::Deliver(Box::new(Fresh { head, attempt, attempts_max, ack_deadline, at_most_once, suspect }))
}

/// The pauses between attempts: the group's, and instead of each of its values what the sender wished.
pub(super) fn backoff(head: &EventHead, policy: &Policy) -> Backoff {
    let own = policy.backoff();
    let Some(wish) = head.delivery.as_ref().and_then(|delivery| delivery.backoff.as_ref()) else { return own };
    let span = |wish: Option<&prost_types::Duration>, own: Duration| {
        wish.and_then(duration::from_proto).filter(|wish| !wish.is_zero()).map_or(own, |wish| wish.min(DELAY_MAX))
    };
    let initial = span(wish.initial.as_ref(), own.initial);
    let max = span(wish.max.as_ref(), own.max).max(initial);
    let factor = if wish.factor == 0.0 { own.factor } else { f64::from(wish.factor) };
    Backoff { initial, max, factor, jitter: f64::from(wish.jitter) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentbus_nats::headers;
    use agentbus_proto::event::v1::{self as pb, DeliveryOptions, Event};
    use prost::Message;

    fn group() -> GroupGrant {
        serde_json::from_str(r#"{"name":"readers","patterns":["notes.>"]}"#).unwrap()
    }

    fn incoming(event: &Event) -> Incoming {
        let mut incoming = moves::example("AB_default_EVENTS", 7, "ab.default.n.list.topic.-.notes.created", b"");
        incoming.payload = event.encode_to_vec().into();
        incoming
    }

    fn event() -> Event {
        Event { id: "1".into(), source: "list".into(), r#type: "notes.created".into(), ..Event::default() }
    }

    fn key(source: Source) -> Key {
        Key { group: "readers".into(), source, seq: 7, stored_at: SystemTime::UNIX_EPOCH }
    }

    fn check(incoming: &Incoming, group: &GroupGrant) -> Admission {
        admit(incoming, group, &key(Source::Events), &Memory::new(8), SystemTime::now())
    }

    #[test]
    fn a_good_event_is_delivered_as_its_first_attempt() {
        let Admission::Deliver(fresh) = check(&incoming(&event()), &group()) else { panic!() };
        assert_eq!((fresh.attempt, fresh.attempts_max, fresh.at_most_once), (1, 4, false));
    }

    #[test]
    fn junk_is_parked_and_a_forged_source_is_dropped() {
        let mut junk = incoming(&event());
        junk.payload = b"\xff\xff\xff".as_slice().into();
        assert!(matches!(check(&junk, &group()), Admission::Dead(Class::Undecodable, _)));
        let forged = Event { source: "boss".into(), ..event() };
        assert_eq!(check(&incoming(&forged), &group()), Admission::Done("forged"));
    }

    #[test]
    fn at_most_once_has_one_attempt() {
        let delivery = DeliveryOptions { mode: DeliveryMode::AtMostOnce.into(), max_attempts: 3, ..Default::default() };
        let once = Event { delivery: Some(delivery), ..event() };
        let Admission::Deliver(fresh) = check(&incoming(&once), &group()) else { panic!() };
        assert_eq!((fresh.attempts_max, fresh.at_most_once), (1, true));
    }

    #[test]
    fn the_senders_pauses_come_before_the_groups() {
        let own = Policy::default().backoff();
        let check = |wish: Option<pb::Backoff>, wanted: Backoff| {
            let delivery = Some(DeliveryOptions { backoff: wish, ..Default::default() });
            let head = EventHead { delivery, ..EventHead::default() };
            assert_eq!(backoff(&head, &Policy::default()), wanted, "{wish:?}");
        };
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let quiet = Backoff { jitter: 0.0, ..own };
        check(None, own);
        check(Some(pb::Backoff::default()), quiet);
        check(Some(pb::Backoff { initial: span(0), ..pb::Backoff::default() }), quiet);
        let initial = Duration::from_secs(5);
        check(Some(pb::Backoff { initial: span(5), ..pb::Backoff::default() }), Backoff { initial, ..quiet });
        let (initial, max) = (Duration::from_secs(60), Duration::from_secs(60));
        let patient = pb::Backoff { initial: span(60), factor: 1.0, jitter: 0.5, ..pb::Backoff::default() };
        check(Some(patient), Backoff { initial, max, factor: 1.0, jitter: 0.5 });
        let max = Duration::from_secs(3);
        check(Some(pb::Backoff { max: span(3), ..pb::Backoff::default() }), Backoff { max, ..quiet });
        let forever = pb::Backoff { initial: span(i64::MAX), ..pb::Backoff::default() };
        check(Some(forever), Backoff { initial: DELAY_MAX, max: DELAY_MAX, ..quiet });
    }

    #[test]
    fn an_expired_event_is_counted_or_parked_as_its_sender_wished() {
        let past = Some((SystemTime::now() - Duration::from_secs(5)).into());
        let quiet = Event { expires: past, ..event() };
        assert_eq!(check(&incoming(&quiet), &group()), Admission::Done("expired"));
        let delivery = Some(DeliveryOptions { dead_letter_if_expired: true, ..Default::default() });
        let loud = Event { expires: past, delivery, ..event() };
        assert!(matches!(check(&incoming(&loud), &group()), Admission::Dead(Class::Expired, _)));
    }

    #[test]
    fn filters_on_type_and_attributes_ack_what_does_not_match() {
        let typed = GroupGrant { types: vec!["other.v1".into()], ..group() };
        assert_eq!(check(&incoming(&event()), &typed), Admission::Done("filtered"));
        let tagged = GroupGrant { attributes: [("env".to_owned(), "prod".to_owned())].into(), ..group() };
        assert_eq!(check(&incoming(&event()), &tagged), Admission::Done("filtered"));
        let matching = Event { attributes: [("env".to_owned(), "prod".to_owned())].into(), ..event() };
        assert!(matches!(check(&incoming(&matching), &tagged), Admission::Deliver(_)));
    }

    #[test]
    fn what_was_settled_is_acked_again_without_the_agent() {
        let mut memory = Memory::new(8);
        memory.remember(key(Source::Events), Verdict::Acked);
        let admission = admit(&incoming(&event()), &group(), &key(Source::Events), &memory, SystemTime::now());
        assert_eq!(admission, Admission::Done("reacked"));
        memory.remember(key(Source::Events), Verdict::Lost);
        let admission = admit(&incoming(&event()), &group(), &key(Source::Events), &memory, SystemTime::now());
        assert!(matches!(admission, Admission::Deliver(_)));
    }

    #[test]
    fn what_keeps_taking_agents_down_is_parked() {
        let mut poison = incoming(&event());
        poison.receipt.delivered = 5;
        assert!(matches!(check(&poison, &group()), Admission::Deliver(_)));
        poison.receipt.delivered = 6;
        assert!(matches!(check(&poison, &group()), Admission::Dead(Class::Crash, _)));
    }

    #[test]
    fn an_early_retry_waits_and_a_due_one_keeps_its_attempt() {
        let mut retry = incoming(&event());
        retry.headers.insert(headers::ORIGIN, "AB_default_EVENTS/3/ab.default.n.list.topic.-.notes.created");
        retry.headers.insert(headers::ATTEMPT, "3");
        let now = SystemTime::now();
        retry.headers.insert(headers::NOT_BEFORE, moves::rfc3339(now + Duration::from_secs(4)));
        let at = |now| admit(&retry, &group(), &key(Source::Retry), &Memory::new(8), now);
        assert!(matches!(at(now), Admission::Wait(left) if left > Duration::from_secs(3)));
        assert!(matches!(at(now + Duration::from_secs(5)), Admission::Deliver(fresh) if fresh.attempt == 3));
    }

    #[test]
    fn a_header_cannot_lend_another_senders_name() {
        let mut forged = incoming(&Event { source: "boss".into(), ..event() });
        forged.headers.insert(headers::ORIGIN, "AB_default_EVENTS/1/ab.default.n.boss.topic.-.notes.created");
        assert_eq!(check(&forged, &group()), Admission::Done("forged"));
    }

    #[test]
    fn an_expiry_before_all_calendars_is_an_expiry() {
        let expires = Some(prost_types::Timestamp { seconds: -1_000_000_000_000, nanos: 0 });
        let delivery = Some(DeliveryOptions { dead_letter_if_expired: true, ..Default::default() });
        let odd = Event { expires, delivery, ..event() };
        assert!(matches!(check(&incoming(&odd), &group()), Admission::Dead(Class::Expired, _)));
    }

    #[test]
    fn a_new_message_under_an_old_sequence_is_new() {
        let mut memory = Memory::new(8);
        memory.remember(key(Source::Events), Verdict::Acked);
        let later = Key { stored_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1), ..key(Source::Events) };
        let admission = admit(&incoming(&event()), &group(), &later, &memory, SystemTime::now());
        assert!(matches!(admission, Admission::Deliver(_)));
    }

    #[test]
    fn a_subject_that_no_sidecar_writes_is_dropped() {
        let mut long = incoming(&event());
        long.subject = format!("ab.default.n.list.topic.-.{}", "x".repeat(60_000)).into();
        long.payload = b"\xff".as_slice().into();
        assert_eq!(check(&long, &group()), Admission::Done("forged"));
    }
}
