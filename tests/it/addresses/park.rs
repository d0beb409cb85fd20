//! Events for names that nobody has declared yet.

use serde_json::json;

use super::{Stage, puppets};

#[tokio::test]
async fn a_parked_event_is_delivered_once_its_agent_or_pool_is_declared() {
    let stage = Stage::new("", &[("asker", ", publish: ['@*']")]).await;
    let asker = stage.voice("asker").await;
    for (id, to) in [("for-agent", "@later"), ("for-pool", "@laters")] {
        let refused = asker.post("/v1/publish", &json!({"id": id, "to": to})).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("INVALID_ADDRESS")), "{}", refused.body);
        let stored = asker.publish(json!({"id": id, "to": to, "park": true, "data": 1})).await;
        assert_eq!(stored["stored"], "broker");
    }
    let said = stage.here.run(&["publish", "@later", "by hand", "--id", "by-hand", "--park"]).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    let Stage { here, up } = stage;
    assert_eq!(up.stop().await, 0);
    here.write("agentbus.yaml", puppets("", &[("asker", ", publish: ['@*']"), ("later", ", pools: [laters]")]));
    let up = here.up(&[]).await;
    up.all_running().await;
    let stage = Stage { here, up };
    let later = stage.voice("later").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let delivery = later.receive_one("20s").await;
        ids.push(delivery["event"]["id"].as_str().expect("an id").to_owned());
        later.ack(&delivery).await;
    }
    ids.sort();
    assert_eq!(ids, ["by-hand", "for-agent", "for-pool"]);
    assert!(later.receive(1, "100ms").await.is_empty());
    stage.end().await;
}
