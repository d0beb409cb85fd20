//! Everything a bus in this process knows, behind one lock: streams, buckets, who pulls, who listens. Pure: the time
//! comes in, and what is due is told, not waited for.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use agentbus_proto::{Code, Fault};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{consumer, kv};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::time::Instant;

use super::bucket::Bucket;
use super::cursor::Cursor;
use super::listeners::Listeners;
use super::log::{Log, Now, Refused};
use super::schedule::{self, Due};
use super::takers::{Place, Takers};
use super::{filter, read};
use crate::ack::{Answer, Receipt};
use crate::bus::{ConsumerInfo, Note, StreamInfo};
use crate::headers;
use crate::publisher::{Message, Stored};
use crate::pull::Incoming;

/// A stream feeds another one, which feeds another one: no further.
const SOURCES_DEEP_MAX: usize = 4;
/// What a full stream did not take from a queue is offered again after this long.
const OFFER_AGAIN: Duration = Duration::from_millis(250);

/// What a bus is.
#[derive(Default)]
pub(super) struct World {
    pub streams: BTreeMap<String, Log>,
    pub buckets: BTreeMap<String, Bucket>,
    pub listeners: Listeners,
    pub takers: Takers,
    due: Due,
    /// Records of queues that a full stream did not take, in their order; bounded by the queues' sizes.
    offers: Vec<(String, u64)>,
    /// What is waited for.
    planned: Option<Instant>,
    /// The earliest moment that came up since.
    alarm: Option<Instant>,
}

impl World {
    // ---- Storing ----

    /// Stores a message in the stream that takes its subject; listeners hear it, too.
    pub fn store(&mut self, message: Message, now: Now) -> Result<Stored, Fault> {
        self.listeners.tell(&note(&message));
        let stream = self.taking(&message.subject)?;
        self.append(&stream, message, now, 0)
    }

    /// All of these or none.
    pub fn store_all(&mut self, messages: Vec<Message>, now: Now) -> Result<Vec<Stored>, Fault> {
        let Some(first) = messages.first() else { return Ok(Vec::new()) };
        let stream = self.taking(&first.subject)?;
        let log = self.streams.get(&stream);
        if let Some(other) = messages.iter().find(|message| log.is_none_or(|log| !log.takes(&message.subject))) {
            let why = format!("`{}` and `{}` belong to different streams", first.subject, other.subject);
            return Err(Fault::new(Code::InvalidEvent, why));
        }
        log.map_or(Ok(()), |log| log.fit(&messages)).map_err(refused)?;
        let stored = messages.into_iter().map(|message| {
            self.listeners.tell(&note(&message));
            self.append(&stream, message, now, 0)
        });
        stored.collect()
    }

    fn taking(&self, subject: &str) -> Result<String, Fault> {
        let found = self.streams.iter().find(|(_, log)| log.takes(subject));
        let why = "no stream takes this subject: `agentbus streams plan` shows what is missing";
        let none = || Fault::new(Code::BrokerDown, why).with_retry_after(Duration::from_secs(1));
        found.map(|(name, _)| name.clone()).ok_or_else(none)
    }

    fn append(&mut self, stream: &str, message: Message, now: Now, deep: usize) -> Result<Stored, Fault> {
        let due = self.scheduled(stream, &message, now)?;
        let Some(log) = self.streams.get_mut(stream) else { return Err(unknown(stream)) };
        let subject = message.subject.clone();
        let appended = log.append(message, now).map_err(refused)?;
        let stored = Stored { stream: stream.to_owned(), seq: appended.seq, duplicate: appended.duplicate };
        if appended.duplicate {
            return Ok(stored);
        }
        if let Some(at) = due {
            // A newer schedule on the same subject takes the place of the older one.
            log.purge(appended.seq, Some(&subject));
            self.due.add(at, stream, appended.seq);
            self.expect(now.mono + at.duration_since(now.wall).unwrap_or_default());
        } else if deep < SOURCES_DEEP_MAX {
            self.feed(stream, appended.seq, now, deep);
        }
        self.serve_stream(stream, now.mono);
        Ok(stored)
    }

