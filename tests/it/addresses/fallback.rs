//! `fallback`: another agent reads what an agent that is away is sent, and stops when it is back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentbus_tests::installation::kill9;
use serde_json::{Value, json};

use super::Stage;

fn id(delivery: &Value) -> String {
    delivery["event"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_fallback_takes_over_within_five_seconds_and_hands_back() {
    let stage = Stage::new("", &[("first", ", fallback: second"), ("second", "")]).await;
    let (first, second, me) = (stage.voice("first").await, stage.voice("second").await, stage.up.me());
    let mut sent: BTreeSet<String> = BTreeSet::new();
    let mut done: Vec<String> = Vec::new();
    let mut send = async |name: String| {
        me.publish(json!({"id": name, "to": "@first"})).await;
        sent.insert(name);
    };
    send("held".to_owned()).await;
    assert_eq!(id(&first.receive_one("20s").await), "held");
    send("waiting".to_owned()).await;
    assert!(
        second.receive(1, "1500ms").await.is_empty(),
        "the fallback keeps its hands off while its primary is there"
    );

    stage.here.write("first.gone", "");
    kill9(u32::try_from(stage.up.agent("first").await["pid"].as_u64().expect("a pid")).expect("a pid"));
    let gone = Instant::now();
    for _ in 0..2 {
        let delivery = second.receive_one("20s").await;
        second.ack(&delivery).await;
        done.push(id(&delivery));
        assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    }
    send("meanwhile".to_owned()).await;
    let delivery = second.receive_one("20s").await;
    second.ack(&delivery).await;
    done.push(id(&delivery));

    std::fs::remove_file(stage.here.project.join("first.gone")).expect("removed");
    stage.up.agent_until("first", |agent| agent["state"] == "running").await;
    let end = Instant::now() + Duration::from_secs(60);
    let (mut in_a_row, mut number) = (0, 0);
    while in_a_row < 5 {
        assert!(Instant::now() < end, "the fallback still takes a share after 60 s: {done:?}");
        number += 1;
        send(format!("after-{number}")).await;
        // Both ask at once: while both may, either can be faster.
        let (one, other) = tokio::join!(first.receive(1, "2s"), second.receive(1, "500ms"));
        in_a_row = if other.is_empty() && !one.is_empty() { in_a_row + 1 } else { 0 };
        for (agent, deliveries) in [(&first, one), (&second, other)] {
            for delivery in deliveries {
                agent.ack(&delivery).await;
                done.push(id(&delivery));
            }
        }
    }
    while let Some(delivery) = first.receive(1, "300ms").await.pop() {
        first.ack(&delivery).await;
        done.push(id(&delivery));
    }
    let distinct: BTreeSet<String> = done.iter().cloned().collect();
    assert_eq!(distinct, sent, "nothing is lost");
    assert_eq!(done.len(), sent.len(), "nothing comes twice: {done:?}");
    stage.end().await;
}

#[tokio::test]
async fn an_agent_that_has_exited_for_good_is_taken_over_at_once() {
    let stage = Stage::new("", &[("first", ", fallback: second"), ("second", "")]).await;
    let Stage { here, up } = stage;
    assert_eq!(up.stop().await, 0);
    let yaml = "version: 1\nagents:\n  first: {runner: process, command: ['true'], restart: {policy: never}, fallback: second}\n  ";
    let puppet = super::PUPPET;
    here.write("agentbus.yaml", format!("{yaml}second: {{{puppet}}}\n"));
    std::fs::remove_file(here.project.join("second.env")).expect("removed");
    let up = here.up(&[]).await;
    up.agent_until("first", |agent| agent["state"] == "exited").await;
    let stage = Stage { here, up };
    let second = stage.voice("second").await;
    let said = stage.here.run(&["publish", "@first", "anybody there"]).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let sent = Instant::now();
    let delivery = second.receive_one("20s").await;
    assert!(sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
    assert_eq!(delivery["event"]["to"], "@first");
    second.ack(&delivery).await;
    stage.end().await;
}
