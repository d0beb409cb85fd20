//! What happens during the demo, looked at without taking anything: its events, and dead letters.

use agentbus_nats::{headers, pattern};
use agentbus_proto::event::v1::Event;
use agentbus_proto::{Address, Code};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use prost::Message as _;
use serde_json::Value;

use super::progress::Letter;
use crate::broker::Access;
use crate::exit::fault;
use crate::instance::Instance;

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

/// Two ordered consumers of our own: the events of the demo, and dead letters.
pub(super) struct Watch {
    events: pull::Ordered,
    letters: pull::Ordered,
}

impl Watch {
    pub(super) async fn start(instance: &Instance) -> anyhow::Result<Self> {
        let access = Access {
            url: instance.broker.url.clone(),
            creds: instance.broker.creds.clone(),
            namespace: instance.namespace.clone(),
        };
        let broker = access.connect("demo").await?;
        let topics = ["audit.started", "file.checked", "audit.completed"].map(str::to_owned);
        let filters = pattern::filters(&instance.namespace, &topics)?;
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

    /// The next thing of interest. Errors are interruptions: an ordered consumer goes on by itself when the broker is back.
    pub(super) async fn next(&mut self) -> anyhow::Result<Seen> {
        loop {
            tokio::select! {
                message = self.events.next() => match message {
                    Some(Ok(message)) => {
                        if let Ok(event) = Event::decode(message.payload.clone()) {
                            return Ok(Seen::Event(topic(&event), data(&event)));
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "watching interrupted"),
                    None => return Err(fault(Code::BrokerDown, "the event stream can no longer be watched")),
                },
                message = self.letters.next() => match message {
                    Some(Ok(message)) => return Ok(Seen::Letter(letter(&message))),
                    Some(Err(error)) => tracing::debug!(%error, "watching interrupted"),
                    None => return Err(fault(Code::BrokerDown, "the dead letters can no longer be watched")),
                },
            }
        }
    }
}

fn letter(message: &Message) -> Letter {
    let header = |name: &'static str| headers::get(message.headers.as_ref(), name).unwrap_or_default().to_owned();
    let data = Event::decode(message.payload.clone()).map(|event| data(&event)).unwrap_or_default();
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
    Letter {
        seq: message.info().map(|info| info.stream_sequence).unwrap_or_default(),
        run: text("run").unwrap_or_default(),
        what: text("path").or_else(|| text("input")).unwrap_or_default(),
        class: header(headers::CLASS),
        cause: header(headers::CAUSE),
    }
}

fn topic(event: &Event) -> String {
    event.to.as_ref().and_then(|to| Address::try_from(to).ok()).map(|to| to.name().to_owned()).unwrap_or_default()
}
