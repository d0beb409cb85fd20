//! Requests to the consumers of one group over one subscription, with pins.

use std::collections::VecDeque;
use std::time::Duration;

use agentbus_proto::Fault;
use async_nats::StatusCode;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::Taken;
use super::requests::Requests;
use crate::ack::Receipt;
use crate::connect::{Link, State};
use crate::pull::Incoming;
use crate::{headers, topology};

/// How long a request waits where nobody is pinned. A pinned one asks again well before its pin times out.
const EXPIRES: Duration = Duration::from_secs(5);
/// The broker confirms the end of a subscription within a round trip.
const FINISH_WAIT: Duration = Duration::from_secs(1);
/// Most payload bytes one request asks for.
const BYTES_MAX: usize = 16 * 1024 * 1024;

struct Pin {
    id: String,
    since: Instant,
}

pub(crate) struct JetStream {
    link: Link,
    stream: String,
    consumers: Vec<String>,
    pin_timeout: Option<Duration>,
    pins: Vec<Option<Pin>>,
    inbox: String,
    messages: async_nats::Subscriber,
    state: tokio::sync::watch::Receiver<State>,
    generation: u64,
    requests: Requests,
    ready: VecDeque<Taken>,
}

impl JetStream {
    /// Subscribes for the answers; asks for nothing yet.
    pub async fn open(
        link: &Link,
        stream: &str,
        consumers: Vec<String>,
        pin_timeout: Option<Duration>,
    ) -> Result<Self, Fault> {
        let (inbox, messages) = subscribe(link).await?;
        Ok(Self {
            stream: stream.to_owned(),
            pin_timeout,
            pins: consumers.iter().map(|_| None).collect(),
            requests: Requests::new(consumers.len(), link.round_trip.clone()),
            consumers,
            inbox,
            messages,
            state: link.state(),
            generation: link.generation(),
            link: link.clone(),
            ready: VecDeque::new(),
        })
    }

