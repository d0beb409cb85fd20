//! `up --memory`: the same bus without a broker.

use serde_json::json;

use super::audit::{self, ONCE};
use agentbus_tests::Installation;
use agentbus_tests::wait::until;

#[tokio::test]
async fn the_demo_gives_the_same_report_without_a_broker() {
    let here = audit::awkward().await;
    let with = here.run(&[&["up"], &ONCE[..]].concat()).await;
    let without = here.run(&[&["up", "--memory"], &ONCE[..]].concat()).await;
    assert_eq!((with.code, without.code), (0, 0), "{}", without.stderr);
    assert_eq!(audit::result(&without.stdout)["totals"], audit::result(&with.stdout)["totals"]);
    assert!(without.stderr.contains("no broker, and nothing on it survives"), "{}", without.stderr);
    assert!(!without.stderr.contains("nats-server"), "{}", without.stderr);
    assert_eq!(here.processes(), []);
}

#[tokio::test]
async fn a_bus_in_memory_is_used_like_any_other_and_forgets_with_its_process() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "version: 1
broker: {mode: memory}
agents:
  fails: {runner: exec, command: [sh, -c, 'exit 65'], subscribe: [notes.created]}
",
    );
    let up = here.up(&[]).await;
    assert!(!here.processes().iter().any(|process| process.command.contains("nats-server")));
    let stored = here.json(&["publish", "notes.created", "hello"]).await;
    assert_eq!((&stored["seq"], &stored["stored"]), (&json!(1), &json!("broker")), "{stored}");
    let letter = until("a dead letter", || async {
        let letters = here.json(&["dlq", "list"]).await;
        letters.get(0).cloned().ok_or(letters)
    })
    .await;
    assert_eq!(letter["class"], "REJECTED", "{letter}");
    let status = here.run(&["status"]).await;
    assert!(status.code == 0 && status.stdout.contains("the bus is in memory"), "{}{}", status.stdout, status.stderr);
    let env = here.run(&["env"]).await;
    assert!(env.stdout.contains("AGENTBUS_URL=") && !env.stdout.contains("NATS_"), "{}", env.stdout);
    assert!(env.stderr.contains("there is no broker"), "{}", env.stderr);
    up.kill().await;

    let up = here.up(&[]).await;
    let again = here.json(&["publish", "other.topic", "hello"]).await;
    assert_eq!(again["seq"], 1, "nothing of the first bus is left");
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}
