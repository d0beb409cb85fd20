//! The ack subject of a delivery: what it tells, and the answers that can be given on it.

use std::time::{Duration, SystemTime};

use async_nats::{Client, Subject};
use bytes::Bytes;

/// What an ack subject says about its delivery.
///
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or the longer form with
/// domain and account hash in front (ADR-15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The subject itself.
    pub subject: Subject,
    /// Stream the message is in.
    pub stream: String,
    /// Consumer it was delivered by.
    pub consumer: String,
    /// How often it has been delivered by this consumer, this time included.
    pub delivered: u64,
    /// Sequence in the stream: with the stream the stable key of the message.
    pub seq: u64,
    /// When it was stored.
    pub stored_at: SystemTime,
    /// What the consumer still had to deliver behind it, at that moment.
    pub pending: u64,
}

impl Receipt {
    /// Reads an ack subject; `None` if it is none.
    pub fn parse(subject: impl Into<Subject>) -> Option<Self> {
        let subject = subject.into();
        let mut tokens = [""; 12];
        let mut count = 0;
        for (slot, token) in tokens.iter_mut().zip(subject.split('.')) {
            *slot = token;
            count += 1;
        }
        let rest = match &tokens[..count] {
            ["$JS", "ACK", rest @ ..] if rest.len() == 7 => rest,
            ["$JS", "ACK", _domain, _account, rest @ ..] if rest.len() >= 7 => rest,
            _ => return None,
        };
        let [stream, consumer, delivered, seq, _, nanos, pending, ..] = rest else { return None };
        Some(Self {
            stream: (*stream).to_owned(),
            consumer: (*consumer).to_owned(),
            delivered: delivered.parse().ok()?,
            seq: seq.parse().ok()?,
            stored_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.parse().ok()?),
            pending: pending.parse().ok()?,
            subject,
        })
    }
}

/// The answers to a delivery. None is confirmed: a lost one leads to another delivery, never to a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Ack,
    /// Deliver again, after a delay if one is given.
    Nak(Option<Duration>),
    /// Still at work: starts the broker's ack wait anew.
    Progress,
}

impl Answer {
    fn payload(self) -> Bytes {
        match self {
            Self::Ack => Bytes::from_static(b"+ACK"),
            Self::Nak(None) => Bytes::from_static(b"-NAK"),
            Self::Nak(Some(delay)) => format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into(),
            Self::Progress => Bytes::from_static(b"+WPI"),
        }
    }
}

/// A client whose queue is full for this long is not connected.
const SEND_WAIT: Duration = Duration::from_secs(1);

/// Sends an answer. While disconnected it waits in the client and may be lost; the broker then delivers again.
pub async fn answer(client: &Client, subject: &Subject, answer: Answer) {
    let sent = tokio::time::timeout(SEND_WAIT, client.publish(subject.clone(), answer.payload())).await;
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!(%subject, "ack not sent: the broker will deliver again");
    }
}

/// Starts the ack wait anew; false when the broker did not say so within 2 s.
pub async fn renewed(client: &Client, subject: &Subject) -> bool {
    let asked = client.request(subject.clone(), Answer::Progress.payload());
    matches!(tokio::time::timeout(2 * SEND_WAIT, asked).await, Ok(Ok(_)))
}

/// Acks and waits until the broker says so; false when it did not within 2 s. For what must never come twice.
pub async fn confirmed(client: &Client, subject: &Subject) -> bool {
    let asked = client.request(subject.clone(), Answer::Ack.payload());
    matches!(tokio::time::timeout(2 * SEND_WAIT, asked).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_ack_subjects_are_read() {
        let short = "$JS.ACK.AB_default_EVENTS.readers.2.17.9.1763633763250000000.4";
        let long = "$JS.ACK.hub.ACCHASH.AB_default_EVENTS.readers.2.17.9.1763633763250000000.4.rnd";
        for subject in [short, long] {
            let receipt = Receipt::parse(subject).unwrap();
            assert_eq!((receipt.stream.as_str(), receipt.consumer.as_str()), ("AB_default_EVENTS", "readers"));
            assert_eq!((receipt.delivered, receipt.seq, receipt.pending), (2, 17, 4));
        }
        for subject in ["", "$JS.ACK.a.b", "_INBOX.x.1", "$JS.ACK.S.C.x.1.1.1.1"] {
            assert_eq!(Receipt::parse(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_delayed_nak_carries_nanoseconds() {
        assert_eq!(Answer::Nak(Some(Duration::from_secs(2))).payload(), "-NAK {\"delay\": 2000000000}");
    }
}
