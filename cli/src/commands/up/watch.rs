//! What happens during the demo, looked at without taking anything: its events, and dead letters.

use std::collections::VecDeque;
use std::sync::Arc;

use agentbus_nats::bus::{Bus, Memory, Subscription};
use agentbus_nats::names::Names;
use agentbus_nats::read::{From, Query, Record};
use agentbus_nats::{headers, pattern};
use agentbus_proto::event::v1::Event;
use agentbus_proto::{Address, Code};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use prost::Message as _;
use serde_json::Value;

use super::progress::Letter;
use crate::broker::Access;
use crate::exit::fault;
use crate::instance::Instance;

/// What the demo tells about itself.
const TOPICS: [&str; 3] = ["audit.started", "file.checked", "audit.completed"];

fn data(event: &Event) -> Value {
    serde_json::from_slice(&event.data).unwrap_or_default()
}

/// One thing that happened.
pub(super) enum Seen {
    /// An event: its topic and its data.
    Event(String, Value),
    /// A dead letter of any run.
    Letter(Letter),
}

/// Looks on, wherever the bus is.
pub(super) enum Watch {
    /// Two ordered consumers of our own: the events of the demo, and dead letters.
    Broker(Box<Consumers>),
    /// The bus is in this process.
    Memory(Reader),
}

impl Watch {
    /// `memory`: the bus, where it is in this process.
    pub(super) async fn start(instance: &Instance, memory: Option<&Memory>) -> anyhow::Result<Self> {
        let filters = pattern::filters(&instance.namespace, &TOPICS.map(str::to_owned))?;
        Ok(match memory {
            Some(memory) => Self::Memory(Reader::start(memory, &instance.namespace, filters).await?),
            None => Self::Broker(Box::new(Consumers::start(instance, filters).await?)),
        })
    }

    /// The next thing of interest.
    pub(super) async fn next(&mut self) -> anyhow::Result<Seen> {
        match self {
            Self::Broker(consumers) => consumers.next().await,
            Self::Memory(reader) => reader.next().await,
        }
    }
}

/// On a broker.
pub(super) struct Consumers {
    events: pull::Ordered,
    letters: pull::Ordered,
}

impl Consumers {
    async fn start(instance: &Instance, filters: Vec<String>) -> anyhow::Result<Self> {
        let access = Access {
            url: instance.broker.url.clone(),
            creds: instance.broker.creds.clone(),
            namespace: instance.namespace.clone(),
        };
        let broker = access.connect("demo").await?;
        let consume = async |stream: String, filter_subjects: Vec<String>| -> anyhow::Result<pull::Ordered> {
            let config =
                pull::OrderedConfig { filter_subjects, deliver_policy: DeliverPolicy::New, ..Default::default() };
            let stream = broker.jetstream.get_stream(stream).await?;
            Ok(stream.create_consumer(config).await?.messages().await?)
        };
        let events = consume(broker.names.events(), filters).await?;
        let letters = consume(broker.names.dead_letters(), vec![format!("abd.{}.>", instance.namespace)]).await?;
        Ok(Self { events, letters })
    }

    /// Errors are interruptions: an ordered consumer goes on by itself when the broker is back.
    async fn next(&mut self) -> anyhow::Result<Seen> {
        loop {
            tokio::select! {
                message = self.events.next() => match message {
                    Some(Ok(message)) => {
                        if let Some(seen) = seen(&message.payload) {
                            return Ok(seen);
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "watching interrupted"),
                    None => return Err(fault(Code::BrokerDown, "the event stream can no longer be watched")),
                },
                message = self.letters.next() => match message {
                    Some(Ok(message)) => {
                        let seq = message.info().map(|info| info.stream_sequence).unwrap_or_default();
                        return Ok(Seen::Letter(letter(seq, message.headers.as_ref(), &message.payload)));
                    }
                    Some(Err(error)) => tracing::debug!(%error, "watching interrupted"),
                    None => return Err(fault(Code::BrokerDown, "the dead letters can no longer be watched")),
                },
            }
        }
    }
}

/// On the bus in this process: told by listening that there is something, read from its streams.
pub(super) struct Reader {
    bus: Arc<dyn Bus>,
    heard: [Subscription; 2],
    /// Stream, filters, and the next sequence to look at.
    places: [(String, Vec<String>, u64); 2],
    seen: VecDeque<Seen>,
}

impl Reader {
    async fn start(memory: &Memory, namespace: &str, filters: Vec<String>) -> anyhow::Result<Self> {
        let bus = memory.connect("me");
        let names = Names::new(namespace);
        let letters = vec![format!("abd.{namespace}.>")];
        let heard = [bus.subscribe(&format!("ab.{namespace}.>"), None).await?, bus.subscribe(&letters[0], None).await?];
        let mut places = [(names.events(), filters, 1), (names.dead_letters(), letters, 1)];
        for (stream, _, next) in &mut places {
            *next = bus.stream(stream).await?.map_or(1, |info| info.last_seq + 1);
        }
        Ok(Self { bus, heard, places, seen: VecDeque::new() })
    }

    async fn next(&mut self) -> anyhow::Result<Seen> {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return Ok(seen);
            }
            let [events, letters] = &mut self.heard;
            let at = tokio::select! {
                note = events.next() => note.map(|_| 0),
                note = letters.next() => note.map(|_| 1),
            };
            let at = at.ok_or_else(|| fault(Code::BrokerDown, "the bus can no longer be watched"))?;
            self.read(at).await?;
        }
    }

    async fn read(&mut self, at: usize) -> anyhow::Result<()> {
        let (stream, filters, next) = &mut self.places[at];
        let query = Query { filters: filters.clone(), from: From::Seq(*next), ..Query::all() };
        for Record { seq, headers, payload, .. } in self.bus.read(stream, &query).await?.records {
            *next = seq + 1;
            match at {
                0 => self.seen.extend(seen(&payload)),
                _ => self.seen.push_back(Seen::Letter(letter(seq, Some(&headers), &payload))),
            }
        }
        Ok(())
    }
}

/// What an event of the demo tells.
fn seen(payload: &[u8]) -> Option<Seen> {
    let event = Event::decode(payload).ok()?;
    Some(Seen::Event(topic(&event), data(&event)))
}

fn letter(seq: u64, stored: Option<&HeaderMap>, payload: &[u8]) -> Letter {
    let header = |name: &'static str| headers::get(stored, name).unwrap_or_default().to_owned();
    let data = Event::decode(payload).map(|event| data(&event)).unwrap_or_default();
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
    Letter {
        seq,
        run: text("run").unwrap_or_default(),
        what: text("path").or_else(|| text("input")).unwrap_or_default(),
        class: header(headers::CLASS),
        cause: header(headers::CAUSE),
    }
}

fn topic(event: &Event) -> String {
    event.to.as_ref().and_then(|to| Address::try_from(to).ok()).map(|to| to.name().to_owned()).unwrap_or_default()
}
