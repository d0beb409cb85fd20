//! `@agent`: its own inbox without any subscription, the refusals, and the `exec` runner.

use agentbus_tests::wait::until;
use serde_json::json;

use super::Stage;

#[tokio::test]
async fn an_agent_gets_what_is_sent_to_it_without_subscribing() {
    let stage = Stage::new("", &[("asker", ", publish: ['@helper', '@me']"), ("helper", "")]).await;
    let (asker, helper) = (stage.voice("asker").await, stage.voice("helper").await);
    asker.publish(json!({"id": "1", "to": "@helper", "type": "help.wanted.v1", "data": "typed"})).await;
    asker.publish(json!({"id": "2", "to": "@helper", "data": "plain"})).await;
    for (id, data) in [("1", "typed"), ("2", "plain")] {
        let delivery = helper.receive_one("20s").await;
        let event = &delivery["event"];
        assert_eq!((&event["id"], &event["to"], &event["source"]), (&json!(id), &json!("@helper"), &json!("asker")));
        assert_eq!(event["data"], data);
        helper.ack(&delivery).await;
    }
    assert!(asker.receive(1, "100ms").await.is_empty(), "an inbox is its owner's alone");
    asker.publish(json!({"id": "3", "to": "@me", "data": "done"})).await;
    let said = stage.here.json(&["receive", "--wait", "20s", "--ack"]).await;
    assert_eq!(said["deliveries"][0]["event"]["id"], "3", "{said}");
    stage.end().await;
}

#[tokio::test]
async fn an_undeclared_or_forbidden_address_is_refused_by_name() {
    let stage = Stage::new("channels: [eng]\n", &[("asker", ", publish: ['@helper', '#eng']"), ("helper", "")]).await;
    let asker = stage.voice("asker").await;
    let check = async |to: &str, status: u16, code: &str, words: &str| {
        let answer = asker.post("/v1/publish", &json!({"to": to})).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{to}: {}", answer.body);
        assert!(answer.body["detail"].as_str().is_some_and(|text| text.contains(words)), "{}", answer.body);
    };
    check("@helpr", 400, "INVALID_ADDRESS", "did you mean `@helper`?").await;
    check("#engineering", 400, "INVALID_ADDRESS", "declared are #eng, #all").await;
    check("@me", 403, "SCOPE_DENIED", "may not publish to `@me`").await;
    check("#all", 403, "SCOPE_DENIED", "may not publish to `#all`").await;
    let join = json!({"patterns": ["@helper"], "group": "spies"});
    let spied = asker.post("/v1/subscriptions", &join).await;
    assert_eq!((spied.status, &spied.body["code"]), (403, &json!("SCOPE_DENIED")), "{}", spied.body);
    let said = stage.here.run(&["publish", "@helpr", "x"]).await;
    assert_eq!(said.code, 65, "{}", said.stderr);
    assert!(said.stderr.contains("INVALID_ADDRESS") && said.stderr.contains("`@helper`"), "{}", said.stderr);
    let stored = stage.here.json(&["publish", "@helper", "x", "--type", "1.2.3.4.5.6.7.8.9"]).await;
    assert_eq!(stored["stored"], "broker");
    let long = stage.here.run(&["publish", "@helper", "x", "--type", "1.2.3.4.5.6.7.8.9.10"]).await;
    assert!(long.code == 65 && long.stderr.contains("17 tokens"), "{}", long.stderr);
    stage.end().await;
}

#[tokio::test]
async fn a_program_run_per_event_gets_direct_events_and_its_failures_can_be_redriven() {
    let here = agentbus_tests::Installation::new().await;
    let script = r#"test -e fixed || exit 100; echo "$AGENTBUS_EVENT_TO $AGENTBUS_EVENT_TYPE $(cat)" >> got"#;
    let agents = format!("  worker: {{runner: exec, command: [sh, -c, '{script}']}}\n");
    here.write("agentbus.yaml", format!("version: 1\nagents:\n{agents}"));
    let up = here.up(&[]).await;
    here.json(&["publish", "@worker", "\"hello\"", "--type", "greeting.v1"]).await;
    let letter = until("a dead letter", || async {
        let letters = here.json(&["dlq", "list"]).await;
        let all = letters.as_array().or_else(|| letters["dead_letters"].as_array()).cloned().unwrap_or_default();
        all.into_iter().next().ok_or(letters)
    })
    .await;
    assert_eq!(letter["group"], "worker--inbox", "{letter}");
    here.write("fixed", "");
    let said = here.run(&["dlq", "redrive", "--all", "--to-origin", "--yes"]).await;
    assert_eq!(said.code, 0, "{} {}", said.stdout, said.stderr);
    let got = until("the program's words", || async { std::fs::read_to_string(here.project.join("got")) }).await;
    assert_eq!(got.trim(), "@worker greeting.v1 \"hello\"");
    assert_eq!(up.stop().await, 0);
}
