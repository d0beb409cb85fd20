//! An ask and its reply are one trace, from the asker to the agent and back.

use std::collections::BTreeMap;

use agentbus_tests::collector::{Collector, Span};
use agentbus_tests::http::HttpAgent;
use serde_json::json;

use super::world::{World, asking, listens, reply, taking};

/// The names from the root to a span, with the instance that made it.
fn path(spans: &[Span], span: &Span) -> String {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let mut names = Vec::new();
    let mut at = Some(span);
    while let Some(span) = at {
        names.push(span.name.split(' ').next().unwrap_or_default());
        at = (!span.parent.is_empty())
            .then(|| *by_id.get(span.parent.as_str()).unwrap_or_else(|| panic!("{} hangs in the air", span.name)));
    }
    names.reverse();
    format!("{}: {}", span.instance, names.join("/"))
}

#[tokio::test]
async fn an_ask_and_its_replies_are_one_tree() {
    let (world, collector) = (World::start().await, Collector::start().await);
    let mut asker = world.sidecar_with("asker", None, Some(&collector.url)).await;
    let mut helper = world.sidecar_with("helper", None, Some(&collector.url)).await;
    let (a, h) = (HttpAgent::of(&asker), HttpAgent::of(&helper));
    let taken = taking(&h);
    listens(&world, "helper--inbox").await;
    let answer = asking(&a, json!({"to": "@helper", "id": "q", "timeout": "20s"}));
    let delivery = taken.await.unwrap();
    reply(&h, &delivery, json!({"data": 1, "more": true})).await;
    reply(&h, &delivery, json!({"data": 2})).await;
    assert_eq!(answer.await.unwrap().status, 200);
    // What is exported at the end is all there is.
    asker.drain().await;
    helper.drain().await;

    let spans = collector.spans();
    let traces: std::collections::BTreeSet<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(traces.len(), 1, "one trace: {spans:?}");
    let mut paths: Vec<String> = spans.iter().map(|span| path(&spans, span)).collect();
    paths.sort();
    let work = "ask/publish/receive/process";
    assert_eq!(
        paths,
        [
            "asker: ask".to_owned(),
            "asker: ask/publish".to_owned(),
            format!("asker: {work}/reply/receive"),
            format!("asker: {work}/reply/receive"),
            "helper: ask/publish/receive".to_owned(),
            format!("helper: {work}"),
            format!("helper: {work}/reply"),
            format!("helper: {work}/reply"),
        ]
    );
    for span in &spans {
        assert_eq!(span.attr("messaging.message.conversation_id"), "q", "{span:?}");
        assert_eq!(span.attr("messaging.system"), "agentbus", "{span:?}");
        assert!(!span.failed, "{span:?}");
    }
    let asked = spans.iter().find(|span| span.name == "ask @helper").unwrap();
    let heard = spans.iter().filter(|span| span.name == "receive" && span.instance == "asker");
    assert!(heard.map(|span| span.end).max().unwrap() <= asked.end, "the ask lasts until its last reply");
}

#[tokio::test]
async fn an_ask_that_fails_is_a_failed_span() {
    let (world, collector) = (World::start().await, Collector::start().await);
    let mut asker = world.sidecar_with("asker", None, Some(&collector.url)).await;
    let answer = HttpAgent::of(&asker).post("/v1/ask", &json!({"to": "@helper"})).await;
    assert_eq!(answer.status, 404, "{}", answer.body);
    asker.drain().await;
    let spans = collector.spans();
    let asked = spans.iter().find(|span| span.name == "ask @helper").unwrap();
    assert!(asked.failed && asked.attr("error.type") == "NO_RESPONDER", "{asked:?}");
}
