//! Redrive: to whom, how often, and what is written down about it.

use agentbus_tests::http::HttpAgent;
use serde_json::{Value, json};

use super::bus::{Bus, TWO, nothing};

/// Both groups get this event and refuse it. Returns the numbers of their dead letters, left's first.
async fn both_reject(bus: &Bus, left: &HttpAgent, right: &HttpAgent) -> (u64, u64) {
    left.publish(json!({"id": "one", "to": "note.made", "data": {"n": 1}})).await;
    for agent in [left, right] {
        reject(agent).await;
    }
    let letters = bus.broker.dead_letters(2).await;
    assert_eq!(letters[0].payload, letters[1].payload, "both keep the same bytes");
    let list = bus.get("/v1/dead-letters").await;
    let of = |group: &str| {
        let letters = list["letters"].as_array().expect("letters");
        let letter = letters.iter().find(|letter| letter["group"] == group).expect("a letter of the group");
        assert_eq!((&letter["class"], &letter["cause"]), (&json!("REJECTED"), &json!("not mine")));
        letter["seq"].as_u64().expect("a number")
    };
    (of("left"), of("right"))
}

async fn reject(agent: &HttpAgent) {
    let delivery = agent.receive_one("20s").await;
    let answer = agent.settle(&delivery, "reject", json!({"reason": "not mine"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn redrive(bus: &Bus, request: Value) -> Value {
    let report = bus.post("/v1/dead-letters/redrive", request).await;
    assert_eq!(report["letters"].as_array().map(Vec::len), Some(1), "{report}");
    report["letters"][0].clone()
}

/// Numbers of the letters in the list.
async fn listed(bus: &Bus, path: &str) -> Vec<u64> {
    let list = bus.get(path).await;
    list["letters"].as_array().expect("letters").iter().filter_map(|letter| letter["seq"].as_u64()).collect()
}

async fn counts(bus: &Bus) -> [u64; 4] {
    let names = &bus.broker.names;
    let mut counts = [0; 4];
    for (at, stream) in [names.events(), names.retry(), names.dead_letters(), names.audit()].iter().enumerate() {
        counts[at] = bus.broker.count(stream).await;
    }
    counts
}

#[tokio::test]
async fn a_redrive_reaches_only_the_group_that_failed_although_the_id_was_just_seen() {
    let bus = Bus::start(TWO).await;
    let ((_a, left), (_b, right)) = (bus.agent("left").await, bus.agent("right").await);
    let (of_left, of_right) = both_reject(&bus, &left, &right).await;

    let result = redrive(&bus, json!({"seqs": [of_right]})).await;
    assert_eq!(
        (&result["outcome"], &result["redrive"], &result["recorded"]),
        (&json!("redriven"), &json!(1), &json!(true))
    );
    let delivery = right.receive_one("20s").await;
    assert_eq!((&delivery["event"]["id"], &delivery["attempt"]), (&json!("one"), &json!(1)), "{delivery}");
    assert_eq!(delivery["event"]["data"], json!({"n": 1}));
    right.ack(&delivery).await;
    nothing(&left).await;
    nothing(&right).await;

    assert_eq!(listed(&bus, "/v1/dead-letters").await, [of_left], "what was redriven waits for nobody");
    let all = listed(&bus, "/v1/dead-letters?all=true").await;
    assert!(all.contains(&of_left) && all.contains(&of_right), "{all:?}");
    let again = redrive(&bus, json!({"seqs": [of_right]})).await;
    assert_eq!((&again["outcome"], &again["reason"]), (&json!("refused"), &json!("already_redriven")), "{again}");
    nothing(&right).await;

    let facts = bus.broker.messages(&bus.broker.names.audit()).await;
    let facts: Vec<Value> = facts
        .iter()
        .filter(|fact| fact.subject.as_str() == "aba.default.dead_letter.redriven.v1")
        .map(|fact| serde_json::from_slice(&fact.payload).expect("JSON"))
        .collect();
    assert_eq!(facts.len(), 1, "{facts:?}");
    for (key, value) in [
        ("dlq_seq", json!(of_right)),
        ("group", json!("right")),
        ("to", json!("group")),
        ("by", json!("api")),
        ("redrive", json!(1)),
        ("new_stream", json!("AB_default_RETRY")),
    ] {
        assert_eq!(facts[0][key], value, "{key} of {}", facts[0]);
    }
}

#[tokio::test]
async fn the_loop_guard_stops_the_fourth_redrive_without_force() {
    let bus = Bus::start(TWO).await;
    let ((_a, left), (_b, right)) = (bus.agent("left").await, bus.agent("right").await);
    let (mut seq, _) = both_reject(&bus, &left, &right).await;
    for round in 1..=3 {
        let result = redrive(&bus, json!({"seqs": [seq]})).await;
        assert_eq!((&result["outcome"], &result["redrive"]), (&json!("redriven"), &json!(round)), "{result}");
        reject(&left).await;
        bus.broker.dead_letters(2 + round).await;
        seq = listed(&bus, "/v1/dead-letters?group=left").await[0];
    }
    let guarded = redrive(&bus, json!({"seqs": [seq]})).await;
    assert_eq!((&guarded["outcome"], &guarded["reason"]), (&json!("refused"), &json!("loop_guard")), "{guarded}");
    assert_eq!(guarded["force_helps"], true);
    nothing(&left).await;
    let forced = redrive(&bus, json!({"seqs": [seq], "force": true})).await;
    assert_eq!((&forced["outcome"], &forced["redrive"]), (&json!("redriven"), &json!(4)), "{forced}");
    let delivery = left.receive_one("20s").await;
    left.ack(&delivery).await;
    bus.broker.settled("left").await;
}

#[tokio::test]
async fn to_the_origin_everybody_there_gets_it_again() {
    let bus = Bus::start(TWO).await;
    let ((_a, left), (_b, right)) = (bus.agent("left").await, bus.agent("right").await);
    let (of_left, _) = both_reject(&bus, &left, &right).await;
    let events = bus.broker.messages(&bus.broker.names.events()).await;
    let result = redrive(&bus, json!({"seqs": [of_left], "to": "origin"})).await;
    assert_eq!(
        (&result["outcome"], &result["new_stream"]),
        (&json!("redriven"), &json!("AB_default_EVENTS")),
        "{result}"
    );
    for agent in [&left, &right] {
        let delivery = agent.receive_one("20s").await;
        assert_eq!((&delivery["event"]["id"], &delivery["attempt"]), (&json!("one"), &json!(1)), "{delivery}");
        agent.ack(&delivery).await;
    }
    let after = bus.broker.messages(&bus.broker.names.events()).await;
    assert_eq!(after.len(), events.len() + 1);
    assert_eq!((&after[1].subject, &after[1].payload), (&after[0].subject, &after[0].payload));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let bus = Bus::start(TWO).await;
    let ((_a, left), (_b, right)) = (bus.agent("left").await, bus.agent("right").await);
    let (of_left, of_right) = both_reject(&bus, &left, &right).await;
    let (before, list) = (counts(&bus).await, listed(&bus, "/v1/dead-letters").await);
    let report = bus.post("/v1/dead-letters/redrive", json!({"all": true, "dry_run": true})).await;
    let outcomes: Vec<&Value> = report["letters"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, [&json!("would_redrive"), &json!("would_redrive")], "{report}");
    let one = redrive(&bus, json!({"seqs": [of_right], "to": "origin", "dry_run": true})).await;
    assert_eq!(one["outcome"], "would_redrive");
    nothing(&left).await;
    nothing(&right).await;
    assert_eq!(counts(&bus).await, before);
    assert_eq!(listed(&bus, "/v1/dead-letters").await, list);
    assert!(list.contains(&of_left));
}

#[tokio::test]
async fn a_letter_that_is_not_there_fails_by_name_and_a_vague_request_is_refused() {
    let bus = Bus::start(TWO).await;
    let result = redrive(&bus, json!({"seqs": [99]})).await;
    assert_eq!((&result["outcome"], &result["seq"]), (&json!("failed"), &json!(99)), "{result}");
    for vague in [json!({}), json!({"all": true, "seqs": [1]}), json!({"sqes": [1]}), json!({"all": true, "rate": 0})] {
        let refused = bus.api.post::<Value>("/v1/dead-letters/redrive", &vague).await.unwrap_err();
        assert_eq!(refused.code.as_str(), "INVALID_EVENT", "{vague}: {refused}");
    }
}
