//! Replies that were missed: stored while there was no connection, or while this sidecar did not listen.
//!
//! Only the control plane may read the stream, so it is asked, with the verb `replies`. That is done after every new
//! connection, once shortly before an ask is given up, and when an ask turns out to have been stored before. While the
//! control plane does not answer it is asked again, for as long as anybody waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentbus_nats::asks::{Cursor, Found, Part, REPLIES, REQUESTS_MAX, Replies};
use agentbus_proto::{Code, Fault};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio_util::sync::CancellationToken;

use super::Asks;

/// Pause before the control plane is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Clocks of the broker and of this machine may differ by so much.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// Answers read for one look: 64 of half a mebibyte.
const ANSWERS_MAX: usize = 64;

/// Looks for missed replies whenever there is reason to, until `stop`.
pub(super) async fn keep(asks: Asks, stop: CancellationToken) {
    let mut state = asks.inner.bus.state();
    let mut generation = asks.inner.bus.generation();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = asks.inner.look.notified() => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = asks.inner.bus.generation();
                if now == 0 || std::mem::replace(&mut generation, now) == now {
                    continue;
                }
            }
        }
        while !asks.waiting().is_empty() {
            let Err(fault) = look(&asks).await else { break };
            tracing::debug!(%fault, "missed replies cannot be read; trying again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

async fn look(asks: &Asks) -> Result<(), Fault> {
    for some in asks.waiting().chunks(REQUESTS_MAX) {
        let oldest = some.iter().map(|(_, since)| *since).min().unwrap_or(UNIX_EPOCH);
        let requests = some.iter().map(|(id, _)| id.clone()).collect();
        let mut request = Replies { requests, since_ms: since_ms(oldest), from: None };
        let mut partial = Partial::default();
        for _ in 0..ANSWERS_MAX {
            let found: Found = asks.inner.control.call(REPLIES, &request).await?;
            for part in found.parts {
                if let Some((subject, traceparent, event)) = partial.add(part)? {
                    asks.take(&subject, Some(&traceparent), event);
                }
            }
            request.from = found.next;
            if request.from.is_none() {
                break;
            }
        }
    }
    Ok(())
}

fn since_ms(oldest: SystemTime) -> u64 {
    let since = oldest.checked_sub(CLOCKS_APART).unwrap_or(UNIX_EPOCH);
    since.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Puts the parts of a large reply together.
#[derive(Default)]
struct Partial {
    at: Option<Cursor>,
    bytes: Vec<u8>,
}

impl Partial {
    /// Adds a part; the reply when it is whole: subject, trace context, event.
    fn add(&mut self, part: Part) -> Result<Option<(String, String, bytes::Bytes)>, Fault> {
        let odd =
            |why: &str| Fault::new(Code::ControlPlaneDown, format!("unreadable answer of the control plane: {why}"));
        if part.offset == 0 {
            self.bytes.clear();
        } else if self.at != Some(Cursor { seq: part.seq, offset: part.offset }) {
            return Err(odd("a part of a reply is missing"));
        }
        let data = STANDARD.decode(&part.data).map_err(|error| odd(&error.to_string()))?;
        self.bytes.extend_from_slice(&data);
        self.at = Some(Cursor { seq: part.seq, offset: self.bytes.len() });
        let whole = self.bytes.len() >= part.bytes;
        Ok(whole.then(|| (part.subject, part.traceparent, std::mem::take(&mut self.bytes).into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(seq: u64, offset: usize, bytes: usize, text: &str) -> Part {
        let (subject, traceparent) = ("s".to_owned(), String::new());
        Part { seq, subject, traceparent, offset, bytes, data: STANDARD.encode(text) }
    }

    #[test]
    fn parts_make_a_whole_and_a_gap_is_noticed() {
        let mut partial = Partial::default();
        let mut add =
            |part| partial.add(part).map(|whole| whole.map(|(_, _, event)| event)).map_err(|fault| fault.code);
        assert_eq!(add(part(1, 0, 3, "abc")), Ok(Some("abc".into())));
        assert_eq!(add(part(2, 0, 6, "abc")), Ok(None));
        assert_eq!(add(part(2, 3, 6, "def")), Ok(Some("abcdef".into())));
        assert_eq!(add(part(3, 0, 6, "abc")), Ok(None));
        assert_eq!(add(part(3, 4, 6, "ef")), Err(Code::ControlPlaneDown));
        assert_eq!(add(part(4, 3, 6, "def")), Err(Code::ControlPlaneDown));
        assert_eq!(add(part(5, 0, 0, "")), Ok(Some("".into())));
    }
}
