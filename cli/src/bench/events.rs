//! The events that are sent, the same in both arms.
//!
//! The agent makes a whole event each time, with an id of 36 characters. The direct arm publishes what the sidecar would store: the same
//! bytes (the sidecar only appends the source) under the same headers and a subject of the same length.

use agentbus_nats::headers;
use agentbus_nats::subject::{EventSubject, Lane};
use agentbus_proto::event::v1::Event;
use agentbus_proto::{Address, Fault, Stamp, stamp};
use agentbus_runtime::trace::Context;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use prost::Message;

/// Type of the events.
const TYPE: &str = "bench.event.v1";
const CONTENT_TYPE: &str = "application/octet-stream";

/// Makes the events of one measurement.
pub struct Events {
    template: Event,
    sender: &'static str,
    subject: Subject,
    traceparent: String,
    run: u32,
    next: u64,
}

/// A message as the direct arm publishes it.
pub struct Raw {
    /// Where to.
    pub subject: Subject,
    /// Those the sidecar would set.
    pub headers: HeaderMap,
    /// The event with its source.
    pub payload: Bytes,
}

impl Events {
    /// From `sender` to `topic`, with `size` bytes of data. No two measurements share an id: the broker would drop the second one's events.
    pub fn new(namespace: &str, sender: &'static str, topic: &str, size: u32) -> Result<Self, Fault> {
        let to: Address = topic.parse()?;
        let subject = EventSubject {
            namespace: namespace.to_owned(),
            lane: Lane::Normal,
            sender: sender.to_owned(),
            to: to.clone(),
            event_type: String::new(),
            part: '-',
        };
        let template = Event {
            to: Some(to.into()),
            r#type: TYPE.to_owned(),
            time: Some(std::time::SystemTime::now().into()),
            content_type: CONTENT_TYPE.to_owned(),
            data: (0..size).map(|index| (index % 251) as u8).collect(),
            ..Event::default()
        };
        let subject = subject.render().into();
        Ok(Self { template, sender, subject, traceparent: Context::root().traceparent(), run: rand::random(), next: 0 })
    }

    /// The next event, as an agent makes it.
    pub fn event(&mut self) -> Event {
        self.next += 1;
        let id = format!("{:08x}-0000-7000-8000-{:012x}", self.run, self.next);
        Event { correlation_id: id.clone(), id, ..self.template.clone() }
    }

    /// The next event, as it is stored.
    pub fn raw(&mut self) -> Raw {
        let event = self.event();
        let payload = stamp(&event.encode_to_vec(), &Stamp { source: self.sender.to_owned(), ..Stamp::default() });
        let mut headers = HeaderMap::new();
        headers.insert(headers::MSG_ID, format!("{}/{}", self.sender, event.id));
        headers.insert(headers::TRACEPARENT, self.traceparent.as_str());
        headers.insert(headers::CONTENT_TYPE, CONTENT_TYPE);
        headers.insert(headers::TYPE, TYPE);
        headers.insert(headers::CORRELATION, event.id);
        Raw { subject: self.subject.clone(), headers, payload }
    }

    /// The next one as somebody sends it who wants no more than a payload that is not stored twice.
    pub fn bare(&mut self) -> Raw {
        self.next += 1;
        let mut headers = HeaderMap::new();
        headers.insert(headers::MSG_ID, format!("{:08x}-0000-7000-8000-{:012x}", self.run, self.next));
        Raw { subject: self.subject.clone(), headers, payload: self.template.data.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_arms_store_the_same_number_of_bytes() {
        let mut events = Events::new("default", "writer", "bench.publish", 256).unwrap();
        let event = events.event();
        let raw = events.raw();
        let stored = Event::decode(raw.payload.clone()).unwrap();
        assert_eq!((event.id.len(), stored.source.as_str()), (36, "writer"));
        assert_eq!(raw.payload.len(), event.encoded_len() + "writer".len() + 2);
        assert_eq!(raw.subject.as_str(), "ab.default.n.writer.topic.-.bench.publish");
        assert_ne!(event.id, stored.id);
    }
}
