//! Pulling from a durable JetStream consumer by demand.
//!
//! The client library's streams prefetch into a buffer where a delivery's ack wait runs out unseen. Here the caller
//! says how many messages it can take ([`Pull::want`]); exactly that many are asked for, and each is handed over at
//! once so that its lease can be extended. Lost requests are noticed by missing heartbeats and by reconnects.

use std::collections::VecDeque;
use std::time::Duration;

use agentbus_proto::Fault;
use async_nats::StatusCode;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::Incoming;
use crate::ack::Receipt;
use crate::connect::{Link, State};
use crate::headers;

/// A request that found nothing for this long ends and is made anew.
const EXPIRES: Duration = Duration::from_secs(30);
/// The broker says this often that an idle request is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which requests count as lost.
const SILENCE_MAX: Duration = Duration::from_secs(12);
/// Wait after the broker could not serve a request (no consumer, no leader).
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// Most messages one request asks for: larger ones gain nothing (facts: hop.md §3).
const BATCH_MAX: usize = 10_000;

/// Most payload bytes one request asks for, so that large events cannot fill the memory; the broker ends the request
/// there and the next one goes on.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// The broker confirms the end of a subscription within a round trip.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// Pulls from one consumer.
pub(super) struct Pull {
    link: Link,
    api: String,
    inbox: String,
    messages: async_nats::Subscriber,
    state: tokio::sync::watch::Receiver<State>,
    generation: u64,
    next_request: u64,
    open: VecDeque<Request>,
    wanted: usize,
    heard: Instant,
    not_before: Instant,
}

struct Request {
    id: u64,
    left: usize,
}

impl Pull {
    /// Subscribes for the answers; asks for nothing yet.
    pub async fn open(link: &Link, stream: &str, consumer: &str) -> Result<Self, Fault> {
        let inbox = link.new_inbox();
        let messages = link.client.subscribe(format!("{inbox}.*")).await.map_err(|_| link.down())?;
        let now = Instant::now();
        Ok(Self {
            api: link.layout().spell(&format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")).into_owned(),
            inbox,
            messages,
            state: link.state(),
            generation: link.generation(),
            link: link.clone(),
            next_request: 0,
            open: VecDeque::new(),
            wanted: 0,
            heard: now,
            not_before: now,
        })
    }

    /// Sets how many more messages the caller can take now. What is under way counts towards it.
    pub fn want(&mut self, messages: usize) {
        self.wanted = messages;
    }

    fn requested(&self) -> usize {
        self.open.iter().map(|request| request.left).sum()
    }

    /// The next message. Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Incoming {
        loop {
            self.top_up().await;
            let wake = self.wake();
            // Messages first: while there are some, the timer and the watch are not even registered.
            tokio::select! {
                biased;
                message = self.messages.next() => match message {
                    Some(message) => if let Some(incoming) = self.take(message) { return incoming },
                    // The client is closed: nothing will come any more, the owner is about to stop us.
                    None => std::future::pending().await,
                },
                _ = self.state.changed() => self.on_state(),
                () = tokio::time::sleep_until(wake) => self.on_silence(),
            }
        }
    }

    /// The next message if it is here already.
    pub fn try_next(&mut self) -> Option<Incoming> {
        loop {
            let message = self.messages.next().now_or_never()??;
            if let Some(incoming) = self.take(message) {
                return Some(incoming);
            }
        }
    }

    /// Ends all requests and returns what the broker had sent already, within a second. Nothing comes afterwards; what
    /// is sent in the last round trip may be missed and comes to somebody after the ack wait.
    pub async fn finish(&mut self) -> Vec<Incoming> {
        let mut rest = Vec::new();
        let end = Instant::now() + FINISH_WAIT;
        // The client's own drain ends the subscription without waiting for the broker, so a round trip goes first.
        let flushed = tokio::time::timeout_at(end, self.link.client.flush()).await;
        // A refusal means that the client is closed: then nothing is on its way.
        if !matches!(flushed, Ok(Ok(()))) || self.messages.drain().await.is_err() {
            return rest;
        }
        while let Ok(Some(message)) = tokio::time::timeout_at(end, self.messages.next()).await {
            rest.extend(self.take(message));
        }
        rest
    }

    /// When to look at the requests again without having heard anything.
    fn wake(&self) -> Instant {
        let now = Instant::now();
        if self.not_before > now {
            self.not_before
        } else {
            (self.heard + SILENCE_MAX).max(now + Duration::from_millis(50))
        }
    }

