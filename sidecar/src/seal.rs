//! Delivery ids: a sealed form of what is needed to settle a delivery.
//!
//! An id stands on its own: after a sidecar was replaced the next one, knowing only the grant, can still take the ack. The
//! seal (HMAC-SHA-256, 128 bits of it) keeps ids from being made up, by the agent itself, too: its key is the secret of the
//! grant, which no agent is told. Rights on the broker bound what a seal could be worth anyway.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use agentbus_nats::ack::Receipt;

const TAG_BYTES: usize = 16;
const PREFIX: &str = "$JS.ACK.";

/// Seals and opens delivery ids for one instance of an agent.
#[derive(Clone)]
pub struct Seal {
    mac: Hmac<Sha256>,
}

impl Seal {
    /// Keyed from the grant's `secret`, which outlives the sidecars of `instance`.
    pub fn new(secret: &str, instance: &str) -> Self {
        use hmac::digest::KeyInit;
        // HMAC takes keys of any length; the fallback is never reached and would only make ids of no worth.
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(format!("delivery:{instance}:{secret}").as_bytes())
            .unwrap_or_else(|_| <Hmac<Sha256> as KeyInit>::new(&Default::default()));
        Self { mac }
    }

    /// The id of a delivery.
    pub fn seal(&self, receipt: &Receipt) -> String {
        let body = receipt.subject.strip_prefix(PREFIX).unwrap_or(&receipt.subject);
        let mut bytes = Vec::with_capacity(TAG_BYTES + body.len());
        bytes.extend_from_slice(&self.tag(body.as_bytes()));
        bytes.extend_from_slice(body.as_bytes());
        B64.encode(bytes)
    }

    /// What an id says, if it was sealed here.
    pub fn open(&self, id: &str) -> Option<Receipt> {
        let bytes = B64.decode(id).ok()?;
        let (tag, body) = bytes.split_at_checked(TAG_BYTES)?;
        let mut mac = self.mac.clone();
        mac.update(body);
        mac.verify_truncated_left(tag).ok()?;
        Receipt::parse(format!("{PREFIX}{}", std::str::from_utf8(body).ok()?))
    }

    fn tag(&self, body: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = self.mac.clone();
        mac.update(body);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_id_opens_only_with_the_same_secret_for_the_same_instance() {
        let receipt = Receipt::parse("$JS.ACK.AB_default_EVENTS.readers.1.17.1.1763633763250000000.0").unwrap();
        let id = Seal::new("secret", "check-1").seal(&receipt);
        assert_eq!(Seal::new("secret", "check-1").open(&id), Some(receipt));
        assert_eq!(Seal::new("other", "check-1").open(&id), None);
        assert_eq!(Seal::new("secret", "check-2").open(&id), None);
        for bad in ["", "x", "AAAA", &id[1..], &format!("{id}A")] {
            assert_eq!(Seal::new("secret", "check-1").open(bad), None, "{bad}");
        }
    }
}
