//! Notes: what is sent to whoever listens at the moment, and stored nowhere. Requests and answers are notes.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use crate::identity::Layout;

/// One note, or a stored message as listeners hear it.
#[derive(Debug, Clone)]
pub struct Note {
    /// Subject it was sent on.
    pub subject: Subject,
    /// Where an answer is wanted. Not checked by the bus: who answers with wide rights looks at it first.
    pub reply: Option<Subject>,
    /// Headers; notes have none, stored messages have.
    pub headers: HeaderMap,
    /// What it says.
    pub payload: Bytes,
}

impl Note {
    /// Its subject as it is on the bus, however the connection spells it.
    fn read(message: async_nats::Message, layout: Layout) -> Self {
        let plain = layout.read(&message.subject);
        let subject = (plain.len() < message.subject.len()).then(|| Subject::from(plain));
        let note = Self::from(message);
        Self { subject: subject.unwrap_or(note.subject), ..note }
    }
}

impl From<async_nats::Message> for Note {
    fn from(message: async_nats::Message) -> Self {
        let async_nats::Message { subject, reply, headers, payload, .. } = message;
        Self { subject, reply, headers: headers.unwrap_or_default(), payload }
    }
}

/// Notes on a subject pattern. Outlives reconnects; what is sent meanwhile is missed. Dropped, it ends.
pub struct Subscription {
    way: Way,
}

enum Way {
    JetStream(Box<async_nats::Subscriber>, Layout),
    Memory(super::memory::Notes),
}

impl Subscription {
    pub(super) fn jetstream(subscriber: async_nats::Subscriber, layout: Layout) -> Self {
        Self { way: Way::JetStream(Box::new(subscriber), layout) }
    }

    pub(super) fn memory(notes: super::memory::Notes) -> Self {
        Self { way: Way::Memory(notes) }
    }

    /// The next note; none when the connection is closed for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<Note> {
        match &mut self.way {
            Way::JetStream(subscriber, layout) => subscriber.next().await.map(|note| Note::read(note, *layout)),
            Way::Memory(notes) => notes.recv().await,
        }
    }

    /// The next note if it is here already.
    pub fn try_next(&mut self) -> Option<Note> {
        match &mut self.way {
            Way::JetStream(subscriber, layout) => {
                subscriber.next().now_or_never().flatten().map(|note| Note::read(note, *layout))
            }
            Way::Memory(notes) => notes.try_recv().ok(),
        }
    }
}
