//! The story of a chain over three agents, with a retry and a dead letter.

use serde_json::{Value, json};

use super::stage::{Stage, event, of};

#[tokio::test]
async fn a_chain_is_told_from_the_first_event_to_the_dead_letter() {
    let stage = Stage::new().await;
    let (a, c, d) = (stage.voice("a").await, stage.voice("c").await, stage.voice("d").await);
    let id = stage.publish(event("work.start")).await;
    let delivery = a.receive_one("20s").await;
    let emitted = a.settle(&delivery, "ack", json!({"emit": [{"to": "made.it", "data": 2}]})).await;
    assert_eq!(emitted.status, 200, "{}", emitted.body);
    let delivery = c.receive_one("20s").await;
    assert_eq!(c.settle(&delivery, "nack", json!({"reason": "busy"})).await.status, 200);
    let delivery = c.receive_one("20s").await;
    assert_eq!(delivery["attempt"], 2);
    assert_eq!(c.settle(&delivery, "ack", json!({"emit": [{"to": "final.word"}]})).await.status, 200);
    let delivery = d.receive_one("20s").await;
    assert_eq!(d.settle(&delivery, "reject", json!({"reason": "cannot read"})).await.status, 200);

    let chain = agentbus_tests::wait::until("a chain with its dead letter", || async {
        let chain = stage.here.json(&["trace", &id]).await;
        let events = chain["events"].as_array().cloned().unwrap_or_default();
        let dead = events.get(2).is_some_and(|last| of(last, "d")["state"] == "dead");
        if dead && of(&events[1], "c")["attempts"].as_array().is_some_and(|all| all.len() == 2) {
            Ok(chain)
        } else {
            Err(chain)
        }
    })
    .await;
    let events = chain["events"].as_array().unwrap();
    assert_eq!((&chain["correlation_id"], &chain["complete"], events.len()), (&json!(id), &json!(true), 3), "{chain}");
    let to: Vec<&str> = events.iter().filter_map(|event| event["event"]["to"].as_str()).collect();
    assert_eq!(to, ["work.start", "made.it", "final.word"]);
    assert_eq!(events[0]["event"]["data"], Value::Null, "a chain is told without data");
    assert!(events[0]["event"].get("data_base64").is_none(), "left out is not empty: {chain}");

    let first = of(&events[0], "a");
    assert_eq!(
        (&first["state"], &first["agent"], &first["attempt"]),
        (&json!("acked"), &json!("a"), &json!(1)),
        "{first}"
    );
    assert!(first["queue_wait_ms"].is_u64(), "the emitted event tells when its cause was handed out: {first}");
    let tried = &first["attempts"][0];
    assert!(tried["handed"].is_string() && tried["ended"].is_string() && tried["inferred"] == true, "{first}");
    assert_eq!(of(&events[0], "b")["state"], "accepted", "{chain}");

    let second = of(&events[1], "c");
    let outcomes: Vec<&str> =
        second["attempts"].as_array().unwrap().iter().filter_map(|one| one["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["failed", "acked"], "{second}");
    assert_eq!((&second["attempts"][0]["reason"], &second["attempt"]), (&json!("busy"), &json!(2)), "{second}");
    assert!(second["attempts"][0]["handed"].is_string(), "a failed try leaves a receipt: {second}");
    let third = of(&events[2], "d");
    assert_eq!((&third["class"], &third["reason"]), (&json!("REJECTED"), &json!("cannot read")), "{third}");

    // By any event of it, with the same events; and as a picture.
    let last = events[2]["event"]["id"].as_str().unwrap();
    let same = stage.here.json(&["trace", last]).await;
    assert_eq!(same["events"].as_array().map(Vec::len), Some(3), "{same}");
    let mut drawn = stage.here.agentbus(&["trace", &id]);
    drawn.env("COLUMNS", "80");
    let drawn = String::from_utf8(drawn.output().await.unwrap().stdout).unwrap();
    assert!(drawn.lines().all(|line| line.chars().count() <= 80) && !drawn.contains('\u{1b}'), "{drawn}");
    for wanted in [
        " 1 work.start from me",
        " 2   made.it from a",
        " 3     final.word from c",
        "c acked, attempt 2",
        "attempt 1 failed: busy",
        "d dead",
        "█",
        "✓",
        "✗",
    ] {
        assert!(drawn.contains(wanted), "{wanted}\n{drawn}");
    }
    stage.end().await;
}

#[tokio::test]
async fn a_receipt_tells_who_acked_and_when() {
    let stage = Stage::new().await;
    let a = stage.voice("a").await;
    let said = stage.here.run(&["publish", "work.seen", "1", "--id", "seen-1", "--receipt"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let id = "seen-1";
    let delivery = a.receive_one("20s").await;
    a.ack(&delivery).await;
    let status = agentbus_tests::wait::until("a receipt", || async {
        let status = stage.group(id, "a").await;
        if status["attempts"][0]["ended"].is_string() { Ok(status) } else { Err(status) }
    })
    .await;
    let tried = &status["attempts"][0];
    assert_eq!((&tried["agent"], &tried["outcome"], &tried["inferred"]), (&json!("a"), &json!("acked"), &Value::Null));
    assert!(status["since"] == tried["ended"] && status["queue_wait_ms"].is_u64(), "{status}");
    // The stream that was made for it is no stranger.
    let plan = stage.here.json(&["streams", "plan"]).await;
    let steps = plan.as_array().cloned().unwrap_or_default();
    let receipts = steps.iter().find(|step| step["name"] == "AB_default_RECEIPTS");
    assert_eq!(receipts.map(|step| step["action"].clone()), Some(json!("same")), "{plan}");
    assert!(!steps.iter().any(|step| step["action"] == "unknown"), "{plan}");
    stage.end().await;
}
