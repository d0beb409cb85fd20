//! Tokens that the broker does not take: expired, made with a stolen signing key to allow more, of nobody.

use agentbus_nats::connect::{self, Identity, Link};
use agentbus_nats::identity::{Credentials, Layout, UserSpec};
use agentbus_proto::Code;
use agentbus_tests::Broker;
use agentbus_tests::broker::now;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use nkeys::KeyPair;
use serde_json::{Value, json};

async fn refusal(broker: &Broker, key: &KeyPair, jwt: String) -> Option<Code> {
    let credentials = Credentials { jwt, seed: key.seed().unwrap() };
    let identity = Identity::from_credentials(&credentials).unwrap();
    let inbox = "_INBOX.a.a".to_owned();
    let (servers, name, layout) = (vec![broker.url()], "x".to_owned(), broker.authority.layout());
    let options = connect::Options { servers, name, inbox, layout, identity };
    Link::connect(options).await.err().map(|fault| fault.code)
}

fn claims(jwt: &str) -> Value {
    serde_json::from_slice(&B64.decode(jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn sign(claims: &Value, issuer: &KeyPair) -> String {
    let header = B64.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{header}.{}", B64.encode(claims.to_string()));
    let signature = B64.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// A good token of agent `a`, its key, and the stolen signing key.
fn stolen(broker: &Broker) -> (KeyPair, Value, KeyPair) {
    let key = KeyPair::new_user();
    let publish = ["notes.>".to_owned()];
    let spec = UserSpec { agent: "a", public_key: &key.public_key(), groups: &[], consumers: &[], publish: &publish };
    let (jwt, _) = broker.authority.sidecar(&spec, now()).unwrap();
    let seeds: Value = serde_json::from_str(&broker.authority.to_json().unwrap()).unwrap();
    let signing = KeyPair::from_seed(seeds["sidecars"].as_str().unwrap()).unwrap();
    (key, claims(&jwt), signing)
}

async fn a_stolen_signing_key_cannot_mint_more_than_the_template(layout: Layout) {
    let broker = Broker::start_in(layout).await;
    let (key, good, signing) = stolen(&broker);
    assert_eq!(refusal(&broker, &key, sign(&good, &signing)).await, None, "the forger's own work is sound");
    for (field, value) in [
        ("pub", json!({"allow": [">"]})),
        ("sub", json!({"allow": [">"]})),
        ("subs", json!(-1)),
        ("payload", json!(-1)),
    ] {
        let mut more = good.clone();
        more["nats"][field] = value;
        assert_eq!(refusal(&broker, &key, sign(&more, &signing)).await, Some(Code::Unauthenticated), "{field}");
    }
}

async fn an_expired_token_a_foreign_signer_and_a_foreign_key_are_refused(layout: Layout) {
    let broker = Broker::start_in(layout).await;
    let (key, good, signing) = stolen(&broker);
    let publish = ["notes.>".to_owned()];
    let spec = UserSpec { agent: "a", public_key: &key.public_key(), groups: &[], consumers: &[], publish: &publish };
    let (expired, until) = broker.authority.sidecar(&spec, now() - 25 * 3600).unwrap();
    assert!(until < now());
    assert_eq!(refusal(&broker, &key, expired).await, Some(Code::Unauthenticated));

    let stranger = KeyPair::new_account();
    let mut foreign = good.clone();
    foreign["iss"] = json!(stranger.public_key());
    assert_eq!(refusal(&broker, &key, sign(&foreign, &stranger)).await, Some(Code::Unauthenticated));
    let other = KeyPair::new_user();
    assert_eq!(refusal(&broker, &other, sign(&good, &signing)).await, Some(Code::Unauthenticated), "not its token");
    let mut tampered = sign(&good, &signing);
    tampered.replace_range(tampered.len() - 4.., "AAAA");
    assert_eq!(refusal(&broker, &key, tampered).await, Some(Code::Unauthenticated));
    assert_eq!(refusal(&broker, &key, String::new()).await, Some(Code::Unauthenticated));
}

async fn a_connection_without_a_token_is_refused(layout: Layout) {
    let broker = Broker::start_in(layout).await;
    let error = async_nats::connect(broker.url()).await.unwrap_err();
    assert!(error.to_string().contains("authorization violation"), "{error}");
}

in_both! {
    a_stolen_signing_key_cannot_mint_more_than_the_template,
    an_expired_token_a_foreign_signer_and_a_foreign_key_are_refused,
    a_connection_without_a_token_is_refused,
}
