//! One table: what is known, and what is said about it.

use std::time::Duration;

use super::*;

const STORED: Duration = Duration::from_secs(1_000);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + STORED + Duration::from_secs(seconds)
}

fn subject() -> Subject {
    Subject { seq: 10, stored_at: at(0), expires: None }
}

fn reads(delivered: u64, floor: u64) -> Known {
    let place = Place { delivered, floor, idle: false };
    Known { place: Some(place), ..Known::default() }
}

fn held(what: HeldState) -> Held {
    let since = (what == HeldState::Out).then(|| at(3));
    Held { agent: "check".into(), instance: "check-2".into(), what, attempt: 2, since }
}

fn copy(cause: &str) -> Waiting {
    let due = Some(at(20));
    Waiting { attempt: 2, due, since: at(5), cause: cause.into(), agent: "check".into(), redriven: false }
}

fn letter(redriven: Option<Target>) -> Letter {
    let redriven = redriven.map(|to| Redriven {
        count: 1,
        at: "2026-11-20T10:00:00.000Z".into(),
        to,
        redrive: 1,
        new_stream: "S".into(),
        new_seq: 4,
    });
    Letter {
        seq: 7,
        at: Some(at(6)),
        class: "EXHAUSTED".into(),
        cause: "boom".into(),
        attempts: 4,
        agent: "check".into(),
        last_failure: "2026-11-20T10:00:09.000Z".into(),
        first_failure: "2026-11-20T10:00:00.000Z".into(),
        redriven,
    }
}

fn said(known: Known) -> GroupStatus {
    decide("g", &subject(), &known, at(10))
}

#[test]
fn every_state_has_its_signs() {
    let check = |known: Known, wanted: State| {
        let status = said(known.clone());
        assert_eq!(status.state, wanted, "{known:?}: {status:?}");
    };
    check(reads(9, 9), State::Accepted);
    check(reads(10, 10), State::Acked);
    check(reads(30, 10), State::Acked);
    check(reads(30, 9), State::Unknown);
    check(Known::default(), State::Unknown);
    let quiet = Place { delivered: 10, floor: 3, idle: true };
    check(Known { place: Some(quiet), ..Known::default() }, State::Acked);
    for (what, wanted) in [
        (HeldState::Out, State::Delivered),
        (HeldState::Waiting, State::Accepted),
        (HeldState::Acked, State::Acked),
        (HeldState::Moved, State::Acked),
        (HeldState::Later, State::Retrying),
    ] {
        check(Known { held: vec![held(what)], ..reads(10, 9) }, wanted);
    }
    // The original is acked when its copy is stored: the copy tells.
    check(Known { waiting: vec![copy("boom")], ..reads(10, 10) }, State::Retrying);
    check(Known { waiting: vec![copy("")], ..reads(10, 10) }, State::Accepted);
    check(Known { waiting: vec![copy("boom")], held: vec![held(HeldState::Out)], ..reads(10, 10) }, State::Delivered);
    check(Known { letters: vec![letter(None)], ..reads(10, 10) }, State::Dead);
    check(Known { letters: vec![letter(Some(Target::Origin))], ..reads(10, 10) }, State::Dead);
    check(Known { letters: vec![letter(Some(Target::Group))], ..reads(10, 10) }, State::Acked);
    // A copy behind the letter is the redriven one; a letter behind the copy is its end.
    let again = Waiting { since: at(8), attempt: 1, redriven: true, ..copy("") };
    let letters = vec![letter(Some(Target::Group))];
    check(Known { letters: letters.clone(), waiting: vec![again], ..reads(10, 10) }, State::Accepted);
    check(Known { letters: vec![letter(None)], waiting: vec![copy("boom")], ..reads(10, 10) }, State::Dead);
    let receipt = |outcome: &str| vec![Receipt { attempt: 1, outcome: outcome.into(), ..Receipt::default() }];
    check(Known { receipts: receipt("acked"), ..reads(10, 9) }, State::Acked);
    check(Known { receipts: receipt("expired"), ..reads(10, 10) }, State::Expired);
    check(Known { receipts: receipt("failed"), ..reads(10, 9) }, State::Unknown);
    check(Known { effects: vec![Effect::default()], ..reads(10, 9) }, State::Acked);
}

#[test]
fn who_has_it_is_named() {
    let status = said(Known { held: vec![held(HeldState::Out)], ..reads(10, 9) });
    assert_eq!((status.agent.as_str(), status.instance.as_str(), status.attempt), ("check", "check-2", 2));
    assert_eq!(status.since, Some(rfc3339(at(3))));
    assert_eq!(status.attempts.last().map(|last| last.outcome.as_str()), Some("working"));
}

