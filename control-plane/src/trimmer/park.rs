//! Moves a group's oldest unread events to the dead letters, class `RETENTION`: pulled from the group's own consumer like
//! any member does, stored, and acked only then.

use std::time::{Duration, SystemTime};

use agentbus_nats::ack::Answer;
use agentbus_nats::bus::ConsumerInfo;
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::moves::{self, Class, Mover};
use agentbus_nats::names::CONTROL_PLANE;
use agentbus_nats::publisher::{Message, Pending};
use agentbus_nats::pull::Incoming;
use agentbus_nats::pull::slices::{Slices, Taken};
use agentbus_nats::read::{From, Query};
use agentbus_nats::schedule::Occurrence;
use agentbus_proto::{Code, EventHead, Fault};
use serde::Serialize;
use tokio::time::Instant;

use super::decide::Park;
use super::{Trimmer, look};

/// Parking stops while the dead letters take more than this share of their space: other groups need the rest.
const DEAD_LETTERS_PERCENT: u64 = 80;
/// Pause after that.
pub(super) const FULL_PAUSE: Duration = Duration::from_secs(10);
/// How often what was parked is written down.
pub(super) const NOTE_EVERY: Duration = Duration::from_secs(5);
/// Events under way to the dead letters at once.
const BATCH_MAX: usize = 64;
/// Longest time for one group in one pass: the others have their turn, too.
const PARK_MAX: Duration = Duration::from_secs(3);
/// Longest wait for the answer to a request that does not wait: the broker tells at once what there is.
const NOTHING: Duration = Duration::from_secs(1);
/// Before an event comes again whose letter could not be stored.
const AGAIN: Duration = Duration::from_secs(5);

/// What was moved, of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Parked {
    pub group: String,
    /// Letters written.
    pub letters: u64,
    /// Events that the group would not have handed out anyway: expired, or filtered by type or attribute.
    pub settled: u64,
    /// Sequence of the first and the last event of these.
    pub first_seq: u64,
    pub last_seq: u64,
    /// As the letters have it.
    pub cause: String,
}

impl Parked {
    pub(super) fn add(&mut self, more: &Self) {
        if self.letters + self.settled == 0 {
            self.first_seq = more.first_seq;
        }
        self.letters += more.letters;
        self.settled += more.settled;
        self.last_seq = self.last_seq.max(more.last_seq);
    }
}

/// Parks as far as `park` says, or as far as it comes in one go; what is left is for the next pass. None when the dead
/// letters have no room.
pub(super) async fn park(trimmer: &Trimmer, park: &Park) -> Result<Option<Parked>, Fault> {
    let mut room = room(trimmer, &park.group).await?;
    if room == 0 {
        tracing::warn!(group = park.group, "nothing is parked: the dead letters have no room left");
        return Ok(None);
    }
    let events = trimmer.names.events();
    let Some(stream) = trimmer.bus.stream(&events).await? else { return Ok(None) };
    // How large they are is known only when they are there.
    let mean = (stream.bytes / stream.messages.max(1)).max(1);
    let Some(consumer) = trimmer.bus.consumer(&events, &park.consumer).await? else { return Ok(None) };
    // Where one sidecar at a time is pinned, there is something for us only when none is.
    let pinned = Some(consumer.config.priority_timeout).filter(|_| !consumer.config.priority_groups.is_empty());
    let mut slice = trimmer.bus.slices(&events, vec![park.consumer.clone()], pinned).await?;
    let mut run = Run::new(trimmer, park, pinned.is_some())?;
    let end = Instant::now() + PARK_MAX;
    while Instant::now() < end && room > 0 {
        let Some(consumer) = trimmer.bus.consumer(&events, &park.consumer).await? else { break };
        // Our own acks may not be counted yet, so what comes again is asked for at the beginning only.
        let again = if run.parked.last_seq == 0 { consumer.ack_pending } else { 0 };
        let most = usize::try_from(room.div_ceil(mean)).unwrap_or(usize::MAX);
        let batch = batch(&mut slice, wanted(trimmer, park, &consumer, again).await?.min(most)).await;
        if batch.is_empty() {
            break;
        }
        room = room.saturating_sub(batch.iter().map(|incoming| incoming.payload.len() as u64).sum());
        run.store(batch).await?;
    }
    let rest = slice.withdraw().await?;
    run.store(rest).await?;
    slice.release(0).await;
    Ok(Some(run.parked))
}

/// How many to ask for: what the consumer has not handed out yet up to the wanted sequence, so that nothing younger is
/// taken from members. When all of that is handed out, what somebody held who is gone comes again: `again` at most.
async fn wanted(trimmer: &Trimmer, park: &Park, consumer: &ConsumerInfo, again: u64) -> Result<usize, Fault> {
    if consumer.floor >= park.up_to {
        return Ok(0);
    }
    let ahead = Query {
        filters: look::filters(consumer),
        from: From::Seq(consumer.delivered.max(consumer.floor) + 1),
        to_seq: Some(park.up_to),
        headers_only: true,
        limit: BATCH_MAX,
    };
    let ahead = match consumer.delivered >= park.up_to {
        true => 0,
        false => trimmer.bus.read(&consumer.stream, &ahead).await?.records.len(),
    };
    let again = usize::try_from(again).unwrap_or(BATCH_MAX).min(BATCH_MAX);
    Ok(if ahead > 0 { ahead } else { again })
}

