//! Sends dead letters again: state in the audit stream that it is begun, store a new message, state that it was sent; each with
//! its PubAck before the next. Nothing is sent whose beginning could not be stated.
//!
//! The copy has the payload byte for byte, starts at attempt 1, keeps the origin and the trace, and counts how often the
//! event was redriven. What a crash leaves behind is seen: a letter that was begun and not ended is *unfinished*, whether its
//! copy was stored or not. It is not sent again by itself, for that might be twice, and it is not taken for redriven, for that
//! might be never: `force` decides. The id names the decision, and is sealed, so that within the broker's window "stored
//! before" can only mean this very redrive. A copy that is refused for certain is noted as not sent, and the letter is open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::headers;
use agentbus_nats::moves::rfc3339;
use agentbus_nats::names::Names;
use agentbus_nats::publisher::{Message, Stored as Acked};
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};
use async_nats::HeaderMap;
use tokio::sync::OwnedMutexGuard;
use tokio::time::MissedTickBehavior;

use super::facts::{Fact, Facts, Kind, Target};
use super::filter::Filter;
use super::guard::{self, Asked, Original, Plan};
use super::letter::{DeadLetter, Stored};
use super::read::DeadLetters;
use super::request::{BATCH_MAX, LetterResult, Outcome, RATE_DEFAULT, Report, Request};

/// Time after which a request answers with where to go on, so that a low rate is no time-out.
const RUN_MAX: Duration = Duration::from_secs(20);

impl DeadLetters {
    /// Redrives up to 1000 letters at the wished rate. `by` goes into the facts. Dropping the future ends it between two
    /// letters.
    pub async fn redrive(self: &Arc<Self>, request: &Request, by: &str) -> Result<Report, Fault> {
        request.check()?;
        let pause = Duration::from_secs(1) / request.rate.unwrap_or(RATE_DEFAULT);
        let mut ticks = tokio::time::interval(pause.max(Duration::from_micros(1)));
        // After a slow store the missed sends are not made up for in a burst.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut run = Run { began: Instant::now(), letters: self.clone(), request, by, ticks, readers: HashMap::new() };
        match &request.seqs {
            Some(seqs) => run.named(seqs).await,
            None => run.matching(request.filter.clone().unwrap_or_default()).await,
        }
    }

    /// Begin, store, end. In a task of its own, with the turn: a caller that goes away must not separate the three.
    async fn send(
        self: Arc<Self>,
        message: Message,
        mut fact: Fact,
        mut turn: OwnedMutexGuard<Facts>,
    ) -> Result<(Acked, bool), Fault> {
        let id = headers::get(Some(&message.headers), headers::MSG_ID).unwrap_or_default().to_owned();
        self.state(Kind::Begun, &fact, &id, &mut turn).await?;
        let acked = match self.bus.store(message).await {
            Ok(acked) => acked,
            Err(fault) => {
                if fault.code != Code::OutcomeUnknown
                    && let Err(why) = self.state(Kind::Undone, &fact, &id, &mut turn).await
                {
                    tracing::warn!(dlq_seq = fact.dlq_seq, %why, "not redriven, but that could not be stored");
                }
                return Err(fault);
            }
        };
        fact.new_stream.clone_from(&acked.stream);
        fact.new_seq = acked.seq;
        let recorded = self.state(Kind::Done, &fact, &id, &mut turn).await;
        if let Err(fault) = &recorded {
            tracing::warn!(dlq_seq = fact.dlq_seq, %fault, "redriven, but that could not be stored");
        }
        Ok((acked, recorded.is_ok()))
    }

    /// Stores a fact, and waits for the word that it is. A full stream is trimmed first.
    async fn state(&self, kind: Kind, fact: &Fact, id: &str, facts: &mut Facts) -> Result<(), Fault> {
        let payload = serde_json::to_vec(fact).unwrap_or_default();
        let mut headers = HeaderMap::new();
        // The same decision can be begun, and given up, more than once.
        let (name, now) = (kind.name(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        headers.insert(headers::MSG_ID, format!("{id}/{name}/{}", now.as_nanos()));
        headers.insert(headers::CONTENT_TYPE, "application/json");
        let subject = subject::audit(self.names.namespace(), name);
        let message = Message { subject, headers, payload: payload.into() };
        match self.bus.store(message.clone()).await {
            Err(fault) if fault.code == Code::StreamFull && self.trim_behind(facts, SystemTime::now()).await? > 0 => {
                self.bus.store(message).await.map(drop)
            }
            stored => stored.map(drop),
        }
    }
}

/// What became of a letter, or why nothing did.
type Done = Result<(DeadLetter, Outcome), Box<(DeadLetter, Fault)>>;

/// One request on its way.
struct Run<'a> {
    began: Instant,
    letters: Arc<DeadLetters>,
    request: &'a Request,
    by: &'a str,
    ticks: tokio::time::Interval,
    /// Groups that have a retry consumer, asked once per request.
    readers: HashMap<String, bool>,
}

impl Run<'_> {
    async fn named(&mut self, seqs: &[u64]) -> Result<Report, Fault> {
        let mut report = self.report();
        for (at, seq) in seqs.iter().enumerate() {
            if report.stopped.is_some() || self.began.elapsed() > RUN_MAX {
                report.left = seqs[at..].to_vec();
                break;
            }
            let done = match self.letters.get(*seq).await {
                Ok(stored) => self.one(stored).await,
                Err(fault) => Err(Box::new((DeadLetter::unknown(*seq), fault))),
            };
            add(&mut report, done);
        }
        Ok(report)
    }

