//! The control plane on the bus: status, replay, redrive.

use agentbus_tests::broker::group;
use agentbus_tests::wait::until;
use serde_json::{Value, json};

use super::stage::{Control, Kind, Stage};

const AGENTS: &str = "  writer: {runner: process, command: [none], publish: ['>']}
  live: {runner: process, command: [none], subscribe: [note.>]}
";

impl Control {
    async fn get(&self, path: &str) -> Value {
        self.api.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.api.post(path, &body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The state of an event in a group.
    async fn state(&self, id: &str, group: &str) -> String {
        let shown = self.get(&format!("/v1/events/{id}")).await;
        let groups = shown["events"][0]["groups"].as_array().cloned().unwrap_or_default();
        let ours = groups.iter().find(|status| status["group"] == group);
        ours.and_then(|status| status["state"].as_str()).unwrap_or_default().to_owned()
    }
}

pub async fn the_status_of_an_event_is_told_per_group(kind: Kind) {
    let stage = Stage::new(kind).await;
    let control = stage.control(AGENTS).await;
    let writer = stage.agent("writer", "writer", &[]).await;
    let live = stage.agent("live", "live", &[group("live", &["note.>"])]).await;
    let stored = writer.http.publish(json!({"to": "note.made", "data": "x"})).await;
    let id = stored["id"].as_str().unwrap();
    assert_eq!(control.state(id, "live").await, "accepted");
    let got = live.http.receive_one("10s").await;
    live.http.ack(&got).await;
    until("acked", || async {
        let state = control.state(id, "live").await;
        if state == "acked" { Ok(()) } else { Err(state) }
    })
    .await;
    let chain = control.get(&format!("/v1/chains/{id}")).await;
    assert_eq!(chain["events"].as_array().map(Vec::len), Some(1), "{chain}");
}

pub async fn a_replay_reaches_the_group_it_is_for(kind: Kind) {
    let stage = Stage::new(kind).await;
    let control = stage.control(AGENTS).await;
    let writer = stage.agent("writer", "writer", &[]).await;
    let live = stage.agent("live", "live", &[group("live", &["note.>"])]).await;
    for n in 0..3 {
        writer.http.publish(json!({"to": "note.made", "data": n.to_string()})).await;
        live.http.ack(&live.http.receive_one("10s").await).await;
    }
    stage.settled("live").await;
    let report = control
        .post("/v1/replay", json!({"patterns": ["note.>"], "from_seq": 2, "to_group": "live", "speed": 0}))
        .await;
    assert_eq!(report["copied"], 2, "{report}");
    let mut again = Vec::new();
    for _ in 0..2 {
        let got = live.http.receive_one("10s").await;
        again.push(got["event"]["data"].as_str().unwrap_or_default().to_owned());
        live.http.ack(&got).await;
    }
    again.sort();
    assert_eq!(again, ["1", "2"]);
    stage.settled("live").await;
}

pub async fn a_redriven_dead_letter_is_delivered_again(kind: Kind) {
    let stage = Stage::new(kind).await;
    let control = stage.control(AGENTS).await;
    let live = stage.agent("live", "live", &[group("live", &["note.>"])]).await;
    live.http.publish(json!({"to": "note.made", "data": "x", "id": "e-1"})).await;
    let got = live.http.receive_one("10s").await;
    live.http.settle(&got, "reject", json!({"reason": "never"})).await;
    stage.letters(1).await;
    let listed = control.get("/v1/dead-letters").await;
    assert_eq!(listed["letters"][0]["cause"], "never", "{listed}");
    let report = control.post("/v1/dead-letters/redrive", json!({"seqs": [1]})).await;
    let again = live.http.receive_one("10s").await;
    assert_eq!((&again["event"]["id"], again["attempt"].as_u64()), (&json!("e-1"), Some(1)), "{report}");
    live.http.ack(&again).await;
    stage.settled("live").await;
    let listed = control.get("/v1/dead-letters").await;
    assert_eq!(listed["letters"].as_array().map(Vec::len), Some(0), "redriven ones are no longer open: {listed}");
}

pub async fn the_system_tells_its_state(kind: Kind) {
    let stage = Stage::new(kind).await;
    let control = stage.control(AGENTS).await;
    let writer = stage.agent("writer", "writer", &[]).await;
    writer.http.publish(json!({"to": "note.made", "data": "x"})).await;
    let status = control.get("/v1/status").await;
    assert_eq!(
        (&status["broker"]["connected"], &status["broker"]["problem"]),
        (&json!(true), &Value::Null),
        "{status}"
    );
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    let live = groups.iter().find(|group| group["group"] == "live").expect("the group");
    assert_eq!((&live["lag"], &live["in_flight"]), (&json!(1), &json!(0)));
    let events =
        status["streams"].as_array().and_then(|all| all.iter().find(|one| one["name"] == stage.names.events()));
    assert_eq!(events.expect("the stream")["messages"], 1);
}
