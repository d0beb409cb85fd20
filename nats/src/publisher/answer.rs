//! What the broker's answer to a publish says.

use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::StatusCode;
use serde::Deserialize;

use super::Stored;

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Both forms of the broker's answer. One flat struct: serde's untagged enums buffer everything first.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// What an answer of the broker says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The PubAck.
    Stored(Stored),
    /// No, with the server's error code.
    Refused(u64, Fault),
    /// No stream answered: no leader just now, or the broker is coming up.
    Absent(Fault),
    /// It cannot be read, so nobody knows.
    Unreadable(Fault),
}

pub(super) fn verdict(message: &async_nats::Message) -> Verdict {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        let why = "no stream takes this subject: `agentbus streams plan` shows what is missing";
        return Verdict::Absent(Fault::new(Code::BrokerDown, why).with_retry_after(Duration::from_secs(1)));
    }
    answer(&message.payload)
}

/// The outcome it tells.
pub(super) fn read(message: &async_nats::Message) -> Result<Stored, Fault> {
    match verdict(message) {
        Verdict::Stored(stored) => Ok(stored),
        Verdict::Refused(_, fault) | Verdict::Absent(fault) | Verdict::Unreadable(fault) => Err(fault),
    }
}

fn answer(payload: &[u8]) -> Verdict {
    let unreadable = |why: String| Verdict::Unreadable(Fault::new(Code::OutcomeUnknown, why));
    match serde_json::from_slice(payload) {
        Ok(Answer { error: Some(error), .. }) => Verdict::Refused(error.err_code, refusal(&error)),
        Ok(Answer { stream, seq, duplicate, .. }) if !stream.is_empty() => {
            Verdict::Stored(Stored { stream, seq, duplicate })
        }
        Ok(_) => unreadable("the broker's answer names no stream".to_owned()),
        Err(error) => unreadable(format!("unreadable answer from the broker: {error}")),
    }
}

/// A refusal in the broker's numbers and words.
pub(crate) fn refused(err_code: u64, description: &str) -> Fault {
    refusal(&Refusal { err_code, description: description.to_owned() })
}

/// Server error codes that mean back-pressure, so that callers can tell "later" from "never" (facts: nats.md §2).
fn refusal(error: &Refusal) -> Fault {
    let text = &error.description;
    match error.err_code {
        10077 | 10047 | 10028 | 10023 => {
            let why =
                format!("the stream is full ({text}): `agentbus status` shows which; make room or raise its size");
            Fault::new(Code::StreamFull, why).with_retry_after(Duration::from_secs(5))
        }
        10167 => Fault::new(Code::RateLimited, format!("the broker is overloaded ({text})"))
            .with_retry_after(Duration::from_millis(500)),
        10054 => Fault::new(Code::TooLarge, format!("the stream takes no message of this size ({text})")),
        code => Fault::new(Code::BrokerDown, format!("the broker did not store it: {text} (error {code})"))
            .with_retry_after(Duration::from_secs(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_stream_and_an_overloaded_broker_are_back_pressure() {
        let fault = |code| refusal(&Refusal { err_code: code, description: "x".into() });
        assert_eq!(fault(10077).code, Code::StreamFull);
        assert_eq!(fault(10167).code, Code::RateLimited);
        assert_eq!(fault(10054).code, Code::TooLarge);
        assert!(fault(10077).retry_after.is_some());
    }

    #[test]
    fn puback_and_error_are_told_apart() {
        let stored = answer(br#"{"stream":"AB_x_EVENTS","seq":3,"duplicate":true}"#);
        assert!(matches!(stored, Verdict::Stored(Stored { seq: 3, duplicate: true, .. })));
        let refused = answer(
            br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#,
        );
        assert!(matches!(refused, Verdict::Refused(10077, fault) if fault.code == Code::StreamFull));
        assert!(matches!(answer(b"{}"), Verdict::Unreadable(fault) if fault.code == Code::OutcomeUnknown));
    }
}
