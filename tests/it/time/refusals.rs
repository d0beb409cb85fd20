//! What is refused, and why.

use agentbus_tests::http::HttpAgent;
use serde_json::{Value, json};

use super::world::{World, list, schedule};

async fn refused(agent: &HttpAgent, body: Value, code: &str, why: &str) {
    let answer = agent.post("/v1/schedules", &body).await;
    assert!(answer.status >= 400, "{body}: {}", answer.body);
    assert_eq!(answer.body["code"], json!(code), "{body}: {}", answer.body);
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(why), "{body}: {detail}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    for (more, code, why) in [
        (json!({}), "INVALID_EVENT", "exactly one"),
        (json!({"after": "1s", "cron": "* * * * *"}), "INVALID_EVENT", "exactly one"),
        (json!({"at": "2020-01-01T00:00:00Z"}), "INVALID_EVENT", "past"),
        (json!({"at": "tomorrow"}), "INVALID_EVENT", "`at` is `tomorrow`"),
        (json!({"after": "200000h"}), "INVALID_EVENT", "ten years"),
        (json!({"cron": "61 * * * *"}), "INVALID_EVENT", "minute `61`"),
        (json!({"cron": "0 0 31 2 *"}), "INVALID_EVENT", "never"),
        (json!({"cron": "0 9 * * *", "time_zone": "Mars/Base"}), "INVALID_EVENT", "`time_zone` is `Mars/Base`"),
        (json!({"after": "1s", "id": "a b"}), "INVALID_EVENT", "`id` names the schedule"),
        (json!({"after": "1s", "to": "note.x"}), "SCOPE_DENIED", "note.x"),
        (json!({"after": "1s", "data": "x".repeat(40_000)}), "TOO_LARGE", "at most 32768"),
        (json!({"after": "1s", "prio": 1}), "INVALID_EVENT", "unknown field `prio`"),
    ] {
        let mut body = json!({"to": "tick.x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        refused(&clock, body, code, why).await;
    }
    assert_eq!(list(&clock).await, [] as [Value; 0], "nothing of it was stored");
}

#[tokio::test]
async fn a_cron_expression_is_one_line_to_the_broker() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.x", "cron": " 0 9 *\r\n*\t1-5\n"})).await;
    assert_eq!(list(&clock).await[0]["cron"], "0 9 * * 1-5");
}

#[tokio::test]
async fn an_agent_has_so_many_schedules_and_no_more() {
    let world = World::start().await;
    let ((_a, clock), (_b, other)) = (world.agent("clock").await, world.agent("other").await);
    for number in 0..agentbus_control_plane::schedules::SCHEDULES_MAX {
        schedule(&clock, json!({"to": "tick.x", "after": "1h", "id": format!("n{number}")})).await;
    }
    refused(&clock, json!({"to": "tick.x", "after": "1h"}), "CAPACITY_EXCEEDED", "the most it may have").await;
    schedule(&clock, json!({"to": "tick.x", "after": "2h", "id": "n7"})).await;
    schedule(&other, json!({"to": "note.x", "after": "1h"})).await;
}

/// Full means full: pushing out the oldest is what the broker would do.
#[tokio::test]
async fn a_full_stream_of_schedules_refuses_and_forgets_nothing() {
    let sizes = agentbus_nats::topology::Sizes { schedules_bytes_max: 64 * 1024, ..Default::default() };
    let world = World::start_with(sizes).await;
    let (_clock, clock) = world.agent("clock").await;
    let body =
        |number: u32| json!({"to": "tick.x", "after": "1h", "id": format!("n{number}"), "data": "x".repeat(8000)});
    for number in 0..2 {
        schedule(&clock, body(number)).await;
    }
    let mut number = 2;
    while clock.post("/v1/schedules", &body(number)).await.status == 200 {
        number += 1;
        assert!(number < 8, "never full");
    }
    refused(&clock, body(99), "STREAM_FULL", "cancel some").await;
    assert_eq!(list(&clock).await.len(), number as usize);
}

#[tokio::test]
async fn without_a_control_plane_nothing_new_is_taken() {
    let mut world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    world.stop_control().await;
    refused(&clock, json!({"to": "tick.x", "after": "1s"}), "CONTROL_PLANE_DOWN", "control plane").await;
}
