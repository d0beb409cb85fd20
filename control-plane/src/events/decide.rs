//! Where an event is for one group, from what the streams, the consumer and the sidecars say. Pure.
//!
//! In this order, the newest word first: a sidecar that holds it; a copy that waits in the retry stream; a dead letter;
//! a receipt; the position of the group's consumer. What none of them tells is said to be unknown, not guessed.

use std::time::SystemTime;

use agentbus_nats::moves::rfc3339;

use super::status::{GroupStatus, State};
use super::story;
use crate::dead_letters::{Redriven, Target};

/// The event itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    /// Its number in the events stream.
    pub seq: u64,
    /// When it was stored.
    pub stored_at: SystemTime,
    /// When it expires.
    pub expires: Option<SystemTime>,
}

/// How far the group's consumer for this event is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    /// Newest number handed out.
    pub delivered: u64,
    /// All up to this one are settled.
    pub floor: u64,
    /// Nothing is left to be handed out or settled.
    pub idle: bool,
}

/// A copy in the retry stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    /// Which attempt it will be.
    pub attempt: u32,
    /// Not before.
    pub due: Option<SystemTime>,
    /// When the copy was stored.
    pub since: SystemTime,
    /// Why the attempt before failed; empty: it was given back, or redriven.
    pub cause: String,
    /// Who wrote it.
    pub agent: String,
    /// It is a redriven dead letter.
    pub redriven: bool,
}

/// A dead letter.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Letter {
    /// Its number.
    pub seq: u64,
    /// When it was stored; empty when unknown.
    pub at: Option<SystemTime>,
    /// Class.
    pub class: String,
    /// Cause.
    pub cause: String,
    /// Attempts made.
    pub attempts: u32,
    /// Who held it last.
    pub agent: String,
    /// Time of the first failure, RFC 3339.
    pub first_failure: String,
    /// Time of the last failure, RFC 3339.
    pub last_failure: String,
    /// Whether it was redriven.
    pub redriven: Option<Redriven>,
}

/// What a sidecar of the group says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// Agent.
    pub agent: String,
    /// Which instance of it.
    pub instance: String,
    /// What it has or remembers.
    pub what: HeldState,
    /// Which attempt, from 1; 0 when it only remembers.
    pub attempt: u32,
    /// Since when; unknown when it only remembers.
    pub since: Option<SystemTime>,
}

/// What a sidecar can say about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldState {
    /// Its agent is at work on it.
    Out,
    /// It has it, its agent has not.
    Waiting,
    /// It was acked here.
    Acked,
    /// It was failed here and stays with the broker for a while.
    Later,
    /// Something else became of it, of which there is a record in a stream, or was.
    Moved,
}

/// A record of one settled attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Receipt {
    /// Who.
    pub agent: String,
    /// Which attempt.
    pub attempt: u32,
    /// `acked`, `failed`, `rejected`, `returned`, `expired`.
    pub outcome: String,
    /// When it was handed out.
    pub handed: Option<SystemTime>,
    /// When it was settled.
    pub at: Option<SystemTime>,
    /// Why.
    pub cause: String,
}

/// An event that was published because of this one, by a member of the group.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Effect {
    /// Who.
    pub agent: String,
    /// In which attempt; 0: not told.
    pub attempt: u32,
    /// When this one was handed out, as far as it tells.
    pub handed: Option<SystemTime>,
    /// When the effect was stored.
    pub at: Option<SystemTime>,
}

/// All that is known of one event and one group.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Known {
    /// Position of the consumer; none: the group has none now.
    pub place: Option<Place>,
    /// Copies that wait, oldest first.
    pub waiting: Vec<Waiting>,
    /// Dead letters, oldest first.
    pub letters: Vec<Letter>,
    /// What sidecars said.
    pub held: Vec<Held>,
    /// Members of the group that should have answered and did not.
    pub silent: Vec<String>,
    /// Receipts, oldest first.
    pub receipts: Vec<Receipt>,
    /// What was published because of it, oldest first.
    pub effects: Vec<Effect>,
}

/// The state of `subject` for `group`.
pub(super) fn decide(group: &str, subject: &Subject, known: &Known, now: SystemTime) -> GroupStatus {
    let attempts = story::attempts(known);
    let mut status = held(known)
        .or_else(|| waiting(known, now))
        .or_else(|| dead(known))
        .or_else(|| receipt(known))
        .unwrap_or_else(|| place(subject, known, now));
    status.group = group.to_owned();
    if let Some(last) = attempts.last() {
        status.attempt = status.attempt.max(last.attempt);
        if status.agent.is_empty() && matches!(status.state, State::Acked | State::Retrying) {
            status.agent.clone_from(&last.agent);
        }
    }
    status.queue_wait_ms = story::queue_wait_ms(subject.stored_at, known);
    status.attempts = attempts;
    status
}

fn held(known: &Known) -> Option<GroupStatus> {
    let out = known.held.iter().find(|held| held.what == HeldState::Out)?;
    Some(GroupStatus {
        state: State::Delivered,
        attempt: out.attempt,
        agent: out.agent.clone(),
        instance: out.instance.clone(),
        since: out.since.map(rfc3339),
        ..GroupStatus::default()
    })
}

