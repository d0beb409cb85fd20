//! Listing and ending: one's own, and the person's view of all.

use serde_json::json;

use super::world::{World, call, cancel, list, schedule, take, text};

#[tokio::test]
async fn what_is_cancelled_comes_no_more() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    schedule(&clock, json!({"to": "tick.second", "cron": "* * * * * *", "id": "seconds"})).await;
    schedule(&clock, json!({"to": "tick.never", "after": "3s", "id": "never"})).await;
    take(&clock).await;
    assert!(cancel(&clock, "never").await && cancel(&clock, "seconds").await);
    assert!(!cancel(&clock, "seconds").await, "there is none any more");
    // Later than both would have come. What was under way may come before it, one at most.
    schedule(&clock, json!({"to": "tick.marker", "after": "3500ms"})).await;
    let (mut came, mut ticks) = (String::new(), 0);
    while came != "tick.marker" {
        let event = take(&clock).await;
        came = text(&event, "to").to_owned();
        assert_ne!(came, "tick.never");
        ticks += usize::from(came == "tick.second");
    }
    assert!(ticks <= 1, "{ticks} after the end");
    assert_eq!(list(&clock).await, [] as [serde_json::Value; 0]);
}

#[tokio::test]
async fn the_same_id_again_replaces_and_a_cancelled_one_may_come_again() {
    let world = World::start().await;
    let (_clock, clock) = world.agent("clock").await;
    let body = |hours: u32| json!({"to": "tick.later", "after": format!("{hours}h"), "id": "same"});
    schedule(&clock, body(1)).await;
    let (_, next) = schedule(&clock, body(2)).await;
    let listed = list(&clock).await;
    assert_eq!((listed.len(), &listed[0]["next"]), (1, &json!(next)));
    // The broker remembers what it was given, but this is another decision.
    assert!(cancel(&clock, "same").await);
    schedule(&clock, body(2)).await;
    assert_eq!(list(&clock).await.len(), 1);
}

#[tokio::test]
async fn agents_see_and_end_their_own_and_the_person_all() {
    let world = World::start().await;
    let ((_a, clock), (_b, other), (_c, me)) =
        (world.agent("clock").await, world.agent("other").await, world.person().await);
    schedule(&clock, json!({"to": "tick.a", "after": "1h", "id": "a"})).await;
    schedule(&clock, json!({"to": "tick.b", "after": "1h", "id": "b"})).await;
    schedule(&other, json!({"to": "note.b", "after": "1h", "id": "b"})).await;
    schedule(&me, json!({"to": "tick.c", "cron": "0 9 * * 1-5", "id": "c"})).await;
    let ids = |listed: Vec<serde_json::Value>| -> Vec<String> {
        listed.iter().map(|one| format!("{}/{}", text(one, "agent"), text(one, "id"))).collect()
    };
    assert_eq!(ids(list(&clock).await), ["clock/a", "clock/b"]);
    assert_eq!(ids(list(&other).await), ["other/b"]);
    assert_eq!(ids(list(&me).await), ["clock/a", "clock/b", "other/b", "me/c"]);
    assert!(!cancel(&other, "a").await, "not its own");
    assert_eq!(call(&other, "DELETE", "/v1/schedules/clock%2Fa").await.status, 400);
    // Two have `b`: the person says whose.
    let told = call(&me, "DELETE", "/v1/schedules/b").await;
    assert_eq!((told.status, &told.body["code"]), (400, &json!("INVALID_ADDRESS")), "{}", told.body);
    assert!(cancel(&me, "other%2Fb").await && cancel(&me, "a").await);
    assert_eq!(ids(list(&me).await), ["clock/b", "me/c"]);
    // A page at a time.
    let first = call(&me, "GET", "/v1/schedules?page_size=1").await.body;
    let next = text(&first, "next_page_token").to_owned();
    let second = call(&me, "GET", &format!("/v1/schedules?page_size=1&page_token={next}")).await.body;
    assert_eq!((&second["schedules"][0]["id"], &second["next_page_token"]), (&json!("c"), &json!(null)));
}
