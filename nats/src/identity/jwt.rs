//! NATS tokens: JSON claims signed with an Ed25519 nkey.
//!
//! Format: `b64url(header).b64url(claims).b64url(signature of the first two)`, header type `JWT`, algorithm
//! `ed25519-nkey`, as the server's jwt library (version 2) reads it. No maintained crate covers JetStream limits,
//! tags and scoped keys, hence these few lines.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a token is about; everything else is derived.
pub(super) struct Claims<'a> {
    /// Public key the token is for.
    pub subject: &'a str,
    /// Human name; for users the agent name, which `{{name()}}` in the template expands to.
    pub name: &'a str,
    /// Seconds since the Unix epoch.
    pub issued_at: u64,
    /// Seconds since the Unix epoch; none = never.
    pub expires: Option<u64>,
    /// The `nats` part, with `type` and `version`.
    pub nats: Value,
}

/// Signs claims.
pub(super) fn encode(claims: Claims<'_>, issuer: &KeyPair) -> Result<String, nkeys::error::Error> {
    let header = B64.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let mut body = json!({
        "iss": issuer.public_key(),
        "sub": claims.subject,
        "iat": claims.issued_at,
        "name": claims.name,
        "nats": claims.nats,
    });
    if let Some(expires) = claims.expires {
        body["exp"] = json!(expires);
    }
    // The id only has to be unique for its content; the reference implementation hashes the claims too.
    body["jti"] = json!(B64.encode(Sha256::digest(body.to_string())));
    let body = B64.encode(body.to_string());
    let signed = format!("{header}.{body}");
    let signature = B64.encode(issuer.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

/// What a token says, unchecked.
pub fn claims(token: &str) -> Option<Value> {
    serde_json::from_slice(&B64.decode(token.split('.').nth(1)?).ok()?).ok()
}
