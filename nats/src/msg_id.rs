//! Message ids that nobody else can claim.
//!
//! The broker remembers ids per stream, whoever sent them, and answers a second one with "duplicate" without storing it.
//! A predictable id could therefore be claimed in advance by any agent that may write to the stream: the real message would
//! be swallowed. So every id ends in a tag made with a secret: the agent's for its events, the group's for retries and dead
//! letters, the control plane's for redrives.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of the tag: 64 bits, guessed once in a dedupe window with a chance of nothing.
const TAG_BYTES: usize = 8;

/// `<id>/<tag>`.
pub fn sealed(id: &str, secret: &str) -> String {
    let mut text = String::with_capacity(id.len() + 1 + 2 * TAG_BYTES);
    text.push_str(id);
    text.push('/');
    push_hex(&mut text, &mac(secret.as_bytes(), id)[..TAG_BYTES]);
    text
}

/// A secret made from another one, for one purpose.
pub fn derive(secret: &str, purpose: &str) -> String {
    let mut text = String::with_capacity(64);
    push_hex(&mut text, &mac(secret.as_bytes(), purpose));
    text
}

/// The code of a text under a key.
pub(crate) fn mac(key: &[u8], text: &str) -> [u8; 32] {
    // HMAC takes keys of any length: the fallback is never reached.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|_| <Hmac<Sha256> as KeyInit>::new(&Default::default()));
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(half.into(), 16).unwrap_or('0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_needs_the_secret_and_is_the_same_every_time() {
        let id = sealed("list/17", "secret");
        assert_eq!(id, sealed("list/17", "secret"));
        assert!(id.starts_with("list/17/") && id.len() == "list/17/".len() + 16);
        assert_ne!(id, sealed("list/17", "other"));
        assert_ne!(derive("seed", "agent:a"), derive("seed", "group:a"));
    }
}
