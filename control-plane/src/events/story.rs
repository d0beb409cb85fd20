//! The tries at one event, put together from what is left of them. Pure.
//!
//! A receipt tells a try exactly. Without one, a waiting copy and a dead letter tell the last failure, a sidecar what is
//! out now, and an event that was published because of this one its end.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use agentbus_nats::moves::rfc3339;

use super::decide::{HeldState, Known};
use super::status::Attempt;

/// Tries told of one dead letter at most, where nothing but their number is known.
const UNTOLD_MAX: u32 = 16;

/// All that is recorded, by number. Of several words about one try, the exact one wins.
pub(super) fn attempts(known: &Known) -> Vec<Attempt> {
    let mut told: BTreeMap<(u8, u32), Attempt> = BTreeMap::new();
    for receipt in &known.receipts {
        let attempt = Attempt {
            attempt: receipt.attempt,
            agent: receipt.agent.clone(),
            handed: receipt.handed.map(rfc3339),
            ended: receipt.at.map(rfc3339),
            outcome: receipt.outcome.clone(),
            reason: receipt.cause.clone(),
            inferred: false,
        };
        // Tries after a redrive begin with 1 again.
        told.insert((round(known, receipt.at), receipt.attempt), attempt);
    }
    for (index, letter) in known.letters.iter().enumerate() {
        let round = u8::try_from(index).unwrap_or(u8::MAX);
        for number in 1..=letter.attempts {
            let last = number == letter.attempts;
            if !last && number != 1 && letter.attempts > UNTOLD_MAX {
                continue;
            }
            told.entry((round, number)).or_insert_with(|| Attempt {
                attempt: number,
                agent: if last { letter.agent.clone() } else { String::new() },
                ended: match number {
                    _ if last => given(&letter.last_failure).or(letter.at.map(rfc3339)),
                    1 => given(&letter.first_failure),
                    _ => None,
                },
                outcome: if last { ended_as(&letter.class) } else { "failed" }.to_owned(),
                reason: if last { letter.cause.clone() } else { String::new() },
                ..Attempt::default()
            });
        }
    }
    if let Some(copy) = known.waiting.last().filter(|copy| !copy.cause.is_empty() && copy.attempt > 1) {
        let failed = copy.attempt - 1;
        told.entry((round(known, Some(copy.since)), failed)).or_insert_with(|| Attempt {
            attempt: failed,
            agent: copy.agent.clone(),
            ended: Some(rfc3339(copy.since)),
            outcome: "failed".to_owned(),
            reason: copy.cause.clone(),
            ..Attempt::default()
        });
    }
    if let Some(effect) = known.effects.last() {
        let number = effect.attempt.max(1);
        told.entry((round(known, effect.at), number)).or_insert_with(|| Attempt {
            attempt: number,
            agent: effect.agent.clone(),
            handed: effect.handed.map(rfc3339),
            ended: effect.at.map(rfc3339),
            outcome: "acked".to_owned(),
            inferred: true,
            ..Attempt::default()
        });
    }
    if let Some(out) = known.held.iter().find(|held| held.what == HeldState::Out) {
        told.insert(
            (round(known, out.since), out.attempt),
            Attempt {
                attempt: out.attempt,
                agent: out.agent.clone(),
                handed: out.since.map(rfc3339),
                outcome: "working".to_owned(),
                ..Attempt::default()
            },
        );
    }
    told.into_values().collect()
}

/// From being stored to the first time it is known to have been handed out.
pub(super) fn queue_wait_ms(stored_at: SystemTime, known: &Known) -> Option<u64> {
    let receipts = known.receipts.iter().filter(|receipt| receipt.attempt == 1).filter_map(|receipt| receipt.handed);
    let effects = known.effects.iter().filter(|effect| effect.attempt == 1).filter_map(|effect| effect.handed);
    let out = known.held.iter().filter(|held| held.what == HeldState::Out && held.attempt == 1);
    let first = receipts.chain(effects).chain(out.filter_map(|held| held.since)).min()?;
    let wait = first.duration_since(stored_at).unwrap_or(Duration::ZERO);
    u64::try_from(wait.as_millis()).ok()
}

/// How many dead letters there were before this moment.
fn round(known: &Known, at: Option<SystemTime>) -> u8 {
    // The receipt of the last try is written beside the dead letter itself.
    const BESIDE: Duration = Duration::from_millis(250);
    let Some(at) = at else { return 0 };
    let before = known.letters.iter().filter(|letter| letter.at.is_some_and(|stored| stored + BESIDE < at)).count();
    u8::try_from(before).unwrap_or(u8::MAX)
}

fn ended_as(class: &str) -> &'static str {
    match class {
        "REJECTED" => "rejected",
        "EXPIRED" => "expired",
        _ => "failed",
    }
}

fn given(time: &str) -> Option<String> {
    (!time.is_empty()).then(|| time.to_owned())
}
