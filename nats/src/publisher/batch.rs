//! Several messages stored together or not at all: JetStream's atomic batch.
//!
//! Every message carries the batch's id and its place in it; the answer to the last one, the commit, speaks for all. A lost
//! answer is answered by sending the whole again under a fresh batch id: "contains a duplicate" then means that it was
//! stored, or that some of its ids were stored before. Either way the caller settles the messages singly, with the same
//! ids, and hears of each. An unfinished batch leaves nothing behind: the broker forgets it after 10 s.

use std::time::Duration;

use agentbus_proto::{Code, Fault};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::answer::{Verdict, verdict};
use super::queue::unknown;
use super::{Message, Options, Stored};
use crate::connect::Link;
use crate::headers;

/// Most messages of one batch: the broker's own limit.
pub const BATCH_MESSAGES_MAX: usize = 1000;

/// Pause before a batch that the broker did not take is sent again.
const AGAIN_WAIT: Duration = Duration::from_millis(100);

/// What came of one try.
#[derive(Debug)]
enum Tried {
    Stored(Vec<Stored>),
    /// Some ids were stored before: each message is to be settled by itself.
    Singly,
    /// Not stored by this try, or nobody knows.
    Again(Fault),
}

/// Stores all or none; `None` = the broker knows some of the ids already, so settle them one by one. The error is
/// `OUTCOME_UNKNOWN` when nothing was heard until the end.
pub(super) async fn store(link: &Link, options: &Options, messages: &[Message]) -> Result<Option<Vec<Stored>>, Fault> {
    if messages.len() > BATCH_MESSAGES_MAX {
        let why = format!("{} events at once; at most {BATCH_MESSAGES_MAX} are stored together", messages.len());
        return Err(Fault::new(Code::InvalidEvent, why));
    }
    let end = Instant::now() + options.outcome_wait;
    let mut unanswered = None;
    loop {
        let fault = match attempt(link, options, messages, end).await {
            Ok(Tried::Stored(stored)) => return Ok(Some(stored)),
            Ok(Tried::Singly) => return Ok(None),
            Ok(Tried::Again(fault)) => fault,
            Err(fault) => return Err(unanswered.unwrap_or(fault)),
        };
        // After one try without an answer no later refusal is certain.
        if fault.code == Code::OutcomeUnknown {
            unanswered.get_or_insert_with(|| fault.clone());
        }
        if Instant::now() + AGAIN_WAIT >= end {
            return Err(unanswered.unwrap_or(fault));
        }
        tokio::time::sleep(AGAIN_WAIT).await;
    }
}

async fn attempt(link: &Link, options: &Options, messages: &[Message], end: Instant) -> Result<Tried, Fault> {
    let generation = link.up(options.link_wait).await?;
    let mut violations = link.violations();
    let inbox = link.new_inbox();
    let mut answers = link.client.subscribe(inbox.clone()).await.map_err(|_| link.down())?;
    let until = end.min(Instant::now() + options.answer_wait);
    let sent = send(link, messages, &inbox);
    match timeout_at(end, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) if fault.code == Code::BrokerDown => return Ok(Tried::Again(fault)),
        Ok(Err(fault)) => return Err(fault),
        Err(_) => return Ok(Tried::Again(link.down())),
    }
    loop {
        tokio::select! {
            // First, what was refused: the commit of a batch that lacks a message only says that something is missing.
            biased;
            Ok(violation) = violations.recv() => {
                if messages.iter().any(|message| message.subject == violation.subject) {
                    return Err(super::jetstream::denied(&violation.subject));
                }
            }
            answer = timeout_at(until, answers.next()) => match answer {
                // The first message is answered too, to hear of a refusal early; its consent says nothing.
                Ok(Some(answer)) if answer.payload.is_empty() && answer.status.is_none() => {}
                Ok(Some(answer)) => return judge(verdict(&answer), messages.len()),
                Ok(None) => return Ok(Tried::Again(unknown())),
                Err(_) => return Ok(Tried::Again(unknown())),
            },
            () = link.reconnected(generation) => return Ok(Tried::Again(unknown())),
        }
    }
}

/// Writes all of them, answers of the first and the last to `inbox`.
async fn send(link: &Link, messages: &[Message], inbox: &str) -> Result<(), Fault> {
    let batch = format!("{:032x}", rand::random::<u128>());
    for (index, message) in messages.iter().enumerate() {
        let last = index + 1 == messages.len();
        let mut headers = message.headers.clone();
        headers.insert(headers::name(headers::BATCH_ID), batch.as_str());
        headers.insert(headers::name(headers::BATCH_SEQUENCE), (index + 1).to_string());
        if last {
            headers.insert(headers::name(headers::BATCH_COMMIT), "1");
        }
        let subject = super::jetstream::spelled(link, message.subject.clone());
        let payload = message.payload.clone();
        let sent = if last || index == 0 {
            link.client.publish_with_reply_and_headers(subject, inbox.to_owned(), headers, payload).await
        } else {
            link.client.publish_with_headers(subject, headers, payload).await
        };
        sent.map_err(|error| super::jetstream::not_sent(link, &error))?;
    }
    Ok(())
}

/// What the answer to the commit means. The messages of a batch are stored one behind the other.
fn judge(verdict: Verdict, count: usize) -> Result<Tried, Fault> {
    match verdict {
        Verdict::Stored(last) => {
            let first = (last.seq + 1).saturating_sub(count as u64);
            let stored = |index| Stored { stream: last.stream.clone(), seq: first + index as u64, duplicate: false };
            Ok(Tried::Stored((0..count).map(stored).collect()))
        }
        // 10201: a known id; 10174: the stream takes no batches.
        Verdict::Refused(10201 | 10174, _) => Ok(Tried::Singly),
        // Messages of it got lost, the broker was restarted in between, or too many batches are open.
        Verdict::Refused(10175 | 10176 | 10210 | 10211, fault) | Verdict::Absent(fault) => Ok(Tried::Again(fault)),
        Verdict::Refused(_, fault) => Err(fault),
        Verdict::Unreadable(fault) => Ok(Tried::Again(fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault::new(Code::BrokerDown, "x")
    }

    #[test]
    fn the_commit_speaks_for_all() {
        let last = Stored { stream: "S".into(), seq: 12, duplicate: false };
        let Ok(Tried::Stored(stored)) = judge(Verdict::Stored(last), 3) else { panic!("stored") };
        assert_eq!(stored.iter().map(|one| one.seq).collect::<Vec<_>>(), [10, 11, 12]);
    }

    #[test]
    fn a_known_id_is_settled_singly_and_an_unfinished_batch_is_sent_again() {
        assert!(matches!(judge(Verdict::Refused(10201, fault()), 2), Ok(Tried::Singly)));
        for code in [10176, 10210] {
            assert!(matches!(judge(Verdict::Refused(code, fault()), 2), Ok(Tried::Again(_))), "{code}");
        }
        assert!(judge(Verdict::Refused(10077, fault()), 2).is_err());
    }
}
