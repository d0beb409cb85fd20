//! A lifetime that ends is seen: counted, or a dead letter if the sender wants to know. Wherever the event waits.
//!
//! Waiting in a sidecar's own queue is tested beside the code (`inbound/table/tests.rs`): nothing stays there for long.

use std::time::Duration;

use agentbus_tests::wait::until;
use agentbus_tests::{SidecarProcess, http::HttpAgent};
use serde_json::{Value, json};

use super::world::{World, schedule, take, text};

fn events() -> [Value; 2] {
    let loud = json!({"to": "tick.loud", "ttl": "1s", "delivery": {"dead_letter_if_expired": true}});
    [json!({"to": "tick.quiet", "ttl": "1s"}), loud]
}

/// Neither was handed out again; one was counted, the other is a dead letter.
async fn both_outcomes(world: &World, sidecar: &SidecarProcess, clock: &HttpAgent) {
    clock.publish(json!({"to": "tick.marker"})).await;
    let letters = until("the marker, one dead letter and one count", || async {
        for delivery in clock.receive(1, "200ms").await {
            assert_eq!(delivery["event"]["to"], "tick.marker", "{delivery}");
            clock.ack(&delivery).await;
        }
        let letters = world.broker.messages(&world.broker.names.dead_letters()).await;
        let counted = sidecar.outcome("clock", "expired").await;
        if letters.len() == 1 && counted == 1.0 { Ok(letters) } else { Err((letters.len(), counted)) }
    })
    .await;
    assert_eq!(letters[0].subject.as_str(), "abd.default.clock.clock.EXPIRED");
    assert_eq!(sidecar.metric(r#"agentbus_dead_letters_total{group="clock",class="EXPIRED"}"#).await, 1.0);
    world.broker.settled("clock").await;
}

#[tokio::test]
async fn unread_until_it_is_too_late() {
    let world = World::start().await;
    let (sidecar, clock) = world.agent("clock").await;
    for event in events() {
        clock.publish(event).await;
    }
    // Nobody asks for it until then.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    both_outcomes(&world, &sidecar, &clock).await;
}

#[tokio::test]
async fn too_late_for_another_attempt() {
    let world = World::start().await;
    let (sidecar, clock) = world.agent("clock").await;
    for event in events() {
        clock.publish(event).await;
    }
    let deliveries = [clock.receive_one("20s").await, clock.receive_one("20s").await];
    for delivery in &deliveries {
        let answer = clock.settle(delivery, "nack", json!({"retry_after": "1500ms", "reason": "later"})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    both_outcomes(&world, &sidecar, &clock).await;
}

/// The lifetime of an occurrence begins when it fires, however long ago it was scheduled.
#[tokio::test]
async fn the_lifetime_of_an_occurrence_begins_when_it_fires() {
    let world = World::start().await;
    let (sidecar, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.fresh", "after": "3s", "ttl": "2s", "id": "fresh"})).await;
    let event = take(&clock).await;
    assert!(text(&event, "id").starts_with("fresh."), "{event}");
    for event in events() {
        let mut event = event;
        event["after"] = json!("0s");
        schedule(&clock, event).await;
    }
    until("both stored", || async {
        let stored = world.broker.count(&world.broker.names.events()).await;
        if stored == 3 { Ok(()) } else { Err(stored) }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    both_outcomes(&world, &sidecar, &clock).await;
}