    /// When a message fires, if it is a schedule.
    fn scheduled(&self, stream: &str, message: &Message, now: Now) -> Result<Option<SystemTime>, Fault> {
        if !self.streams.get(stream).is_some_and(|log| log.config.allow_message_schedules) {
            return Ok(None);
        }
        schedule::next(&message.headers, now.wall)
    }

    /// Copies a record into the streams that this one is a source of. One of a queue is theirs then.
    fn feed(&mut self, stream: &str, seq: u64, now: Now, deep: usize) {
        let Some(log) = self.streams.get(stream) else { return };
        let (queue, Some(kept)) = (log.is_queue(), log.records.get(&seq).cloned()) else { return };
        let mut copies = Vec::new();
        for (name, other) in &self.streams {
            for source in other.config.sources.iter().flatten().filter(|source| source.name == stream) {
                if source.filter_subject.as_ref().is_some_and(|wanted| !filter::matches(wanted, &kept.subject)) {
                    continue;
                }
                let rules = &source.subject_transforms;
                let (from, to, subject) = if rules.is_empty() {
                    (">", ">", kept.subject.to_string())
                } else {
                    let applied = rules.iter().find_map(|rule| {
                        let subject = filter::transform(&rule.source, &rule.destination, &kept.subject)?;
                        Some((rule.source.as_str(), rule.destination.as_str(), subject))
                    });
                    let Some(applied) = applied else { continue };
                    applied
                };
                let mut headers = kept.headers.clone();
                let origin = format!("{stream} {seq} {from} {to} {}", kept.subject);
                headers.insert(headers::name(headers::STREAM_SOURCE), origin);
                copies.push((name.clone(), Message { subject, headers, payload: kept.payload.clone() }));
            }
        }
        let (mut taken, wanted) = (false, !copies.is_empty());
        for (name, copy) in copies {
            taken |= self.append(&name, copy, now, deep + 1).is_ok();
        }
        if queue && wanted && !taken {
            // A stream that is full takes it later, as on a broker.
            self.offers.push((stream.to_owned(), seq));
            self.expect(now.mono + OFFER_AGAIN);
        }
        if queue
            && taken
            && let Some(log) = self.streams.get_mut(stream)
        {
            log.remove(seq);
        }
    }

    // ---- Time ----

