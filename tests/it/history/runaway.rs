//! One agent publishes and rejects without end; the others notice nothing.

use agentbus_nats::topology::Sizes;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::until;
use serde_json::{Value, json};

use super::world::{World, publish, take};

/// Few are many bytes, so that the test is quick.
const EVENT_BYTES: usize = 200_000;

async fn publish_one(agent: &HttpAgent, number: usize) -> Value {
    let event = json!({"id": format!("wild-{number}"), "to": "wild.made", "data": "x".repeat(EVENT_BYTES)});
    let mut answer = agent.post("/v1/publish", &event).await;
    answer.body["http"] = answer.status.into();
    answer.body
}

/// Takes one and rejects it.
async fn reject_one(agent: &HttpAgent) -> (u16, Value) {
    let delivery = agent.receive_one("20s").await;
    let answer = agent.settle(&delivery, "reject", json!({"reason": "never"})).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn an_agent_that_publishes_and_rejects_without_end_stops_nobody() {
    let sizes = Sizes::within(256 << 20);
    let world = World::start("retention: {lag: 4s}\n", sizes).await;
    let ((_w, writer), (_l, live)) = (world.agent("writer").await, world.agent("live").await);
    let (_x, wild) = world.agent("wild").await;
    let share = sizes.dead_letter_bytes_max.cast_unsigned() / 4;

    // Its own letters end at its share, and it hears why.
    let mut sent = 0;
    let refused = loop {
        assert_eq!(publish_one(&wild, sent).await["http"], 200);
        sent += 1;
        let (status, body) = reject_one(&wild).await;
        if status != 200 {
            break body;
        }
        // What is given in advance just when the letters are counted may go beyond it.
        assert!((sent * EVENT_BYTES) as u64 <= share * 11 / 10, "{sent} letters are more than a quarter of the space");
    };
    assert_eq!(refused["code"], "STREAM_FULL", "{refused}");
    assert!(refused["detail"].as_str().expect("a text").contains("group `wild`"), "{refused}");
    assert!((sent * EVENT_BYTES) as u64 > share * 9 / 10, "{sent} letters are far from a quarter of the space");
    until("a stalled group", || async {
        let status = world.get("/v1/status").await;
        let groups = status["groups"].as_array().expect("groups").clone();
        let stalled: Vec<&Value> = groups.iter().filter(|group| group["stalled"] == true).collect();
        match stalled[..] {
            [one]
                if one["group"] == "wild" && one["problem"].as_str().is_some_and(|why| why.starts_with("stalled")) =>
            {
                Ok(())
            }
            _ => Err(status),
        }
    })
    .await;

    // What it publishes ends at its quota, long before the stream is full.
    let refused = loop {
        let answer = publish_one(&wild, sent).await;
        if answer["http"] != 200 {
            break answer;
        }
        sent += 1;
    };
    assert_eq!(refused["code"], "QUOTA", "{refused}");
    assert!(world.used_percent().await < 60);

    // Its unread events are parked as far as its larger share goes.
    let bytes = async || world.broker.bus.stream(&world.broker.names.dead_letters()).await.unwrap().unwrap().bytes;
    until("as much parked as may be", || async {
        let bytes = bytes().await;
        if bytes > share * 18 / 10 { Ok(()) } else { Err(bytes) }
    })
    .await;

    // The others: events, dead letters, parking.
    assert_eq!(publish(&writer, 0..10, "note.made").await, 0, "never full");
    let (status, body) = reject_one(&live).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(take(&live, 9).await.len(), 9);
    assert_eq!(world.letters("live").await.len(), 1);
    until("parked notes", || async {
        let letters = world.letters("dead").await.len();
        if letters == 10 { Ok(()) } else { Err(letters) }
    })
    .await;
    let used = bytes().await;
    assert!(used < share * 22 / 10, "{used}: a group takes half of the space at most, parked events and all");
}
