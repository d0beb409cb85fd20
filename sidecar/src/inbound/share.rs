//! A group's share of the dead letters' space: asked of the control plane, which counts what is there, some of it in advance.
//!
//! A group whose share is used up stores no more; its events stay where they are. While the control plane does not answer
//! dead letters are stored all the same: the share is against those who run wild, and nobody's event may wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentbus_nats::bus::Bus;
use agentbus_nats::grant::{ControlReply, LettersAnswer, LettersRequest};
use agentbus_nats::publisher::Message;
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};

/// The verb that tells.
const VERB: &str = "letters";
/// Longest wait for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// What was given holds for so long.
const GIVEN_FOR: Duration = Duration::from_secs(10);
/// After a refusal, and after no answer, nobody is asked for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// What each group may still store. The groups are those of the grant.
#[derive(Debug, Default)]
pub(super) struct Shares {
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of a group.
#[derive(Debug, Clone, Copy)]
struct Known {
    left: u64,
    until: Instant,
    /// More was refused.
    used_up: bool,
}

impl Known {
    /// Takes something out of it; none when that has to be asked for.
    fn take(&mut self, bytes: u64, now: Instant) -> Option<bool> {
        if now >= self.until {
            return None;
        }
        if self.left < bytes {
            return self.used_up.then_some(false);
        }
        self.left -= bytes;
        Some(true)
    }

    fn told(answer: Option<LettersAnswer>, bytes: u64, now: Instant) -> Self {
        match answer {
            Some(answer) if answer.bytes >= bytes => {
                Self { left: answer.bytes, until: now + GIVEN_FOR, used_up: false }
            }
            Some(answer) => Self { left: answer.bytes, until: now + PAUSE, used_up: true },
            None => Self { left: u64::MAX, until: now + PAUSE, used_up: false },
        }
    }
}

impl Shares {
    /// Takes the room for a letter of this group. `STREAM_FULL` when its share is used up.
    pub(super) async fn take(&self, bus: &dyn Bus, agent: &str, group: &str, letter: &Message) -> Result<(), Fault> {
        let bytes = (letter.payload.len() + letter.packed_headers().len()) as u64;
        let known = self.known().get_mut(group).and_then(|known| known.take(bytes, Instant::now()));
        let may = match known {
            Some(may) => may,
            None => {
                let request = LettersRequest { group: group.to_owned(), bytes };
                let mut told = Known::told(ask(bus, agent, &letter.subject, &request).await, bytes, Instant::now());
                let may = told.take(bytes, Instant::now()).unwrap_or(true);
                self.known().insert(group.to_owned(), told);
                may
            }
        };
        if may {
            return Ok(());
        }
        let why = format!(
            "the dead letters of group `{group}` take up the share that one group may have: send some again \
             (`agentbus dlq`), or set `retention.dead_letters`; until then its failed events stay where they are"
        );
        Err(Fault::new(Code::StreamFull, why).with_retry_after(PAUSE))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None when nobody answers.
async fn ask(bus: &dyn Bus, agent: &str, letter: &str, request: &LettersRequest) -> Option<LettersAnswer> {
    let namespace = letter.split('.').nth(1)?;
    let body = serde_json::to_vec(request).ok()?;
    let answer = bus.request(&subject::control(namespace, agent, VERB), body.into(), ANSWER_WAIT).await.ok()?;
    match serde_json::from_slice(&answer.payload).ok()? {
        ControlReply::Answer(answer) => serde_json::from_value(answer).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_used_before_more_is_asked_for() {
        let now = Instant::now();
        let mut known = Known::told(Some(LettersAnswer { bytes: 100 }), 60, now);
        assert_eq!((known.take(60, now), known.take(30, now), known.take(30, now)), (Some(true), Some(true), None));
        assert_eq!(known.take(1, now + GIVEN_FOR), None);
    }

    #[test]
    fn a_share_that_is_used_up_is_asked_about_again_after_a_pause() {
        let now = Instant::now();
        let mut known = Known::told(Some(LettersAnswer { bytes: 20 }), 60, now);
        assert_eq!(
            (known.take(60, now), known.take(15, now), known.take(15, now)),
            (Some(false), Some(true), Some(false))
        );
        assert_eq!(known.take(60, now + PAUSE), None);
    }

    #[test]
    fn without_an_answer_everything_is_stored() {
        let now = Instant::now();
        let mut known = Known::told(None, 60, now);
        assert_eq!((known.take(1 << 30, now), known.take(1, now + PAUSE)), (Some(true), None));
    }
}