fn waiting(known: &Known, now: SystemTime) -> Option<GroupStatus> {
    let copy = known.waiting.last()?;
    let newer = |letter: &&Letter| letter.at.is_some_and(|at| at > copy.since);
    if known.letters.last().filter(newer).is_some() {
        return None;
    }
    let failed = !copy.cause.is_empty();
    let due = copy.due.filter(|due| *due > now);
    let note = match (failed, due) {
        _ if copy.redriven => "redriven; not taken yet".to_owned(),
        (false, _) => format!("given back by {}; not taken again yet", copy.agent),
        (true, Some(_)) => String::new(),
        (true, None) => "due; waits until a member of the group takes it".to_owned(),
    };
    Some(GroupStatus {
        state: if failed { State::Retrying } else { State::Accepted },
        attempt: copy.attempt,
        agent: if copy.redriven { String::new() } else { copy.agent.clone() },
        since: Some(rfc3339(copy.since)),
        due: copy.due.filter(|_| failed).map(rfc3339),
        reason: copy.cause.clone(),
        note,
        ..GroupStatus::default()
    })
}

fn dead(known: &Known) -> Option<GroupStatus> {
    let letter = known.letters.last()?;
    let base = GroupStatus {
        attempt: letter.attempts,
        agent: letter.agent.clone(),
        since: letter.at.map(rfc3339),
        reason: letter.cause.clone(),
        class: letter.class.clone(),
        dead_letter: Some(letter.seq),
        redriven: letter.redriven.clone(),
        ..GroupStatus::default()
    };
    let state = if letter.class == "EXPIRED" { State::Expired } else { State::Dead };
    // What became of it after the redrive, where a receipt tells.
    let after = receipt(known).filter(|_| known.receipts.last().is_some_and(|last| last.at > letter.at));
    Some(match &letter.redriven {
        Some(redriven) if redriven.to == Target::Group && after.is_some() => {
            let GroupStatus { state, attempt, agent, since, .. } = after.unwrap_or_default();
            GroupStatus { state, attempt, agent, since, reason: String::new(), ..base }
        }
        Some(redriven) if redriven.to == Target::Group => GroupStatus {
            state: State::Acked,
            since: None,
            agent: String::new(),
            reason: String::new(),
            note: format!("dead letter {} was redriven, and nothing of it is left: done after the redrive", letter.seq),
            ..base
        },
        Some(_) => GroupStatus { state, note: "redriven to its address: see the newer event".to_owned(), ..base },
        None => GroupStatus { state, ..base },
    })
}

fn receipt(known: &Known) -> Option<GroupStatus> {
    let last = known.receipts.last()?;
    let state = match last.outcome.as_str() {
        "acked" => State::Acked,
        "expired" => State::Expired,
        // Of a failure something newer is known, or will be.
        _ => return None,
    };
    Some(GroupStatus {
        state,
        attempt: last.attempt,
        agent: last.agent.clone(),
        since: last.at.map(rfc3339),
        ..GroupStatus::default()
    })
}

fn place(subject: &Subject, known: &Known, now: SystemTime) -> GroupStatus {
    let expired = subject.expires.is_some_and(|expires| expires <= now);
    let Some(place) = &known.place else {
        let note = "the group has no consumer on the broker now: nothing is known".to_owned();
        return GroupStatus { note, ..GroupStatus::default() };
    };
    let seq = subject.seq;
    if seq <= place.floor || (place.idle && seq <= place.delivered) {
        return settled(known, expired);
    }
    if seq > place.delivered {
        return untouched(subject, expired, String::new());
    }
    between(subject, known, expired)
}

fn settled(known: &Known, expired: bool) -> GroupStatus {
    let effect = known.effects.last();
    let remembered = known.held.iter().any(|held| held.what == HeldState::Acked);
    let note = match effect {
        Some(_) => "",
        None if expired && !remembered => "acked, or dropped because it had expired: not recorded which",
        None if !known.receipts.is_empty() => "",
        None => "who and when is not recorded; publish with a receipt to have it",
    };
    let acker = known.held.iter().find(|held| held.what == HeldState::Acked);
    let agent = effect.map(|effect| &effect.agent).or(acker.map(|held| &held.agent)).cloned().unwrap_or_default();
    let since = effect.and_then(|effect| effect.at).map(rfc3339);
    GroupStatus { state: State::Acked, agent, since, note: note.to_owned(), ..GroupStatus::default() }
}

fn untouched(subject: &Subject, expired: bool, note: String) -> GroupStatus {
    let since = Some(rfc3339(subject.expires.filter(|_| expired).unwrap_or(subject.stored_at)));
    let state = if expired { State::Expired } else { State::Accepted };
    GroupStatus { state, since, note, ..GroupStatus::default() }
}

/// Handed out once, and not everything before it is settled.
fn between(subject: &Subject, known: &Known, expired: bool) -> GroupStatus {
    let says = |what: HeldState| known.held.iter().find(|held| held.what == what);
    if let Some(held) = says(HeldState::Waiting) {
        return untouched(subject, expired, format!("with the sidecar {}, for its agent", held.instance));
    }
    if says(HeldState::Acked).is_some() || !known.effects.is_empty() || says(HeldState::Moved).is_some() {
        return settled(known, expired);
    }
    if let Some(held) = says(HeldState::Later) {
        let note = "failed, and retried in place to keep the order".to_owned();
        let failed = known.receipts.last().filter(|receipt| receipt.outcome == "failed");
        return GroupStatus {
            state: State::Retrying,
            attempt: failed.map_or(0, |failed| failed.attempt + 1),
            agent: held.agent.clone(),
            since: failed.and_then(|failed| failed.at).map(rfc3339),
            reason: failed.map(|failed| failed.cause.clone()).unwrap_or_default(),
            note,
            ..GroupStatus::default()
        };
    }
    let note = if known.silent.is_empty() {
        "handed out, and no sidecar of the group has it now: done, or about to be handed out again".to_owned()
    } else {
        format!("handed out or done: no answer from {}", known.silent.join(", "))
    };
    GroupStatus { note, ..GroupStatus::default() }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