    /// Does what is due: fires schedules, hands out what comes again.
    pub fn tick(&mut self, now: Now) {
        while let Some((_, stream, seq)) = self.due.take(now.wall) {
            let Some(log) = self.streams.get_mut(&stream) else { continue };
            // Cancelled or replaced: the record is gone.
            let Some(kept) = log.records.get(&seq).cloned() else { continue };
            let (message, again) = schedule::fire(&kept, now.wall);
            match again {
                Some(at) => self.due.add(at, &stream, seq),
                None => drop(log.remove(seq)),
            }
            if let Some(message) = message {
                // Like the broker: what the stream refuses now is lost as an occurrence, and the next one is tried.
                let _ = self.append(&stream, message, now, 0);
            }
        }
        for (stream, seq) in std::mem::take(&mut self.offers) {
            self.feed(&stream, seq, now, 0);
        }
        let streams: Vec<String> = self.streams.keys().cloned().collect();
        streams.iter().for_each(|stream| self.serve_stream(stream, now.mono));
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_due(&self, now: Now) -> Option<Instant> {
        let wall = self.due.next().map(|at| now.mono + at.duration_since(now.wall).unwrap_or_default());
        let cursors =
            self.streams.iter().flat_map(|(stream, log)| log.cursors.iter().map(move |cursor| (stream, cursor)));
        let comes = cursors.filter_map(|(stream, (name, cursor))| {
            let place = (stream.clone(), name.clone());
            self.takers.served_at(&place, cursor.pinned(), cursor.next_due())
        });
        let offered = (!self.offers.is_empty()).then(|| now.mono + OFFER_AGAIN);
        comes.chain(wall).chain(offered).min()
    }

    /// Waits from now on for what [`Self::next_due`] says.
    pub fn plan(&mut self, now: Now) -> Option<Instant> {
        self.planned = self.next_due(now);
        self.alarm = None;
        self.planned
    }

    /// Whether something is due before what is waited for; told once.
    pub fn has_alarm(&mut self) -> bool {
        let Some(alarm) = self.alarm.take() else { return false };
        let earlier = self.planned.is_none_or(|planned| alarm < planned);
        if earlier {
            self.planned = Some(alarm);
        }
        earlier
    }

    fn expect(&mut self, at: Instant) {
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }

    // ---- Taking ----

    /// Hands out what there is to those who ask.
    pub fn serve(&mut self, place: &Place, now: Instant) {
        let (stream, name) = place;
        let Some(log) = self.streams.get_mut(stream) else { return };
        let Some(mut cursor) = log.cursors.remove(name) else { return };
        while let Some(taker) = self.takers.turn(place, cursor.pinned(), now) {
            let Some(handed) = cursor.take(log, now) else { break };
            let kept = &handed.kept;
            let stored_at = kept.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
            let (count, seq, number) = (handed.count, handed.seq, cursor.deliveries);
            let subject: Subject = format!("$JS.ACK.{stream}.{name}.{count}.{seq}.{number}.{stored_at}.0").into();
            let receipt = Receipt {
                subject,
                stream: stream.clone(),
                consumer: name.clone(),
                delivered: count,
                seq,
                stored_at: kept.at,
                // What there is for this taker is handed out in one go.
                pending: 0,
            };
            let (headers, payload) = (kept.headers.clone(), kept.payload.clone());
            self.takers.give(taker, Incoming { receipt, subject: kept.subject.clone(), headers, payload });
        }
        let next = self.takers.served_at(place, cursor.pinned(), cursor.next_due());
        log.cursors.insert(name.clone(), cursor);
        if let Some(at) = next {
            self.expect(at);
        }
    }

    fn serve_stream(&mut self, stream: &str, now: Instant) {
        for place in self.takers.places(stream) {
            self.serve(&place, now);
        }
    }

    /// What is in the queue of one who pulls.
    pub fn pop(&mut self, taker: u64, now: Instant) -> Option<Incoming> {
        let (incoming, sated) = self.takers.pop(taker)?;
        if let Some(place) = sated {
            // A standby begins to wait for its pin to end.
            self.serve(&place, now);
        }
        Some(incoming)
    }

    /// Answers a delivery; false when there is no such consumer.
    pub fn settle(&mut self, receipt: &Receipt, answer: Answer, now: Instant) -> bool {
        let Receipt { stream, consumer, seq, .. } = receipt;
        let Some(log) = self.streams.get_mut(stream) else { return false };
        let queue = log.is_queue();
        let Some(cursor) = log.cursors.get_mut(consumer) else { return false };
        match answer {
            Answer::Ack => {
                if cursor.ack(*seq) && queue {
                    log.remove(*seq);
                }
            }
            Answer::Nak(delay) => drop(cursor.put_off(*seq, now + delay.unwrap_or_default())),
            Answer::Progress => {
                let until = now + cursor.config.ack_wait;
                cursor.put_off(*seq, until);
            }
        }
        if answer != Answer::Progress {
            self.serve(&(stream.clone(), consumer.clone()), now);
        }
        true
    }

    // ---- Streams, consumers, buckets ----

    pub fn create_stream(&mut self, config: &Config, now: Now) -> Result<(), Fault> {
        checked(config)?;
        if let Some(log) = self.streams.get(&config.name) {
            return if log.config.subjects == config.subjects { Ok(()) } else { Err(taken(&config.name)) };
        }
        for subject in &config.subjects {
            let other =
                self.streams.values().find(|log| log.config.subjects.iter().any(|own| filter::overlap(own, subject)));
            if let Some(other) = other {
                let why = format!("`{subject}` overlaps with stream `{}`", other.config.name);
                return Err(Fault::new(Code::BadConfig, why));
            }
        }
        self.streams.insert(config.name.clone(), Log::new(config.clone(), now.wall));
        Ok(())
    }

    pub fn update_stream(&mut self, config: &Config) -> Result<(), Fault> {
        checked(config)?;
        let log = self.streams.get_mut(&config.name).ok_or_else(|| unknown(&config.name))?;
        log.config = config.clone();
        Ok(())
    }

    pub fn stream(&self, name: &str) -> Option<StreamInfo> {
        if let Some(bucket) = name.strip_prefix("KV_").and_then(|bucket| self.buckets.get(bucket)) {
            return Some(read::bucket_info(name, bucket));
        }
        self.streams.get(name).map(read::stream_info)
    }

    pub fn put_consumer(&mut self, stream: &str, config: consumer::Config, now: Now) -> Result<(), Fault> {
        let name = config.durable_name.clone().or_else(|| config.name.clone()).unwrap_or_default();
        if name.is_empty() || name.contains(['.', '*', '>', ' ']) {
            return Err(Fault::new(Code::BadConfig, format!("`{name}` is no name for a consumer")));
        }
        let log = self.streams.get_mut(stream).ok_or_else(|| unknown(stream))?;
        let rival = log.cursors.iter().find(|(other, cursor)| **other != name && cursor.overlaps(&config));
        if log.is_queue()
            && let Some((other, _)) = rival
        {
            let why = format!("filtered consumer not unique on workqueue stream: `{other}` reads the same");
            return Err(Fault::new(Code::BadConfig, why));
        }
        match log.cursors.get_mut(&name) {
            Some(cursor) => cursor.update(config)?,
            None => {
                let cursor = Cursor::new(config, log, now.wall)?;
                log.cursors.insert(name.clone(), cursor);
            }
        }
        self.serve(&(stream.to_owned(), name), now.mono);
        Ok(())
    }

    pub fn consumer(&mut self, stream: &str, name: &str) -> Option<ConsumerInfo> {
        let waiting = self.takers.waiting(&(stream.to_owned(), name.to_owned()));
        let log = self.streams.get_mut(stream)?;
        let mut cursor = log.cursors.remove(name)?;
        // What it will never hand out is looked at once, not with every question.
        cursor.skip(log);
        let info = read::consumer_info(stream, name, log, &cursor, waiting);
        log.cursors.insert(name.to_owned(), cursor);
        Some(info)
    }

    pub fn log(&mut self, stream: &str) -> Result<&mut Log, Fault> {
        self.streams.get_mut(stream).ok_or_else(|| unknown(stream))
    }

    pub fn put_bucket(&mut self, config: kv::Config) {
        match self.buckets.get_mut(&config.bucket) {
            Some(bucket) => bucket.config = config,
            None => drop(self.buckets.insert(config.bucket.clone(), Bucket::new(config))),
        }
    }

    pub fn bucket(&mut self, bucket: &str) -> Result<&mut Bucket, Fault> {
        let why = || Fault::new(Code::BrokerDown, format!("registry `{bucket}`: there is no such bucket"));
        self.buckets.get_mut(bucket).ok_or_else(why)
    }
}

/// A stored message as listeners hear it.
fn note(message: &Message) -> Note {
    let Message { subject, headers, payload } = message;
    Note { subject: subject.as_str().into(), reply: None, headers: headers.clone(), payload: payload.clone() }
}

/// A note that a stream takes, as it is stored.
pub(super) fn unheard(subject: &str, payload: Bytes) -> Message {
    Message { subject: subject.to_owned(), headers: HeaderMap::new(), payload }
}

fn refused(Refused(code, text): Refused) -> Fault {
    crate::publisher::refused(code, text)
}

/// What this backend does not do, said plainly.
fn checked(config: &Config) -> Result<(), Fault> {
    let bad =
        |why: &str| Err(Fault::new(Code::BadConfig, format!("stream `{}` cannot be in process: {why}", config.name)));
    if config.max_bytes <= 0 && config.max_messages <= 0 {
        return bad("it needs a size (max_bytes)");
    }
    if !config.max_age.is_zero() || config.allow_message_ttl {
        return bad("nothing expires here");
    }
    if config.retention == RetentionPolicy::Interest || config.mirror.is_some() {
        return bad("it is neither a log nor a queue");
    }
    if config.discard == DiscardPolicy::New && config.discard_new_per_subject {
        return bad("limits per subject do not refuse here");
    }
    Ok(())
}

fn taken(name: &str) -> Fault {
    Fault::new(Code::BadConfig, format!("stream `{name}` exists with other subjects"))
}

fn unknown(stream: &str) -> Fault {
    Fault::new(Code::BrokerDown, format!("cannot read `{stream}`: there is no such stream"))
        .with_retry_after(Duration::from_secs(1))
}
