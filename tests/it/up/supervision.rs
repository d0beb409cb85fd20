//! Processes that die: started again, or given up, and always said why; what they held comes back.

use std::time::{Duration, Instant};

use agentbus_tests::http::HttpAgent;
use agentbus_tests::installation::kill9;
use agentbus_tests::wait::{until, until_within};
use agentbus_tests::{Installation, Up};
use serde_json::{Value, json};

/// An agent that says where its sidecar is and then lets the test speak in its place.
const PUPPET: &str = "
version: 1
defaults: {retry: {initial: 200ms, max: 1s}}
agents:
  puppet:
    runner: process
    command: [sh, -c, 'echo \"$AGENTBUS_URL $AGENTBUS_TOKEN\" > env.tmp; mv env.tmp env; exec sleep 1000']
    subscribe: [note.>]
    publish: [note.>]
";

async fn puppet() -> (Installation, Up, HttpAgent) {
    let here = Installation::new().await;
    here.write("agentbus.yaml", PUPPET);
    let up = here.up(&[]).await;
    up.all_running().await;
    let agent = voice(&here).await;
    (here, up, agent)
}

/// What the puppet was told about its sidecar.
async fn voice(here: &Installation) -> HttpAgent {
    let text = until("the agent's first words", || async { std::fs::read_to_string(here.project.join("env")) }).await;
    let (url, token) = text.trim().split_once(' ').expect("url and token");
    HttpAgent { address: url.trim_start_matches("http://").to_owned(), token: token.to_owned() }
}

fn pid(agent: &Value, key: &str) -> u32 {
    agent[key].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("no {key} in {agent}"))
}