    async fn matching(&mut self, filter: Filter) -> Result<Report, Fault> {
        let mut report = self.report();
        let letters = self.letters.clone();
        let matcher = filter.compile(letters.names.namespace())?;
        let mut walk = letters.walk(matcher, self.request.after, self.request.until).await?;
        report.until = Some(walk.until);
        while report.letters.len() < BATCH_MAX && report.stopped.is_none() && self.began.elapsed() < RUN_MAX {
            let Some((stored, _)) = walk.next().await? else { break };
            let done = self.one(stored).await;
            add(&mut report, done);
        }
        report.next = walk.next_after().filter(|_| report.stopped.is_none());
        Ok(report)
    }

    fn report(&self) -> Report {
        let dry_run = self.request.dry_run;
        Report { dry_run, letters: Vec::new(), next: None, until: None, left: Vec::new(), stopped: None }
    }

    /// Decides and acts on one letter, alone: nobody else decides meanwhile.
    async fn one(&mut self, stored: Stored) -> Done {
        let letters = self.letters.clone();
        let mut letter = stored.letter();
        let reads = match self.reads(&letter.group).await {
            Ok(reads) => reads,
            Err(fault) => return Err(Box::new((letter, fault))),
        };
        let original = match self.original(&stored, &letter).await {
            Ok(original) => original,
            Err(fault) => return Err(Box::new((letter, fault))),
        };
        if !self.request.dry_run {
            self.ticks.tick().await;
        }
        let mut facts = Arc::clone(&letters.facts).lock_owned().await;
        if let Err(fault) = letters.refresh(&mut facts).await {
            return Err(Box::new((letter, fault)));
        }
        letter.redriven = facts.of(letter.seq, &stored.at);
        letter.unfinished = facts.begun(letter.seq, &stored.at);
        let (stream, namespace) = (letters.names.dead_letters(), letters.names.namespace());
        let Request { to, force, dry_run, .. } = *self.request;
        let secret = letters.secret.as_str();
        let stored_at = stored.at.as_str();
        let asked = Asked { stream: &stream, stored_at, namespace, to, force, group_reads: reads, original, secret };
        let plan = match guard::decide(&letter, asked) {
            Ok(plan) if dry_run => return Ok((letter, Outcome::WouldRedrive { redrive: plan.redrive })),
            Ok(plan) => plan,
            Err(reason) => {
                let message = reason.message(&letter);
                return Ok((letter, Outcome::Refused { reason, message, force_helps: reason.force_helps() }));
            }
        };
        let now = rfc3339(SystemTime::now());
        let fact = Fact {
            dlq_seq: letter.seq,
            dlq_stored: Some(stored.at.clone()),
            group: letter.group.clone(),
            to,
            new_stream: String::new(),
            new_seq: 0,
            by: self.by.to_owned(),
            at: now.clone(),
            redrive: plan.redrive,
        };
        let message = copy(&stored, &letter, namespace, to, &plan, &now);
        match tokio::spawn(letters.clone().send(message, fact, facts)).await {
            Ok(Ok((Acked { stream, seq, .. }, recorded))) => {
                let redrive = plan.redrive;
                Ok((letter, Outcome::Redriven { redrive, new_stream: stream, new_seq: seq, recorded }))
            }
            Ok(Err(fault)) => Err(Box::new((letter, fault))),
            Err(error) => {
                let fault = Fault::new(Code::OutcomeUnknown, format!("redrive ended early: {error}"));
                Err(Box::new((letter, fault)))
            }
        }
    }

    /// What the events stream has where the letter says it came from. Looked up only where the answer matters.
    async fn original(&self, stored: &Stored, letter: &DeadLetter) -> Result<Original, Fault> {
        let events = self.letters.names.events();
        let Some(origin) = letter.origin.as_ref().filter(|_| self.request.to == Target::Origin) else {
            return Ok(Original::Gone);
        };
        if origin.stream != events {
            return Ok(Original::Differs);
        }
        Ok(match self.letters.bus.get(&events, origin.seq).await? {
            Some(found) if found.subject == origin.subject && found.payload == stored.payload => Original::Same,
            Some(_) => Original::Differs,
            None => Original::Gone,
        })
    }

