//! Every state an event can be in, as `events show` tells it.

use agentbus_tests::installation::signal;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::stage::{Stage, event, of};

#[tokio::test]
async fn an_event_is_followed_from_accepted_to_the_end_for_each_group() {
    let stage = Stage::new().await;
    let (a, b) = (stage.voice("a").await, stage.voice("b").await);
    let id = stage.publish(event("work.one")).await;

    let shown = stage.shown(&id).await;
    assert_eq!((&shown["event"]["id"], &shown["event"]["data"]["n"]), (&json!(id), &json!(1)), "{shown}");
    let groups: Vec<&str> =
        shown["groups"].as_array().unwrap().iter().filter_map(|one| one["group"].as_str()).collect();
    assert_eq!(groups, ["a", "b"]);
    assert_eq!((&of(&shown, "a")["state"], &of(&shown, "b")["state"]), (&json!("accepted"), &json!("accepted")));

    let delivery = a.receive_one("20s").await;
    let status = stage.group_until(&id, "a", "delivered").await;
    assert_eq!((&status["agent"], &status["instance"], &status["attempt"]), (&json!("a"), &json!("a"), &json!(1)));
    assert!(status["since"].is_string() && status["queue_wait_ms"].is_u64(), "{status}");
    assert_eq!(status["attempts"][0]["outcome"], "working");
    assert_eq!(stage.group(&id, "b").await["state"], "accepted", "the other group is where it was");

    a.ack(&delivery).await;
    let status = stage.group_until(&id, "a", "acked").await;
    assert_eq!(status["agent"], "a", "its sidecar remembers: {status}");

    let delivery = b.receive_one("20s").await;
    let refused = b.settle(&delivery, "nack", json!({"retry_after": "1h", "reason": "not today"})).await;
    assert_eq!(refused.status, 200, "{}", refused.body);
    let status = stage.group_until(&id, "b", "retrying").await;
    assert_eq!((&status["attempt"], &status["reason"]), (&json!(2), &json!("not today")), "{status}");
    assert!(status["due"].as_str().unwrap() > status["since"].as_str().unwrap(), "{status}");
    assert_eq!((&status["attempts"][0]["attempt"], &status["attempts"][0]["outcome"]), (&json!(1), &json!("failed")));

    let text = stage.here.run(&["events", "show", &id]).await.stdout;
    for wanted in ["group a: acked by a", "group b: retrying by b, attempt 2", "  due 20", ": not today"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    stage.end().await;
}

#[tokio::test]
async fn a_dead_letter_and_its_redrive_are_told() {
    let stage = Stage::new().await;
    let a = stage.voice("a").await;
    let id = stage.publish(event("work.bad")).await;
    let delivery = a.receive_one("20s").await;
    assert_eq!(a.settle(&delivery, "reject", json!({"reason": "never"})).await.status, 200);
    let status = stage.group_until(&id, "a", "dead").await;
    assert_eq!((&status["class"], &status["reason"]), (&json!("REJECTED"), &json!("never")));
    let letter = status["dead_letter"].to_string();
    assert_eq!(status["attempts"][0]["outcome"], "rejected", "{status}");

    stage.here.json(&["dlq", "redrive", &letter, "--yes"]).await;
    let status = stage.group(&id, "a").await;
    assert_eq!((&status["state"], &status["note"]), (&json!("accepted"), &json!("redriven; not taken yet")));
    let delivery = a.receive_one("20s").await;
    let status = stage.group_until(&id, "a", "delivered").await;
    assert_eq!(status["instance"], "a");
    a.ack(&delivery).await;
    let status = stage.group_until(&id, "a", "acked").await;
    assert_eq!((&status["redriven"]["to"], status["dead_letter"].to_string()), (&json!("group"), letter));
    stage.end().await;
}

#[tokio::test]
async fn expired_unread_caller_made_and_unknown_ids_are_told() {
    let stage = Stage::new().await;
    let a = stage.voice("a").await;
    let late = json!({"to": "work.late", "id": "late?one/7", "ttl": "300ms", "data": 1});
    assert_eq!(stage.publish(late).await, "late?one/7");
    stage.group_until("late?one/7", "a", "expired").await;
    // Pulled, it is dropped: that is written down, and told from an ack.
    assert_eq!(a.receive(1, "300ms").await.len(), 0);
    let status = stage.group_until("late?one/7", "a", "expired").await;
    assert_eq!(stage.group("late?one/7", "b").await["state"], "expired", "{status}");

    let said = stage.here.run(&["events", "show", "nobody-knows"]).await;
    assert_eq!(said.code, 69, "{said:?}");
    assert!(said.stderr.contains("there is no event `nobody-knows`: none of the"), "{said:?}");
    let young = "01990000-0000-7000-8000-000000000000";
    let said = stage.here.run(&["events", "show", young, "--json"]).await;
    assert_eq!(said.code, 69, "{said:?}");
    let said = stage.here.run(&["trace", "nobody-knows"]).await;
    assert!(said.code == 69 && said.stderr.contains("correlation id"), "{said:?}");
    stage.end().await;
}

#[tokio::test]
async fn a_scheduled_event_is_found_by_its_own_id() {
    let stage = Stage::new().await;
    let a = stage.voice("a").await;
    let said = stage.here.run(&["publish", "work.later", "x", "--after", "1s", "--id", "later-1"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let delivery = a.receive_one("20s").await;
    let id = delivery["event"]["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("later-1."), "{delivery}");
    let status = stage.group_until(&id, "a", "delivered").await;
    assert_eq!(status["attempt"], 1);
    assert_eq!(stage.shown(&id).await["event"]["id"], json!(id));
    let chain = stage.here.json(&["trace", &id]).await;
    assert_eq!((chain["events"].as_array().unwrap().len(), &chain["correlation_id"]), (1, &json!(id)), "{chain}");
    stage.end().await;
}

#[tokio::test]
async fn a_group_in_order_retries_in_place_and_the_next_waits() {
    let stage = Stage::new().await;
    let o = stage.voice("o").await;
    let (first, second) = (stage.publish(event("line.one")).await, stage.publish(event("line.two")).await);
    let delivery = o.receive_one("20s").await;
    let refused = o.settle(&delivery, "nack", json!({"retry_after": "1h", "reason": "not yet"})).await;
    assert_eq!(refused.status, 200, "{}", refused.body);
    let status = agentbus_tests::wait::until("a retry with its reason", || async {
        let status = stage.group(&first, "o").await;
        if status["reason"] == "not yet" { Ok(status) } else { Err(status) }
    })
    .await;
    assert_eq!((&status["state"], &status["attempt"]), (&json!("retrying"), &json!(2)), "{status}");
    assert!(status["note"].as_str().is_some_and(|note| note.contains("in place")), "{status}");
    assert_eq!(stage.group(&second, "o").await["state"], "accepted");
    stage.end().await;
}

#[tokio::test]
async fn an_event_sent_to_everybody_again_is_shown_twice() {
    let stage = Stage::new().await;
    let a = stage.voice("a").await;
    let id = stage.publish(event("work.again")).await;
    let delivery = a.receive_one("20s").await;
    assert_eq!(a.settle(&delivery, "reject", json!({"reason": "never"})).await.status, 200);
    let letter = stage.group_until(&id, "a", "dead").await["dead_letter"].to_string();
    stage.here.json(&["dlq", "redrive", &letter, "--to-origin", "--yes"]).await;
    let shown = stage.here.json(&["events", "show", &id]).await;
    let seqs: Vec<u64> = shown["events"].as_array().unwrap().iter().filter_map(|one| one["seq"].as_u64()).collect();
    assert_eq!(seqs, [1, 2], "{shown}");
    let (old, new) = (of(&shown["events"][0], "a"), of(&shown["events"][1], "a"));
    assert_eq!(
        (&old["state"], &old["redriven"]["to"], &new["state"]),
        (&json!("dead"), &json!("origin"), &json!("accepted"))
    );
    stage.end().await;
}

#[tokio::test]
async fn a_sidecar_that_does_not_answer_is_named() {
    let stage = Stage::new().await;
    let a = stage.voice("a").await;
    let id = stage.publish(event("work.held")).await;
    let delivery = a.receive_one("20s").await;
    stage.group_until(&id, "a", "delivered").await;
    let agent: Value = stage.up.agent("a").await;
    let pid = u32::try_from(agent["sidecar_pid"].as_u64().expect("a sidecar")).unwrap();
    signal(pid, Signal::STOP);
    let status = stage.group(&id, "a").await;
    signal(pid, Signal::CONT);
    assert_eq!(status["state"], "unknown", "{status}");
    assert!(status["note"].as_str().is_some_and(|note| note.contains("no answer from a")), "{status}");
    stage.group_until(&id, "a", "delivered").await;
    a.ack(&delivery).await;
    stage.group_until(&id, "a", "acked").await;
    stage.end().await;
}