    pub async fn ask(&mut self, slice: usize, messages: usize, wait: bool) {
        let Some(consumer) = self.consumers.get(slice) else { return };
        if !self.link.is_up() {
            self.ready.push_back(Taken::Ended { slice, refused: true });
            return;
        }
        let expires = wait.then(|| self.expires(slice));
        let mut body = format!(r#"{{"batch":{messages},"max_bytes":{BYTES_MAX}"#);
        body += &match expires {
            Some(expires) => format!(r#","expires":{}"#, expires.as_nanos()),
            None => r#","no_wait":true"#.to_owned(),
        };
        if self.pin_timeout.is_some() {
            body += &format!(r#","group":"{}""#, topology::PIN_GROUP);
            if let Some(pin) = &self.pins[slice] {
                body += &format!(r#","id":"{}""#, pin.id);
            }
        }
        body.push('}');
        let id = self.requests.begin(slice, messages, expires, Instant::now());
        let reply = format!("{}.{slice}.{id}", self.inbox);
        let api = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{consumer}", self.stream);
        let api = self.link.layout().spell(&api).into_owned();
        if self.link.client.publish_with_reply(api, reply, body.into()).await.is_err() {
            self.requests.end(slice, id, false, Instant::now());
            self.ready.push_back(Taken::Ended { slice, refused: true });
        }
    }

    /// Not the same for all members, so that who is first in line changes.
    fn expires(&self, slice: usize) -> Duration {
        let pinned = self.pin_timeout.filter(|_| self.pins[slice].is_some());
        let most = pinned.map_or(EXPIRES, |timeout| timeout / 2);
        most.mul_f64(rand::random_range(0.6..1.0))
    }

    pub async fn next(&mut self) -> Taken {
        loop {
            if let Some(taken) = self.ready.pop_front() {
                return taken;
            }
            let wake = self.requests.wake();
            tokio::select! {
                biased;
                message = self.messages.next() => match message {
                    Some(message) => self.take(message),
                    // The client is closed: nothing will come any more, the owner is about to stop us.
                    None => std::future::pending().await,
                },
                _ = self.state.changed() => self.on_state(),
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    let over = self.requests.overdue(Instant::now());
                    self.ended(over);
                }
            }
        }
    }

    pub fn try_next(&mut self) -> Option<Taken> {
        loop {
            if let Some(taken) = self.ready.pop_front() {
                return Some(taken);
            }
            let message = self.messages.next().now_or_never()??;
            self.take(message);
        }
    }

    pub async fn withdraw(&mut self) -> Result<Vec<Incoming>, Fault> {
        let (inbox, fresh) = subscribe(&self.link).await?;
        let mut old = std::mem::replace(&mut self.messages, fresh);
        let end = Instant::now() + FINISH_WAIT;
        // The client's own drain ends the subscription without waiting for the broker, so a round trip goes first.
        let flushed = tokio::time::timeout_at(end, self.link.client.flush()).await;
        if matches!(flushed, Ok(Ok(()))) && old.drain().await.is_ok() {
            while let Ok(Some(message)) = tokio::time::timeout_at(end, old.next()).await {
                self.take(message);
            }
        }
        self.inbox = inbox;
        self.requests.clear();
        let taken = std::mem::take(&mut self.ready).into_iter();
        Ok(taken
            .filter_map(|taken| if let Taken::Message(_, incoming) = taken { Some(incoming) } else { None })
            .collect())
    }

    pub fn pinned(&self, slice: usize) -> Option<Duration> {
        self.pins.get(slice)?.as_ref().map(|pin| pin.since.elapsed())
    }

    pub async fn release(&mut self, slice: usize) {
        let Some(pin) = self.pins.get_mut(slice) else { return };
        if pin.take().is_none() {
            return;
        }
        unpin(&self.link, &self.stream, &self.consumers[slice]).await;
    }

    fn on_state(&mut self) {
        let now = self.link.generation();
        if now != self.generation {
            // Requests do not survive a connection; what was on its way comes back after the ack wait.
            self.generation = now;
            let over = self.requests.clear();
            self.ended(over);
        }
    }

    fn ended(&mut self, slices: Vec<usize>) {
        self.ready.extend(slices.into_iter().map(|slice| Taken::Ended { slice, refused: false }));
    }

    fn take(&mut self, message: async_nats::Message) {
        if let Some(receipt) = message.reply.clone().and_then(Receipt::parse) {
            // It comes under the subject it was stored on, so only its consumer tells the slice.
            let Some(slice) = self.consumers.iter().position(|name| *name == receipt.consumer) else { return };
            self.requests.message(slice, self.pin_timeout.is_none(), Instant::now());
            let headers = message.headers.unwrap_or_default();
            self.note_pin(slice, headers::get(Some(&headers), headers::PIN_ID));
            let incoming = Incoming { receipt, subject: message.subject, headers, payload: message.payload };
            self.ready.push_back(Taken::Message(slice, incoming));
            return;
        }
        let mut tokens = message.subject.rsplit('.');
        let mut number = || tokens.next().and_then(|token| token.parse::<u64>().ok());
        let (Some(id), Some(slice)) = (number(), number()) else { return };
        let slice = usize::try_from(slice).unwrap_or(usize::MAX);
        let status = message.status.unwrap_or(StatusCode::OK).as_u16();
        if status == PIN_MISMATCH {
            // Somebody else has it by now, or nobody: the next request asks without.
            self.forget_pin(slice);
        }
        let at_once = [NO_MESSAGES, PIN_MISMATCH].contains(&status);
        if status != HEARTBEAT && self.requests.end(slice, id, at_once, Instant::now()) {
            let expected = [NO_MESSAGES, TIMEOUT, PIN_MISMATCH].contains(&status);
            if !expected {
                let why = message.description.as_deref().unwrap_or_default();
                tracing::debug!(stream = %self.stream, slice, status, why, "pull request refused");
            }
            self.ready.push_back(Taken::Ended { slice, refused: !expected });
        }
    }

    fn note_pin(&mut self, slice: usize, id: Option<&str>) {
        let (Some(pin), Some(id)) = (self.pins.get_mut(slice), id) else { return };
        if pin.as_ref().is_none_or(|pin| pin.id != id) {
            *pin = Some(Pin { id: id.to_owned(), since: Instant::now() });
        }
    }

    fn forget_pin(&mut self, slice: usize) {
        if let Some(pin) = self.pins.get_mut(slice) {
            *pin = None;
        }
    }
}

const HEARTBEAT: u16 = 100;
const NO_MESSAGES: u16 = 404;
const TIMEOUT: u16 = 408;
const PIN_MISMATCH: u16 = 423;

async fn subscribe(link: &Link) -> Result<(String, async_nats::Subscriber), Fault> {
    let inbox = link.new_inbox();
    let messages = link.client.subscribe(format!("{inbox}.*.*")).await.map_err(|_| link.down())?;
    Ok((inbox, messages))
}

/// Lets go of a consumer's pin. Nobody reads the answer: a pin that is kept times out.
pub(crate) async fn unpin(link: &Link, stream: &str, consumer: &str) {
    let api = link.layout().spell(&format!("$JS.API.CONSUMER.UNPIN.{stream}.{consumer}")).into_owned();
    let body = format!(r#"{{"group":"{}"}}"#, topology::PIN_GROUP);
    if link.is_up() {
        let _ = link.client.publish_with_reply(api, link.new_inbox(), body.into()).await;
    }
}