#[tokio::test]
async fn what_a_killed_agent_held_comes_back_at_once() {
    let (here, up, agent) = puppet().await;
    up.me().publish(json!({"id": "held", "to": "note.made", "data": 1})).await;
    let first = agent.receive_one("20s").await;
    let killed = Instant::now();
    kill9(pid(&up.agent("puppet").await, "pid"));
    let again = agent.receive_one("20s").await;
    assert_eq!(again["event"]["id"], first["event"]["id"]);
    // The broker would have waited 10 s, the lease 60 s.
    assert!(killed.elapsed() < Duration::from_secs(7), "{:?}", killed.elapsed());
    agent.ack(&again).await;
    let old = agent.settle(&first, "ack", json!({})).await;
    assert!(matches!(old.status, 200 | 409), "{} {}", old.status, old.body);
    let restarted = up.agent_until("puppet", |agent| agent["state"] == "running" && agent["restarts"] == 1).await;
    assert_eq!(restarted["last_exit"], "killed by SIGKILL", "{restarted}");
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_killed_sidecar_comes_back_at_the_same_place_with_the_same_token() {
    let (here, up, agent) = puppet().await;
    let before = up.agent("puppet").await;
    up.me().publish(json!({"id": "held", "to": "note.made", "data": 1})).await;
    let held = agent.receive_one("20s").await;
    kill9(pid(&before, "sidecar_pid"));
    kill9(pid(&up.agent("me").await, "sidecar_pid"));
    let after = up.agent_until("puppet", |agent| agent["sidecar_restarts"] == 1 && agent["sidecar_pid"].is_u64()).await;
    assert_eq!((&after["url"], &after["pid"]), (&before["url"], &before["pid"]), "the agent was left in peace");
    assert!(after["last_exit"].as_str().is_some_and(|why| why.contains("sidecar: killed by SIGKILL")), "{after}");
    // The old id still counts: it is sealed with the token, and the token is the same.
    let acked = until_within("an ack by the new sidecar", Duration::from_secs(20), || async {
        let answer = agentbus_tests::http::request(
            &agent.address,
            "POST",
            &format!("/v1/deliveries/{}/ack", held["delivery_id"].as_str().unwrap_or_default()),
            &[("authorization", format!("Bearer {}", agent.token))],
            "{}".into(),
        )
        .await;
        match answer {
            Ok(answer) if answer.status == 200 => Ok(answer),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(acked.status, 200);
    // So does the person's.
    until("the person's sidecar", || async {
        let said = here.run(&["publish", "note.made", "2"]).await;
        if said.code == 0 { Ok(()) } else { Err(said) }
    })
    .await;
    let next = agent.receive_one("20s").await;
    assert_eq!(next["event"]["data"], 2);
    agent.ack(&next).await;
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn an_agent_that_keeps_dying_is_given_up_and_status_says_so_and_why() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  bad: {runner: process, command: [sh, -c, 'echo oh no >&2; exit 3'], restart: {policy: always, max: 2, per: 10m}}
  missing: {runner: process, command: [no-such-program], restart: {policy: on-failure, max: 1, per: 10m}}
  done: {runner: process, command: ['true'], restart: {policy: on-failure}}
  once: {runner: process, command: ['false'], restart: {policy: never}}
  good: {runner: process, command: [sleep, '1000']}
",
    );
    let up = here.up(&[]).await;
    let bad = up.agent_until("bad", |agent| agent["state"] == "crashlooping").await;
    assert_eq!((&bad["restarts"], &bad["last_exit"], &bad["pid"]), (&json!(2), &json!("exit code 3"), &Value::Null));
    assert!(bad["sidecar_pid"].is_u64(), "its sidecar stays: {bad}");
    let missing = up.agent_until("missing", |agent| agent["state"] == "crashlooping").await;
    assert_eq!(missing["restarts"], 1, "{missing}");
    for (name, cause) in [("done", "exit code 0"), ("once", "exit code 1")] {
        let agent = up.agent_until(name, |agent| agent["state"] == "exited").await;
        assert_eq!((&agent["restarts"], &agent["last_exit"]), (&json!(0), &json!(cause)), "{agent}");
    }
    assert_eq!(up.agent("good").await["state"], "running");
    let said = here.run(&["status"]).await;
    let line = said.stdout.lines().find(|line| line.starts_with("bad ")).unwrap_or_else(|| panic!("{}", said.stdout));
    assert!(line.contains("crashlooping") && line.contains("exit code 3"), "{line}");
    let logs = here.run(&["logs", "bad"]).await;
    assert_eq!(logs.stdout.matches("oh no").count(), 3, "{}", logs.stdout);
    let logs = here.run(&["logs", "missing"]).await;
    assert!(logs.stdout.contains("no-such-program"), "the log says why: {}", logs.stdout);
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn the_pauses_between_restarts_grow() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  bad: {runner: process, command: [sh, -c, 'date +%s.%N >> starts; exit 1'], env: {pass: [PATH]}, restart: {policy: always, max: 3, per: 10m}}
",
    );
    let up = here.up(&[]).await;
    up.agent_until("bad", |agent| agent["state"] == "crashlooping").await;
    let starts: Vec<f64> = std::fs::read_to_string(here.project.join("starts"))
        .expect("starts")
        .lines()
        .map(|line| line.parse().expect("seconds"))
        .collect();
    let pauses: Vec<f64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() == 3 && pauses[0] > 0.05 && pauses[2] > pauses[0] * 1.5, "{pauses:?}");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn a_restart_of_everything_loses_no_group_and_no_event() {
    let here = Installation::new().await;
    let up = here.up(&[]).await;
    let nothing = here.json(&["receive", "note.>", "--group", "readers", "--wait", "1ms"]).await;
    assert_eq!(nothing["deliveries"], json!([]));
    assert_eq!(here.run(&["publish", "note.made", "kept"]).await.code, 0);
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;

    let up = here.up(&[]).await;
    let status: Value = up.api("/v1/status").await;
    let group = &status["groups"][0];
    let waiting: u64 = ["lag", "in_flight", "retrying"].iter().filter_map(|key| group[key].as_u64()).sum();
    assert_eq!((&group["group"], waiting), (&json!("readers"), 1), "{status}");
    let got = here.json(&["receive", "note.>", "--group", "readers", "--ack"]).await;
    assert_eq!(got["deliveries"][0]["attempt"], 1, "nobody saw it before: {got}");
    assert_eq!(got["deliveries"][0]["event"]["data"], "kept", "{got}");
    let got = here.json(&["receive", "note.>", "--group", "readers", "--wait", "1s"]).await;
    assert_eq!(got["deliveries"], json!([]), "acked is acked");

    // Killed this time: what was accepted is there all the same.
    assert_eq!(here.run(&["publish", "note.made", "kept too"]).await.code, 0);
    up.kill().await;
    here.nothing_runs().await;
    let up = here.up(&[]).await;
    let got = here.json(&["receive", "note.>", "--group", "readers", "--ack"]).await;
    assert_eq!(got["deliveries"][0]["event"]["data"], "kept too", "{got}");
    assert_eq!(up.stop().await, 0);
}