    async fn reads(&mut self, group: &str) -> Result<bool, Fault> {
        if let Some(known) = self.readers.get(group) {
            return Ok(*known);
        }
        let (consumer, stream) = (Names::retry_consumer(group), self.letters.names.retry());
        let reads = self.letters.bus.consumer(&stream, &consumer).await?.is_some();
        self.readers.insert(group.to_owned(), reads);
        Ok(reads)
    }
}

/// Notes a result. A failure that the next letter would meet as well ends the run.
fn add(report: &mut Report, done: Done) {
    let (letter, outcome) = done.unwrap_or_else(|failed| {
        let (letter, fault) = *failed;
        if fault.code.retryable() {
            report.stopped = Some(fault.to_string());
        }
        (letter, Outcome::Failed { code: fault.code.to_string(), message: fault.message })
    });
    let DeadLetter { seq, group, event_id, event_type, .. } = letter;
    report.letters.push(LetterResult { seq, group, event_id, event_type, outcome });
}

impl DeadLetter {
    /// Stands for a letter that could not be read.
    fn unknown(seq: u64) -> Self {
        let (at, subject) = (String::new(), String::new());
        let nothing = Stored { seq, at, subject, headers: HeaderMap::new(), payload: bytes::Bytes::new() };
        nothing.letter()
    }
}

/// The new message. What belonged to the failure (class, cause, times) stays behind; `Ab-Origin` comes along, so that
/// whatever is derived from the event's position stays the same.
fn copy(stored: &Stored, letter: &DeadLetter, namespace: &str, to: Target, plan: &Plan, now: &str) -> Message {
    let mut copied = HeaderMap::new();
    let kept = [
        headers::TRACEPARENT,
        headers::TRACESTATE,
        headers::CONTENT_TYPE,
        headers::TYPE,
        headers::CORRELATION,
        headers::ORIGIN,
        headers::OCCURRENCE,
        headers::TTL,
    ];
    for name in kept {
        if let Some(value) = stored.headers.get(name) {
            copied.insert(name, value.clone());
        }
    }
    copied.insert(headers::MSG_ID, plan.id.as_str());
    copied.insert(headers::REDRIVE, plan.redrive.to_string());
    copied.insert(headers::ATTEMPT, "1");
    let subject = match (to, &letter.origin) {
        (Target::Origin, Some(origin)) => origin.subject.clone(),
        _ => {
            copied.insert(headers::GROUP, letter.group.as_str());
            copied.insert(headers::NOT_BEFORE, now);
            subject::retry(namespace, &letter.group, &letter.agent)
        }
    };
    Message { subject, headers: copied, payload: stored.payload.clone() }
}

#[cfg(test)]
mod tests {
    use agentbus_nats::moves::Class;

    use super::super::letter::tests::{event, stored};
    use super::*;

    const NOW: &str = "2026-11-20T11:00:00Z";

    fn made(to: Target) -> (Stored, Message) {
        let stored = stored(5, Class::Exhausted, event());
        let letter = stored.letter();
        let (stream, namespace, original) = ("AB_default_DLQ", "default", Original::Same);
        let stored_at = "T";
        let asked = Asked { stream, stored_at, namespace, to, force: false, group_reads: true, original, secret: "s" };
        let plan = guard::decide(&letter, asked).unwrap();
        let message = copy(&stored, &letter, "default", to, &plan, NOW);
        (stored, message)
    }

    fn header(message: &Message, name: &'static str) -> Option<String> {
        headers::get(Some(&message.headers), name).map(str::to_owned)
    }

    #[test]
    fn to_the_group_it_is_a_first_attempt_due_now() {
        let (stored, message) = made(Target::Group);
        assert_eq!(message.subject, "abr.default.readers.check");
        assert_eq!(message.payload, stored.payload);
        for (name, wanted) in [
            (headers::MSG_ID, agentbus_nats::msg_id::sealed("AB_default_DLQ/5@T/redrive/group/1", "s").as_str()),
            (headers::REDRIVE, "1"),
            (headers::ATTEMPT, "1"),
            (headers::GROUP, "readers"),
            (headers::NOT_BEFORE, NOW),
            (headers::ORIGIN, stored.header(headers::ORIGIN)),
            (headers::TRACEPARENT, stored.header(headers::TRACEPARENT)),
        ] {
            assert_eq!(header(&message, name).as_deref(), Some(wanted), "{name}");
        }
        for gone in [headers::CLASS, headers::CAUSE, headers::FIRST_FAILURE, headers::LAST_FAILURE] {
            assert_eq!(header(&message, gone), None, "{gone}");
        }
    }

    #[test]
    fn to_the_origin_it_is_the_same_subject_and_no_groups_business() {
        let (stored, message) = made(Target::Origin);
        assert_eq!(message.subject, "ab.default.n.list.topic.-.notes.created");
        assert_eq!(message.payload, stored.payload);
        assert_eq!((header(&message, headers::GROUP), header(&message, headers::NOT_BEFORE)), (None, None));
    }
}
