//! Replay with the plain nats CLI: the very requests it sends, with the person's credentials.
//!
//! There is no nats program on most machines that run these tests. What it sends is JetStream's API: JSON on subjects, which is
//! the same here (ADR-8 and ADR-31 of the NATS project). So what passes here passes there.

use std::time::Duration;

use agentbus_nats::connect::{self, Identity, Link};
use agentbus_nats::identity::Layout;
use agentbus_tests::Broker;
use agentbus_tests::broker::now;
use futures_util::StreamExt;
use serde_json::{Value, json};

const SUBJECTS: [&str; 3] =
    ["ab.default.n.a.topic.-.notes.made", "ab.default.n.a.topic.-.files.found", "ab.default.n.a.topic.-.notes.read"];

async fn person(broker: &Broker) -> Link {
    let options = connect::Options {
        servers: vec![broker.url()],
        name: "NATS CLI".to_owned(),
        // The nats CLI's own prefix, unless it is told another one.
        inbox: "_INBOX.cli".to_owned(),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&broker.authority.person(now()).expect("credentials")).expect("read"),
    };
    Link::connect(options).await.expect("connected")
}

/// One request; none when the broker refuses it: then it does not answer.
async fn api(link: &Link, verb: &str, body: Value) -> Option<Value> {
    let payload = if body.is_null() { String::new() } else { body.to_string() };
    let answer = link.client.request(format!("$JS.API.{verb}"), payload.into());
    let answer = tokio::time::timeout(Duration::from_secs(2), answer).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

/// Pulls what a consumer has, as `nats consumer next` and `nats stream view` do.
async fn pulled(link: &Link, consumer: &str) -> Vec<String> {
    let inbox = link.new_inbox();
    let mut messages = link.client.subscribe(inbox.clone()).await.expect("subscribed");
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.AB_default_EVENTS.{consumer}");
    link.client
        .publish_with_reply(next, inbox, json!({"batch": 10, "no_wait": true}).to_string().into())
        .await
        .expect("sent");
    let mut texts = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(5), messages.next()).await {
        if message.status.is_some() {
            break;
        }
        texts.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    texts
}

#[tokio::test]
async fn history_is_read_with_the_requests_of_the_nats_cli() {
    let broker = Broker::start().await;
    for (n, subject) in SUBJECTS.iter().enumerate() {
        broker.store(subject, n.to_string()).await;
    }
    let me = person(&broker).await;
    // nats stream info AB_default_EVENTS; nats stream subjects
    let info = api(&me, "STREAM.INFO.AB_default_EVENTS", Value::Null).await.expect("an answer");
    assert_eq!(info["state"]["messages"], 3, "{info}");
    // nats stream get AB_default_EVENTS 2; … --last-for SUBJECT
    let got = api(&me, "STREAM.MSG.GET.AB_default_EVENTS", json!({"seq": 2})).await.expect("an answer");
    assert_eq!(got["message"]["subject"], SUBJECTS[1], "{got}");
    let last = api(&me, "STREAM.MSG.GET.AB_default_EVENTS", json!({"last_by_subj": SUBJECTS[0]})).await;
    assert_eq!(last.expect("an answer")["message"]["seq"], 1);
    let direct =
        me.client.request("$JS.API.DIRECT.GET.AB_default_EVENTS", r#"{"seq":3}"#.into()).await.expect("an answer");
    assert_eq!(direct.payload, "2");

    // nats stream view; nats consumer add … --pull --deliver all|SEQ|TIME --replay original --ephemeral
    let stored: String =
        api(&me, "STREAM.MSG.GET.AB_default_EVENTS", json!({"seq": 3})).await.expect("an answer")["message"]["time"]
            .as_str()
            .expect("a time")
            .to_owned();
    for (name, start, wanted) in [
        ("all", json!({"deliver_policy": "all"}), vec!["0", "1", "2"]),
        ("seq", json!({"deliver_policy": "by_start_sequence", "opt_start_seq": 2}), vec!["1", "2"]),
        ("time", json!({"deliver_policy": "by_start_time", "opt_start_time": stored}), vec!["2"]),
        ("notes", json!({"deliver_policy": "all", "filter_subject": "ab.default.*.*.topic.*.notes.>"}), vec!["0", "2"]),
    ] {
        let mut config = json!({"name": name, "ack_policy": "none", "replay_policy": "instant", "inactive_threshold": 5_000_000_000_u64,
            "mem_storage": true, "num_replicas": 1, "max_deliver": -1});
        for (key, value) in start.as_object().expect("an object") {
            config[key] = value.clone();
        }
        let filter = config["filter_subject"].as_str().map(|filter| format!(".{filter}")).unwrap_or_default();
        let create = json!({"stream_name": "AB_default_EVENTS", "config": config, "action": "create"});
        let made =
            api(&me, &format!("CONSUMER.CREATE.AB_default_EVENTS.{name}{filter}"), create).await.expect("an answer");
        assert!(made["error"].is_null(), "{made}");
        assert_eq!(pulled(&me, name).await, wanted, "{name}");
        let gone =
            api(&me, &format!("CONSUMER.DELETE.AB_default_EVENTS.{name}"), Value::Null).await.expect("an answer");
        assert_eq!(gone["success"], true, "{gone}");
    }
}

#[tokio::test]
async fn the_nats_cli_cannot_change_history() {
    let broker = Broker::start().await;
    broker.store(SUBJECTS[0], "1").await;
    let me = person(&broker).await;
    for (verb, body) in [
        // nats stream purge, with and without a subject; nats stream rmm; nats stream rm; nats stream edit; nats stream backup
        ("STREAM.PURGE.AB_default_EVENTS", Value::Null),
        ("STREAM.PURGE.AB_default_EVENTS", json!({"filter": SUBJECTS[0]})),
        ("STREAM.MSG.DELETE.AB_default_EVENTS", json!({"seq": 1})),
        ("STREAM.DELETE.AB_default_EVENTS", Value::Null),
        (
            "STREAM.UPDATE.AB_default_EVENTS",
            json!({"name": "AB_default_EVENTS", "subjects": ["ab.default.>"], "max_age": 1}),
        ),
        ("STREAM.SNAPSHOT.AB_default_EVENTS", json!({"deliver_subject": "_INBOX.cli.backup"})),
    ] {
        assert_eq!(api(&me, verb, body).await, None, "{verb} is not answered");
    }
    assert_eq!(broker.count(&broker.names.events()).await, 1);
}