    /// Asks for what is wanted and not asked for; small top-ups wait until half of it is missing.
    async fn top_up(&mut self) {
        let requested = self.requested();
        let missing = self.wanted.saturating_sub(requested).min(BATCH_MAX);
        if missing == 0 || (requested > 0 && missing * 2 < self.wanted) {
            return;
        }
        if Instant::now() < self.not_before || !self.link.is_up() {
            return;
        }
        self.next_request += 1;
        let (expires, heartbeat) = (EXPIRES.as_nanos(), HEARTBEAT.as_nanos());
        let body = format!(
            r#"{{"batch":{missing},"max_bytes":{BYTES_MAX},"expires":{expires},"idle_heartbeat":{heartbeat}}}"#
        );
        let reply = format!("{}.{}", self.inbox, self.next_request);
        if self.open.is_empty() {
            self.heard = Instant::now();
        }
        // Counted once it is handed over: a caller that gives up while waiting has asked for nothing.
        match self.link.client.publish_with_reply(self.api.clone(), reply, body.into()).await {
            Ok(()) => self.open.push_back(Request { id: self.next_request, left: missing }),
            Err(_) => {
                self.open.clear();
                self.not_before = Instant::now() + RETRY_WAIT;
            }
        }
    }

    fn on_state(&mut self) {
        let now = self.link.generation();
        if now != self.generation {
            // Requests do not survive a connection; what was on its way comes back after the ack wait.
            self.open.clear();
            self.generation = now;
            self.heard = Instant::now();
        }
    }

    fn on_silence(&mut self) {
        if !self.open.is_empty() && self.heard.elapsed() >= SILENCE_MAX {
            tracing::debug!(api = %self.api, "no heartbeat: pulling anew");
            self.open.clear();
        }
    }

    fn take(&mut self, message: async_nats::Message) -> Option<Incoming> {
        self.heard = Instant::now();
        if let Some(receipt) = message.reply.clone().and_then(Receipt::parse) {
            if let Some(first) = self.open.front_mut() {
                first.left -= 1;
                if first.left == 0 {
                    self.open.pop_front();
                }
            }
            self.wanted = self.wanted.saturating_sub(1);
            return Some(Incoming {
                receipt,
                subject: message.subject,
                headers: message.headers.unwrap_or_default(),
                payload: message.payload,
            });
        }
        self.on_status(&message);
        None
    }

    /// 100 = heartbeat; anything else ends the request it answers.
    fn on_status(&mut self, message: &async_nats::Message) {
        let status = message.status.unwrap_or(StatusCode::OK);
        if status == StatusCode::IDLE_HEARTBEAT {
            return;
        }
        let id: Option<u64> = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let pending =
            headers::get(message.headers.as_ref(), headers::PENDING_MESSAGES).and_then(|text| text.parse().ok());
        close(&mut self.open, id, pending);
        let ended = status == StatusCode::TIMEOUT || pending.is_some();
        if !ended {
            let why = message.description.as_deref().unwrap_or_default();
            tracing::debug!(api = %self.api, %status, why, "pull request refused");
            self.not_before = Instant::now() + RETRY_WAIT;
        }
    }
}

/// Takes an ended request out. The broker serves open requests in turns, while each message is charged to the oldest one
/// here; the sum is right all the same, and how many the ended one really lacked (`pending`) puts the rest right again.
fn close(open: &mut VecDeque<Request>, id: Option<u64>, pending: Option<usize>) {
    let at = open.iter().position(|request| Some(request.id) == id);
    let charged = at.and_then(|at| open.remove(at)).map_or(0, |request| request.left);
    let Some(pending) = pending else { return };
    if let Some(last) = open.back_mut() {
        last.left += charged.saturating_sub(pending);
    }
    let mut wrongly_open = pending.saturating_sub(charged);
    while wrongly_open > 0
        && let Some(first) = open.front_mut()
    {
        let taken = first.left.min(wrongly_open);
        first.left -= taken;
        wrongly_open -= taken;
        if first.left == 0 {
            open.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_request_takes_what_it_really_lacked_out_of_the_sum() {
        type Requests = &'static [(u64, usize)];
        // (open here, ended, really pending) -> still open
        let cases: [(Requests, u64, Option<usize>, Requests); 6] = [
            (&[(1, 3)], 1, Some(3), &[]),
            (&[(1, 1), (2, 1)], 1, Some(2), &[]),
            (&[(2, 2)], 1, Some(1), &[(2, 1)]),
            (&[(1, 3), (2, 1)], 1, Some(1), &[(2, 3)]),
            (&[(1, 3), (2, 1)], 1, None, &[(2, 1)]),
            (&[(1, 1)], 9, None, &[(1, 1)]),
        ];
        for (before, id, pending, after) in cases {
            let requests = |list: &[(u64, usize)]| list.iter().map(|&(id, left)| Request { id, left }).collect();
            let mut open: VecDeque<Request> = requests(before);
            close(&mut open, Some(id), pending);
            let open: Vec<_> = open.iter().map(|request| (request.id, request.left)).collect();
            assert_eq!(open, after, "{before:?} without {id} lacking {pending:?}");
        }
    }
}
