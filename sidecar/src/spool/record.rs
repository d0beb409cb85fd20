//! One event in the spool: the message exactly as it is sent to the broker, sealed id included, in a frame that shows when
//! it is torn.
//!
//! Frame: length of the body (u32), CRC-32 of the body (u32), body. Body: flags (u8), length of id (u16), of subject (u16),
//! of headers (u32), then id, subject, headers, payload. Little endian.

use agentbus_nats::publisher::Message;
use bytes::Bytes;

/// Bytes of a frame before its body.
pub const HEAD_BYTES: usize = 8;
/// Longest body: above the largest message of any broker we support. Longer lengths are junk.
pub const BODY_BYTES_MAX: usize = 80 << 20;

const FIXED_BYTES: usize = 1 + 2 + 2 + 4;
/// It was sent before and nobody knows whether it was stored.
const SENT: u8 = 1;

/// An event as it waits.
#[derive(Debug, Clone)]
pub struct Record {
    /// The event's id.
    pub id: String,
    /// It was sent before it came here, and nobody knows whether the broker stored it.
    pub sent: bool,
    /// What is sent.
    pub message: Message,
}

/// The body of a message's record.
pub fn encode(id: &str, message: &Message) -> Vec<u8> {
    let headers = message.packed_headers();
    let size = FIXED_BYTES + id.len() + message.subject.len() + headers.len() + message.payload.len();
    let mut body = Vec::with_capacity(size);
    // Ids have at most 128 bytes, subjects 255: `validate` sees to it.
    let short = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    body.push(0);
    body.extend(short(id));
    body.extend(short(&message.subject));
    body.extend(u32::try_from(headers.len()).unwrap_or(u32::MAX).to_le_bytes());
    for part in [id.as_bytes(), message.subject.as_bytes(), headers.as_bytes(), &message.payload] {
        body.extend_from_slice(part);
    }
    body
}

/// Notes that it was sent and not answered.
pub fn mark_sent(body: &mut [u8]) {
    if let Some(flags) = body.first_mut() {
        *flags |= SENT;
    }
}

/// The frame's head for a body.
pub fn head(body: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    head
}

/// Length and checksum that a head promises; `None` when it cannot be one.
pub fn promised(head: &[u8]) -> Option<(usize, u32)> {
    let length = u32::from_le_bytes(head.get(..4)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(head.get(4..HEAD_BYTES)?.try_into().ok()?);
    (FIXED_BYTES..=BODY_BYTES_MAX).contains(&length).then_some((length, crc))
}

/// Reads a body whose checksum was right.
pub fn decode(body: Vec<u8>) -> Option<Record> {
    let body = Bytes::from(body);
    let number = |at: usize, bytes: usize| {
        let field = body.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let id_end = FIXED_BYTES + number(1, 2)?;
    let subject_end = id_end + number(3, 2)?;
    let headers_end = subject_end + number(5, 4)?;
    let text = |from: usize, to: usize| std::str::from_utf8(body.get(from..to)?).ok();
    let (id, subject) = (text(FIXED_BYTES, id_end)?.to_owned(), text(id_end, subject_end)?.to_owned());
    let headers = text(subject_end, headers_end)?;
    let payload = body.slice(headers_end..);
    let sent = body.first()? & SENT != 0;
    Some(Record { id, sent, message: Message::from_packed(subject, headers, payload) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "list/1/abc");
        headers.insert("Ab-Type", "file.found");
        let message = Message {
            subject: "ab.default.n.list.topic.-.file.found".into(),
            headers,
            payload: Bytes::from_static(b"\x00\xff{}"),
        };
        let mut body = encode("1", &message);
        mark_sent(&mut body);
        let (length, crc) = promised(&head(&body)).unwrap();
        assert_eq!((length, crc), (body.len(), crc32fast::hash(&body)));
        let record = decode(body).unwrap();
        assert_eq!((record.id.as_str(), record.sent), ("1", true));
        assert_eq!(record.message.subject, message.subject);
        assert_eq!((record.message.headers, record.message.payload), (message.headers, message.payload));
    }

    #[test]
    fn junk_is_no_record() {
        assert!(promised(&[0; 8]).is_none() && promised(&[0xff; 8]).is_none() && promised(&[1]).is_none());
        assert!(decode(vec![0; FIXED_BYTES - 1]).is_none());
        assert!(decode([&[0, 9, 0, 0, 0, 0, 0, 0, 0][..], b"short"].concat()).is_none());
    }
}