#[test]
fn a_retry_says_when_and_why() {
    let status = said(Known { waiting: vec![copy("boom")], ..reads(10, 10) });
    assert_eq!((status.attempt, status.reason.as_str(), status.due), (2, "boom", Some(rfc3339(at(20)))));
    assert_eq!((status.attempts[0].attempt, status.attempts[0].reason.as_str()), (1, "boom"));
    let over = decide("g", &subject(), &Known { waiting: vec![copy("boom")], ..reads(10, 10) }, at(30));
    assert!(over.note.starts_with("due"), "{over:?}");
}

#[test]
fn a_retry_in_place_says_what_failed() {
    let failed =
        Receipt { attempt: 2, outcome: "failed".into(), cause: "boom".into(), at: Some(at(4)), ..Receipt::default() };
    let status = said(Known { receipts: vec![failed], held: vec![held(HeldState::Later)], ..reads(10, 9) });
    assert_eq!((status.state, status.attempt, status.reason.as_str()), (State::Retrying, 3, "boom"));
    assert_eq!(status.since, Some(rfc3339(at(4))));
}

#[test]
fn a_receipt_after_a_redrive_tells_who_and_when() {
    let acked = |when: u64| Receipt {
        attempt: 1,
        outcome: "acked".into(),
        agent: "other".into(),
        at: Some(at(when)),
        ..Receipt::default()
    };
    let known =
        |when: u64| Known { letters: vec![letter(Some(Target::Group))], receipts: vec![acked(when)], ..reads(10, 10) };
    let status = said(known(8));
    assert_eq!((status.state, status.attempt, status.agent.as_str()), (State::Acked, 1, "other"));
    assert_eq!((status.since, status.note.as_str(), status.dead_letter), (Some(rfc3339(at(8))), "", Some(7)));
    assert!(said(known(2)).note.contains("nothing of it is left"), "an older one is of another attempt");
}

#[test]
fn a_dead_letter_says_which_and_how_often() {
    let status = said(Known { letters: vec![letter(None)], ..reads(10, 10) });
    assert_eq!((status.class.as_str(), status.reason.as_str(), status.dead_letter), ("EXHAUSTED", "boom", Some(7)));
    let numbers: Vec<u32> = status.attempts.iter().map(|one| one.attempt).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(status.attempts[0].ended.is_some() && status.attempts[1].ended.is_none());
}

#[test]
fn an_expired_event_is_told_from_a_done_one_where_it_can_be() {
    let late = Subject { expires: Some(at(5)), ..subject() };
    let check = |known: Known, wanted: State, unsure: bool| {
        let status = decide("g", &late, &known, at(10));
        assert_eq!((status.state, status.note.contains("expired")), (wanted, unsure), "{known:?}: {status:?}");
    };
    check(reads(9, 9), State::Expired, false);
    check(reads(10, 10), State::Acked, true);
    check(Known { held: vec![held(HeldState::Acked)], ..reads(10, 10) }, State::Acked, false);
    check(Known { effects: vec![Effect::default()], ..reads(10, 10) }, State::Acked, false);
    let dropped = Letter { class: "EXPIRED".into(), ..letter(None) };
    check(Known { letters: vec![dropped], ..reads(10, 10) }, State::Expired, false);
}

#[test]
fn silence_is_told() {
    let status = said(Known { silent: vec!["check-1".into()], ..reads(10, 9) });
    assert!(status.note.contains("check-1"), "{status:?}");
    let status = said(reads(10, 9));
    assert!(status.note.contains("no sidecar"), "{status:?}");
}

#[test]
fn the_wait_in_the_queue_is_known_from_whatever_tells_the_handing_out() {
    let effect = Effect { agent: "check".into(), attempt: 1, handed: Some(at(2)), at: Some(at(4)) };
    let status = said(Known { effects: vec![effect], ..reads(10, 10) });
    assert_eq!((status.queue_wait_ms, status.agent.as_str()), (Some(2000), "check"));
    assert!(status.attempts[0].inferred);
    let receipt = Receipt { attempt: 1, outcome: "failed".into(), handed: Some(at(1)), ..Receipt::default() };
    let second = Receipt { attempt: 2, outcome: "acked".into(), handed: Some(at(7)), ..Receipt::default() };
    let status = said(Known { receipts: vec![receipt, second], ..reads(10, 10) });
    assert_eq!((status.queue_wait_ms, status.attempt, status.attempts.len()), (Some(1000), 2, 2));
    assert_eq!(said(reads(10, 10)).queue_wait_ms, None);
}