/// What may be parked for a group now, in bytes.
async fn room(trimmer: &Trimmer, group: &str) -> Result<u64, Fault> {
    let Some(letters) = trimmer.bus.stream(&trimmer.names.dead_letters()).await? else { return Ok(0) };
    let most = u64::try_from(letters.config.max_bytes).unwrap_or(u64::MAX);
    let left = (most / 100 * DEAD_LETTERS_PERCENT).saturating_sub(letters.bytes);
    Ok(left.min(trimmer.shares.left_to_park(group).await?))
}

/// What is there now.
async fn batch(slice: &mut Slices, most: usize) -> Vec<Incoming> {
    let mut batch = Vec::with_capacity(most);
    if most == 0 {
        return batch;
    }
    slice.ask(0, most, false).await;
    while batch.len() < most {
        match tokio::time::timeout(NOTHING, slice.next()).await {
            Ok(Taken::Message(_, incoming)) => batch.push(incoming),
            Ok(Taken::Ended { .. }) | Err(_) => break,
        }
    }
    batch
}

struct Run<'a> {
    trimmer: &'a Trimmer,
    cause: &'a str,
    secret: String,
    /// The next one is given only when the last one is settled.
    one_at_a_time: bool,
    /// None for a group that nobody is in any more: all it would have read is parked.
    group: Option<GroupGrant>,
    parked: Parked,
}

impl<'a> Run<'a> {
    fn new(trimmer: &'a Trimmer, park: &'a Park, one_at_a_time: bool) -> Result<Self, Fault> {
        let bad = |error| Fault::new(Code::BadConfig, format!("cannot derive a group's secret: {error}"));
        let secret = trimmer.authority.secret("group", &park.group).map_err(bad)?;
        let group = trimmer.grants.all_groups().into_iter().find(|group| group.name == park.group);
        let (name, cause) = (park.group.clone(), park.cause.clone());
        let parked = Parked { group: name, letters: 0, settled: 0, first_seq: 0, last_seq: 0, cause };
        Ok(Self { trimmer, cause: &park.cause, secret, one_at_a_time, group, parked })
    }

    /// Publish all, then for each: PubAck, ack. On a failure nothing of the rest is acked; it comes again.
    async fn store(&mut self, batch: Vec<Incoming>) -> Result<(), Fault> {
        let mut sent: Vec<(Incoming, Option<Result<Pending, Fault>>)> = Vec::with_capacity(batch.len());
        for incoming in batch {
            let letter = self.owed(&incoming).then(|| self.letter(&incoming));
            let pending = match letter {
                Some(letter) => Some(self.trimmer.bus.publisher().send(letter).await),
                None => None,
            };
            sent.push((incoming, pending));
        }
        let mut failed = None;
        for (incoming, pending) in sent {
            let stored = match pending {
                Some(Ok(pending)) => pending.stored().await.map(|_| 1),
                Some(Err(fault)) => Err(fault),
                None => Ok(0),
            };
            match stored {
                Ok(letters) => self.settled(&incoming, letters).await,
                Err(fault) => {
                    self.trimmer.bus.answer(&incoming.receipt.subject, Answer::Nak(Some(AGAIN))).await;
                    failed = Some(fault);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn settled(&mut self, incoming: &Incoming, letters: u64) {
        match self.one_at_a_time {
            // Not confirmed within its time: it comes again.
            true => drop(self.trimmer.bus.confirmed(&incoming.receipt.subject).await),
            false => self.trimmer.bus.answer(&incoming.receipt.subject, Answer::Ack).await,
        }
        let (seq, cause) = (incoming.receipt.seq, self.parked.cause.clone());
        let group = self.parked.group.clone();
        let one = Parked { group, letters, settled: 1 - letters, first_seq: seq, last_seq: seq, cause };
        self.parked.add(&one);
    }

    fn letter(&self, incoming: &Incoming) -> Message {
        let namespace = self.trimmer.names.namespace();
        let mover = Mover { namespace, group: &self.parked.group, agent: CONTROL_PLANE, secret: &self.secret };
        // Nobody has tried it, as far as the letter is concerned: deliveries that came to nothing are no attempts.
        let attempts = moves::attempt(incoming) - 1;
        moves::dead_letter(mover, incoming, attempts, Class::Retention, self.cause, None)
    }

    /// Whether a sidecar would have handed it to an agent. What is no event is kept: nobody knows what it was.
    fn owed(&self, incoming: &Incoming) -> bool {
        let Ok(mut head) = EventHead::decode(&incoming.payload) else { return true };
        if let Some(occurrence) = Occurrence::of(&incoming.headers, &incoming.subject, incoming.receipt.stored_at) {
            occurrence.apply(&mut head);
        }
        let keep = head.delivery.as_ref().is_some_and(|delivery| delivery.dead_letter_if_expired);
        if !keep && head.expired(SystemTime::now()).is_some() {
            return false;
        }
        self.group.as_ref().is_none_or(|group| group.wants(&head))
    }
}
