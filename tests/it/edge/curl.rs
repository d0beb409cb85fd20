//! The contract's examples with curl itself: what a person types works as it is written.

use std::process::Stdio;

use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::{Value, json};
use tokio::process::Command;

/// Runs a shell line with the variables that `agentbus env` sets; its output as JSON.
async fn sh(sidecar: &SidecarProcess, line: &str) -> Value {
    let mut command = Command::new("sh");
    command.args(["-euc", line]).stderr(Stdio::inherit());
    command.env("AGENTBUS_URL", &sidecar.url).env("AGENTBUS_TOKEN", &sidecar.token).env("no_proxy", "*");
    let output = command.output().await.expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{line}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

#[tokio::test]
async fn the_examples_of_the_contract_work_with_curl() {
    let broker = Broker::start().await;
    let groups = [broker.group("readers", &["notes.>"]).await];
    let path = broker.dir.path().join("s.sock");
    let unix = path.to_str();
    let member = Member { agent: "me", groups: &groups, publish: &["notes.>"], unix, ..Member::default() };
    let sidecar = SidecarProcess::start(&broker, member).await;
    const CURL: &str = r#"curl -sS -H "Authorization: Bearer $AGENTBUS_TOKEN""#;

    let join = format!(r#"{CURL} "$AGENTBUS_URL/v1/subscriptions" -d '{{"patterns":["notes.>"],"group":"readers"}}'"#);
    assert_eq!(sh(&sidecar, &join).await, json!({"group": "readers", "groups": ["readers"]}));
    let publish = format!(
        r#"{CURL} "$AGENTBUS_URL/v1/publish" -d '{{"to":"notes.created","data":{{"text":"hello"}},"ttl":"1h"}}'"#
    );
    assert_eq!(sh(&sidecar, &publish).await["stored"], "broker");
    let receive = format!(r#"{CURL} "$AGENTBUS_URL/v1/receive" -d '{{"max":1,"wait":"20s"}}'"#);
    let delivery = sh(&sidecar, &receive).await["deliveries"][0].clone();
    assert_eq!(delivery["event"]["data"], json!({"text": "hello"}));
    let id = delivery["delivery_id"].as_str().unwrap();
    let ack = format!(r#"{CURL} -X POST "$AGENTBUS_URL/v1/deliveries/{id}/ack""#);
    assert_eq!(sh(&sidecar, &ack).await, json!({"delivery_id": id}));
    let socket = path.display();
    let by_socket = format!(r#"{CURL} --unix-socket {socket} http://localhost/v1/publish -d '{{"to":"notes.unix"}}'"#);
    assert_eq!(sh(&sidecar, &by_socket).await["seq"], 2);
    let openapi = sh(&sidecar, &format!(r#"{CURL} "$AGENTBUS_URL/openapi.json""#)).await;
    assert_eq!(openapi["openapi"], "3.1.0");
    let large =
        format!(r#"head -c 4000000 /dev/zero | tr '\0' x | {CURL} "$AGENTBUS_URL/v1/publish" --data-binary @- -w '' "#);
    assert_eq!(sh(&sidecar, &large).await["code"], "TOO_LARGE");
}
