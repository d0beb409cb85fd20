//! The audit stream makes room by itself, and what has to be known stays known.

use agentbus_nats::topology::Sizes;
use agentbus_tests::wait::until;
use serde_json::json;

use super::world::{World, publish, small};

#[tokio::test]
async fn old_facts_go_when_the_audit_stream_is_full_and_what_was_redriven_is_known_after_a_restart() {
    let sizes = Sizes { audit_bytes_max: 64 << 10, ..small() };
    // Ages that are short are looked at often.
    let mut world = World::start("retention: {age: 2s}\n", sizes).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    publish(&writer, 0..1, "note.made").await;
    let delivery = live.receive_one("20s").await;
    assert_eq!(live.settle(&delivery, "reject", json!({"reason": "no"})).await.status, 200);
    let report = world.post("/v1/dead-letters/redrive", json!({"all": true})).await;
    assert_eq!(report["letters"][0]["outcome"], "redriven", "{report}");
    live.ack(&live.receive_one("20s").await).await;

    let audit = world.broker.names.audit();
    until("the redrive's own facts gone", || async {
        while world.broker.context.publish("aba.default.test.v1", "{}".into()).await.unwrap().await.is_ok() {}
        let facts = world.facts("dead_letter.redriven.v1").await;
        if facts.is_empty() { Ok(()) } else { Err(world.broker.count(&audit).await) }
    })
    .await;
    world.restart_control().await;
    let again = world.post("/v1/dead-letters/redrive", json!({"all": true})).await;
    assert_eq!(again["letters"], json!([]), "{again}");
    let seq = world.read(&world.broker.names.dead_letters()).await[0].seq;
    let again = world.post("/v1/dead-letters/redrive", json!({"seqs": [seq]})).await;
    assert_eq!(again["letters"][0]["reason"], "already_redriven", "{again}");
    until("room in the audit stream", || async {
        let stream = world.broker.bus.stream(&audit).await.unwrap().unwrap();
        if stream.bytes * 10 < 8 * (64 << 10) { Ok(()) } else { Err(stream.bytes) }
    })
    .await;
}
