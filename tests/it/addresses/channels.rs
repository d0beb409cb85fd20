//! `#channel` and `#all`: every subscriber gets everything, in order.

use std::collections::BTreeSet;

use agentbus_nats::grant::{Directory, GroupGrant};
use agentbus_tests::broker::group;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::json;

use super::Stage;

#[tokio::test]
async fn a_broadcast_reaches_every_agent_and_the_person() {
    let channel = ", subscribe: ['#eng']";
    let agents = [("one", channel), ("two", ", subscribe: [note.>]"), ("loud", ", publish: ['#all', '#eng']")];
    let stage = Stage::new("channels: {eng: {}}\n", &agents).await;
    let loud = stage.voice("loud").await;
    loud.publish(json!({"id": "all-1", "to": "#all", "data": 1})).await;
    loud.publish(json!({"id": "eng-1", "to": "#eng", "type": "build.broken.v1", "data": 2})).await;
    for (name, wanted) in [("one", &["all-1", "eng-1"][..]), ("two", &["all-1"]), ("loud", &["all-1"])] {
        let agent = stage.voice(name).await;
        for id in wanted {
            let delivery = agent.receive_one("20s").await;
            assert_eq!(delivery["event"]["id"], *id, "{name}");
            agent.ack(&delivery).await;
        }
        assert!(agent.receive(1, "100ms").await.is_empty(), "{name}");
    }
    let me = stage.up.me();
    let delivery = me.receive_one("20s").await;
    assert_eq!(delivery["event"]["to"], "#all");
    me.ack(&delivery).await;
    // The person may listen to any channel; an undeclared one is named.
    let said = stage.here.run(&["subscribe", "#engine", "--max", "1"]).await;
    assert!(said.code == 65 && said.stderr.contains("no channel `#engine` is declared"), "{}", said.stderr);
    let waiting = stage.here.agentbus(&["subscribe", "#eng", "--group", "ears", "--max", "1", "--json"]);
    let waiting = tokio::spawn(agentbus_tests::installation::finish(waiting, None));
    agentbus_tests::wait::until("the group", || async {
        let groups = stage.here.json(&["status"]).await["groups"].clone();
        let there = groups.as_array().is_some_and(|all| all.iter().any(|one| one["group"] == "ears"));
        if there { Ok(()) } else { Err(groups) }
    })
    .await;
    let said = stage.here.run(&["publish", "#eng", "ping"]).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let heard = waiting.await.expect("ended");
    assert!(heard.code == 0 && heard.stdout.contains("ping"), "{} {}", heard.stdout, heard.stderr);
    stage.end().await;
}

/// Members of one channel.
async fn ears(broker: &Broker, agent: &str) -> (GroupGrant, SidecarProcess) {
    let wanted = GroupGrant { ordered: true, ..group(&format!("{agent}--channels"), &["#eng"]) };
    let group = broker.group_with(wanted).await;
    let channels: BTreeSet<String> = ["eng".to_owned()].into();
    let directory = Directory { channels, ..Directory::default() };
    let groups = [group.clone()];
    let member = Member { agent, groups: &groups, publish: &["#eng"], directory, ..Member::default() };
    (group, SidecarProcess::start(broker, member).await)
}

#[tokio::test]
async fn a_channel_is_first_in_first_out_for_each_subscriber_even_after_failures() {
    const COUNT: usize = 30;
    let broker = Broker::start().await;
    let (one, first) = ears(&broker, "one").await;
    let (_, second) = ears(&broker, "two").await;
    let speaker = HttpAgent::of(&first);
    for n in 0..COUNT {
        speaker.publish(json!({"to": "#eng", "data": n})).await;
    }
    for (sidecar, fails) in [(&first, true), (&second, false)] {
        let agent = HttpAgent::of(sidecar);
        let (mut done, mut failed) = (Vec::new(), 0);
        while done.len() < COUNT {
            let delivery = agent.receive_one("20s").await;
            let n = delivery["event"]["data"].as_u64().expect("a number");
            if fails && n % 7 == 3 && delivery["attempt"] == 1 {
                failed += 1;
                agent.settle(&delivery, "nack", json!({"retry_after": "50ms"})).await;
                continue;
            }
            agent.ack(&delivery).await;
            done.push(n);
        }
        let wanted: Vec<u64> = (0..COUNT as u64).collect();
        assert_eq!(done, wanted);
        assert_eq!(failed > 0, fails);
    }
    broker.settled(&one.name).await;
}
