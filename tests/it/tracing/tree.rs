//! Three agents, a retry and a dead letter: one trace, one root, every span under the one that caused it.

// A test's future may be large: there is one of it.
#![allow(clippy::large_futures)]

use agentbus_tests::Broker;
use agentbus_tests::collector::{Collector, Span};
use serde_json::{Value, json};

use super::{Traced, by_id, parts};

/// What three agents did, and what the collector got of it.
struct Story {
    spans: Vec<Span>,
    /// `traceparent` of each delivery, in order: to `b`, to `c`, to `c` again.
    given: Vec<String>,
    /// `traceparent` headers as stored: events 1 and 2, the retry, the dead letter.
    stored: Vec<String>,
}

async fn stored_context(broker: &Broker, stream: &str, seq: u64) -> String {
    broker.message(stream, seq).await.headers.get("traceparent").expect("a trace context").to_string()
}

/// `a` publishes → `b` consumes and emits → `c` nacks once, then rejects. Each sidecar ends right after its last act.
async fn story(settings: impl Fn(&str) -> (Option<String>, Vec<(&'static str, String)>)) -> (Vec<String>, Vec<String>) {
    let broker = Broker::start().await;
    let groups_b = [broker.group("b", &["task.asked"]).await];
    let groups_c = [broker.group("c", &["task.done"]).await];
    let start = async |agent: &str, groups: &[_]| {
        let (otlp, env) = settings(agent);
        let env: Vec<(&str, &str)> = env.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Traced::start(&broker, agent, groups, otlp.as_deref(), &env).await
    };
    let (a, b, c) = (start("a", &[]).await, start("b", &groups_b).await, start("c", &groups_c).await);

    a.agent.publish(json!({"to": "task.asked", "id": "e-1", "data": 1})).await;
    a.end().await;
    let asked = b.agent.receive_one("20s").await;
    let emit = json!({"emit": [{"to": "task.done", "id": "e-2", "data": 2}]});
    assert_eq!(b.agent.settle(&asked, "ack", emit).await.status, 200);
    b.end().await;
    let first = c.agent.receive_one("20s").await;
    let nack = json!({"reason": "busy", "retry_after": "20ms"});
    assert_eq!(c.agent.settle(&first, "nack", nack).await.status, 200);
    // Acked and gone from the work queue a moment later, so it is read while it waits.
    let retry = stored_context(&broker, &broker.names.retry(), 1).await;
    let second = c.agent.receive_one("20s").await;
    assert_eq!(c.agent.settle(&second, "reject", json!({"reason": "cannot"})).await.status, 200);
    c.end().await;

    let events = broker.names.events();
    let letter = stored_context(&broker, &broker.names.dead_letters(), 1).await;
    let stored =
        vec![stored_context(&broker, &events, 1).await, stored_context(&broker, &events, 2).await, retry, letter];
    let given = [asked, first, second].iter().map(|d: &Value| d["traceparent"].as_str().unwrap().to_owned()).collect();
    (given, stored)
}

async fn told(collector: &Collector) -> Story {
    let url = collector.url.clone();
    let (given, stored) = story(|_| (Some(url.clone()), vec![])).await;
    Story { spans: collector.spans(), given, stored }
}

/// The path from the root to a span, by names without their addresses.
fn path(spans: &[Span], span: &Span) -> String {
    let spans_by_id = by_id(spans);
    let name = |span: &Span| span.name.split(' ').next().unwrap_or_default().to_owned();
    let mut names = vec![name(span)];
    let mut at = span;
    while !at.parent.is_empty() {
        at = spans_by_id.get(at.parent.as_str()).unwrap_or_else(|| panic!("{} hangs in the air", at.name));
        names.push(name(at));
    }
    names.reverse();
    names.join("/")
}

#[tokio::test]
async fn three_agents_a_retry_and_a_dead_letter_are_one_tree() {
    let collector = Collector::start().await;
    let Story { spans, .. } = told(&collector).await;
    let traces: std::collections::BTreeSet<_> = spans.iter().map(|span| &span.trace).collect();
    assert_eq!(traces.len(), 1, "one trace");
    assert_eq!(spans.iter().filter(|span| span.parent.is_empty()).count(), 1, "one root");
    // A reject's settle span has a test of its own.
    let rejects = |span: &&Span| span.attr("agentbus.settle") != "reject";
    let mut paths: Vec<_> =
        spans.iter().filter(rejects).map(|span| (span.instance.clone(), path(&spans, span))).collect();
    paths.sort();
    let wanted = |instance: &str, path: &str| (instance.to_owned(), path.to_owned());
    let b = "publish/receive/process";
    let c = format!("{b}/publish/receive/process");
    assert_eq!(
        paths,
        [
            wanted("a", "publish"),
            wanted("b", "publish/receive"),
            wanted("b", b),
            wanted("b", &format!("{b}/publish")),
            wanted("b", &format!("{b}/settle")),
            wanted("c", &format!("{b}/publish/receive")),
            wanted("c", &c),
            wanted("c", &format!("{c}/retry")),
            wanted("c", &format!("{c}/retry/receive")),
            wanted("c", &format!("{c}/retry/receive/process")),
            wanted("c", &format!("{c}/retry/receive/process/dead_letter")),
            wanted("c", &format!("{c}/settle")),
        ]
    );
}

#[tokio::test]
async fn spans_carry_what_the_messaging_conventions_ask_for() {
    let collector = Collector::start().await;
    let Story { spans, .. } = told(&collector).await;
    for span in &spans {
        let verb = span.name.split(' ').next().unwrap();
        let (kind, operation) = match verb {
            "publish" | "retry" | "dead_letter" => ("Producer", "send"),
            "receive" => ("Client", "receive"),
            "process" => ("Consumer", "process"),
            "settle" => ("Client", "settle"),
            other => panic!("{other} is no span of ours"),
        };
        assert_eq!((span.kind.as_str(), span.attr("messaging.system")), (kind, "agentbus"), "{span:?}");
        assert!(!span.attr("messaging.operation.name").is_empty(), "{span:?}");
        assert!(["e-1", "e-2"].contains(&span.attr("messaging.message.id")), "{span:?}");
        if verb == "publish" || verb == "receive" || verb == "process" {
            assert_eq!(span.attr("messaging.message.conversation_id"), "e-1", "{span:?}");
            assert!(["task.asked", "task.done"].contains(&span.attr("messaging.destination.name")), "{span:?}");
            assert_eq!(span.attr("messaging.operation.type"), operation, "{span:?}");
            assert_eq!(span.attr("agentbus.agent"), span.instance, "{span:?}");
        }
        if verb != "publish" {
            assert_eq!(span.attr("messaging.consumer.group.name"), span.instance, "{span:?}");
        }
        assert!(span.service == "agentbus-sidecar" && span.start <= span.end, "{span:?}");
    }
}

#[tokio::test]
async fn spans_of_what_follows_an_event_name_its_chain_and_address_too() {
    let collector = Collector::start().await;
    let Story { spans, .. } = told(&collector).await;
    for span in &spans {
        assert_eq!(span.attr("messaging.message.conversation_id"), "e-1", "{span:?}");
        assert!(["task.asked", "task.done"].contains(&span.attr("messaging.destination.name")), "{span:?}");
        assert_eq!(span.attr("agentbus.agent"), span.instance, "{span:?}");
        assert!(!span.attr("messaging.operation.type").is_empty(), "{span:?}");
    }
}

#[tokio::test]
async fn a_reject_is_a_settle_in_the_trace_like_ack_and_nack() {
    let collector = Collector::start().await;
    let Story { spans, .. } = told(&collector).await;
    let mut verbs: Vec<_> =
        spans.iter().filter(|span| span.name == "settle").map(|s| s.attr("agentbus.settle")).collect();
    verbs.sort_unstable();
    assert_eq!(verbs, ["ack", "nack", "reject"]);
}

#[tokio::test]
async fn the_wait_in_the_queue_and_the_attempts_are_visible() {
    let collector = Collector::start().await;
    let Story { spans, .. } = told(&collector).await;
    let of = |name: &str| spans.iter().filter(|span| span.name.split(' ').next() == Some(name)).collect::<Vec<_>>();
    for span in of("receive") {
        let waited: u64 = span.attr("agentbus.queue_wait_ms").parse().expect("milliseconds");
        let lasted = (span.end - span.start) / 1_000_000;
        assert!(lasted.abs_diff(waited) <= 50, "the span is as long as the wait: {span:?}");
    }
    let mut attempts: Vec<_> = of("process").iter().map(|span| span.attr("agentbus.attempt")).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, ["1", "1", "2"]);
    let letter = of("dead_letter")[0];
    assert_eq!(letter.attr("error.type"), "REJECTED");
}

#[tokio::test]
async fn stored_and_given_contexts_belong_to_the_trace() {
    let collector = Collector::start().await;
    let Story { spans, given, stored } = told(&collector).await;
    let spans_by_id = by_id(&spans);
    let names = |contexts: &[String]| -> Vec<String> {
        let name = |context: &String| {
            let (trace, id) = parts(context);
            let span = spans_by_id.get(id.as_str()).unwrap_or_else(|| panic!("{context} is no exported span"));
            assert_eq!(span.trace, trace);
            span.name.split(' ').next().unwrap_or_default().to_owned()
        };
        contexts.iter().map(name).collect()
    };
    assert_eq!(names(&stored), ["publish", "publish", "retry", "dead_letter"]);
    assert_eq!(names(&given), ["process", "process", "process"], "what the agent does belongs under its work");
}

#[tokio::test]
async fn without_tracing_one_context_still_runs_through() {
    let (given, stored) = story(|_| (None, vec![])).await;
    let traces: std::collections::BTreeSet<_> = given.iter().chain(&stored).map(|context| parts(context).0).collect();
    assert_eq!(traces.len(), 1, "{given:?} {stored:?}");
}

#[tokio::test]
async fn without_a_collector_everything_works_and_nothing_waits_for_it() {
    let before = std::time::Instant::now();
    // Port 9 of loopback: nobody listens.
    let (given, _) = story(|_| (Some("http://127.0.0.1:9".to_owned()), vec![])).await;
    assert_eq!(given.len(), 3);
    assert!(before.elapsed().as_secs() < 30, "{:?}", before.elapsed());
}

#[tokio::test]
async fn http_is_chosen_by_the_standard_variables() {
    let collector = Collector::start().await;
    let url = collector.url.clone();
    let env = |_: &str| {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", url.clone());
        (None, vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned())])
    };
    story(env).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.by == "http"), "{spans:?}");
    assert!(spans.len() >= 12, "as many as by gRPC: {}", spans.len());
}
