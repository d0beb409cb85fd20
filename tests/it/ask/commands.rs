//! `agentbus ask`, and `exec` agents that answer.

use agentbus_tests::Installation;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::installation::finish;
use agentbus_tests::wait::until;
use serde_json::{Value, json};

use super::world::{next_ask, reply};

const PROJECT: &str = "version: 1\ndefaults: {retry: {initial: 100ms, max: 200ms}}\nagents:\n  \
     sums: {runner: exec, command: [sh, sums.sh], subscribe: [sums.wanted]}\n  \
     copies: {runner: exec, command: [sh, copies.sh], output: events, publish: [copied]}\n  \
     gone: {runner: process, command: ['true'], restart: {policy: never}}\n  \
     voice: {runner: process, command: [sh, -c, 'echo \"$AGENTBUS_URL $AGENTBUS_TOKEN\" > voice.env; exec sleep 1000']}\n";

/// Answers with what stdin comes to; `again` is too early the first time, `no` never, `slow` late.
const SUMS: &str = r#"read -r line
case "$line" in
  no) echo "that is no sum" >&2; exit 65 ;;
  again) test -e again || { touch again; exit 75; }; echo "at last" ;;
  slow) sleep 30 ;;
  json) echo '{"sum": 3}' ;;
  *) echo $(($line)) ;;
esac
"#;

async fn installation() -> (Installation, agentbus_tests::Up) {
    let here = Installation::new().await;
    here.write("agentbus.yaml", PROJECT);
    here.write("sums.sh", SUMS);
    here.write("copies.sh", "read -r line; echo \"{\\\"to\\\":\\\"copied\\\",\\\"data\\\":\\\"$line\\\"}\"\n");
    let up = here.up(&[]).await;
    until("an agent that is gone", || async {
        let agents: Value = up.api("/v1/agents").await;
        let gone = agents["agents"].as_array().unwrap().iter().find(|one| one["agent"] == "gone").cloned().unwrap();
        if gone["state"] == "exited" { Ok(()) } else { Err(gone) }
    })
    .await;
    (here, up)
}

#[tokio::test]
async fn a_question_on_the_command_line_is_answered_by_a_program() {
    let (here, up) = installation().await;
    let said = here.run(&["ask", "@sums", "1 + 2"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "3\n"), "{}", said.stderr);
    let said = here.run_with(&["ask", "sums.wanted", "-", "--type", "sum.wanted.v1"], b"20 + 22").await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "42\n"), "{}", said.stderr);
    let answer = here.json(&["ask", "@sums", "json"]).await;
    assert_eq!((&answer["final"], &answer["reply"]["data"]["sum"]), (&json!(true), &json!(3)), "{answer}");
    let said = here.run(&["ask", "@sums", "again", "--timeout", "30s"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "at last\n"), "a nack is no answer: {}", said.stderr);
    // An agent that publishes says with an empty reply that it is done.
    let answer = here.json(&["ask", "@copies", "this"]).await;
    assert_eq!((&answer["final"], &answer["reply"]["data"]), (&json!(true), &Value::Null), "{answer}");
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn exit_codes_tell_no_from_nobody_from_too_late() {
    let (here, up) = installation().await;
    let check = async |args: &[&str], code: i32, words: &str| {
        let said = here.run(&[&["ask"], args].concat()).await;
        assert_eq!(said.code, code, "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains(words) && said.stdout.is_empty(), "{args:?}: {}{}", said.stdout, said.stderr);
    };
    check(&["@sums", "no"], 1, "REPLY_FAILED: `@sums` replied REJECTED: exit 65: that is no sum").await;
    check(&["@gone", "hello"], 69, "NO_RESPONDER: nobody serves `@gone` now: gone is exited").await;
    check(&["nothing.reads.this", "hello"], 69, "no group subscribes to it").await;
    check(&["@summs", "hello"], 65, "did you mean `@sums`?").await;
    check(&["@sums", "slow", "--timeout", "300ms"], 124, "REPLY_TIMEOUT").await;
    check(&["@sums", "x", "--timeout", "soon"], 65, "--timeout").await;
    let said = here.run(&["ask", "@gone", "x", "--json"]).await;
    let problem: Value = serde_json::from_str(&said.stderr).expect("a problem object");
    assert_eq!((said.code, &problem["code"], &problem["exit"]), (69, &json!("NO_RESPONDER"), &json!(69)));
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn pieces_are_printed_as_they_come() {
    let (here, up) = installation().await;
    let file = here.project.join("voice.env");
    let text = until("the agent's first words", || async {
        std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')).ok_or(())
    })
    .await;
    let (url, token) = text.trim().split_once(' ').expect("url and token");
    let voice = HttpAgent { address: url.trim_start_matches("http://").to_owned(), token: token.to_owned() };
    for (args, wanted) in [
        (&["ask", "@voice", "?", "--stream"][..], "one two\n"),
        (&["ask", "@voice", "?"], "one two\n"),
        (&["ask", "@voice", "?", "--stream", "--json"], ""),
    ] {
        let asking = tokio::spawn(finish(here.agentbus(args), None));
        let delivery = next_ask(&voice).await;
        reply(&voice, &delivery, json!({"data": "one ", "content_type": "text/plain", "more": true})).await;
        reply(&voice, &delivery, json!({"data": "two", "content_type": "text/plain"})).await;
        let said = asking.await.expect("ended");
        assert_eq!(said.code, 0, "{args:?}: {}", said.stderr);
        if wanted.is_empty() {
            let lines: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!((lines.len(), &lines[1]["final"]), (2, &json!(true)), "{}", said.stdout);
        } else {
            assert_eq!(said.stdout, wanted, "{args:?}");
        }
    }
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}
