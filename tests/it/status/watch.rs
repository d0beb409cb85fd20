//! `tail` and `subscribe` with a filter and a beginning in the past.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::stage::Stage;

/// A command whose lines are read as they come.
struct Watching {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    async fn start(stage: &Stage, args: &[&str]) -> Self {
        let mut command = stage.here.agentbus(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let mut talk = BufReader::new(child.stderr.take().expect("piped")).lines();
        let first =
            tokio::time::timeout(Duration::from_secs(30), talk.next_line()).await.expect("talks").expect("reads");
        assert!(first.as_deref().is_some_and(|line| line.contains("Ctrl-C ends")), "{first:?}");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { _child: child, lines }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await.expect("a line in time");
        serde_json::from_str(&line.expect("reads").expect("a line")).expect("JSON")
    }
}

fn numbers(text: &str) -> Vec<i64> {
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events.filter_map(|line| line["event"]["data"]["n"].as_i64()).collect()
}

async fn publish(stage: &Stage, topic: &str, n: i64) {
    stage.publish(json!({"to": topic, "data": {"n": n}})).await;
}

#[tokio::test]
async fn tail_begins_in_the_past_filters_and_goes_on_live() {
    let stage = Stage::new().await;
    for n in 1..=5 {
        publish(&stage, if n % 2 == 0 { "note.even" } else { "note.odd" }, n).await;
    }
    let past = |args: &'static [&'static str]| {
        let here = &stage.here;
        async move {
            let said = here.run(&[args, &["--no-follow", "--json"]].concat()).await;
            assert_eq!(said.code, 0, "{said:?}");
            numbers(&said.stdout)
        }
    };
    assert_eq!(past(&["tail", "--since", "10m"]).await, [1, 2, 3, 4, 5]);
    assert_eq!(past(&["tail", "note.odd", "--since", "10m", "--where", "data.n > 1"]).await, [3, 5]);
    assert_eq!(past(&["tail", "note.even", "--last", "1"]).await, [4]);
    assert_eq!(past(&["tail", "--last", "2", "--where", "type = note.odd"]).await, [5]);
    // Fewer than were asked for.
    assert_eq!(past(&["tail", "--last", "100"]).await, [1, 2, 3, 4, 5]);
    assert_eq!(past(&["tail", "note.even", "--last", "3"]).await, [2, 4]);
    assert_eq!(past(&["tail", "note.none", "--last", "3"]).await, [0_i64; 0]);
    assert_eq!(past(&["tail", "--since", "2099-01-01T00:00:00Z"]).await, [0_i64; 0]);
    for (args, wanted) in
        [(["tail", "--where", "typ = x"], "did you mean `type`?"), (["tail", "--since", "yesterday"], "--since")]
    {
        let said = stage.here.run(&args).await;
        assert!(said.code == 65 && said.stderr.contains(wanted), "{said:?}");
    }

    let mut tail =
        Watching::start(&stage, &["tail", "note.>", "--since", "10m", "--where", "data.n >= 4", "--json"]).await;
    assert_eq!(
        (tail.next().await["event"]["data"]["n"].as_i64(), tail.next().await["event"]["data"]["n"].as_i64()),
        (Some(4), Some(5))
    );
    // Published and on the screen: the quickest of some, for this machine does other things as well.
    let mut quickest = Duration::MAX;
    for n in 6..=15 {
        let began = Instant::now();
        publish(&stage, "note.live", n).await;
        assert_eq!(tail.next().await["event"]["data"]["n"], n);
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < Duration::from_millis(200), "{quickest:?}");
    stage.end().await;
}

#[tokio::test]
async fn subscribe_looks_back_first_and_prints_nothing_twice() {
    let stage = Stage::new().await;
    let first = stage.here.run(&["subscribe", "note.>", "--group", "readers", "--max", "1"]);
    let known = async {
        // The group exists before the first event, so that all of them wait for it.
        agentbus_tests::wait::until("a listening group", || async {
            let status: Value = stage.up.api("/v1/status").await;
            let groups = status["groups"].as_array().cloned().unwrap_or_default();
            if groups.iter().any(|group| group["group"] == "readers") { Ok(()) } else { Err(status) }
        })
        .await;
        publish(&stage, "note.a", 1).await;
    };
    let (said, ()) = tokio::join!(first, known);
    assert_eq!(said.code, 0, "{said:?}");
    for n in 2..=4 {
        publish(&stage, "note.a", n).await;
    }
    let args = ["subscribe", "note.>", "--group", "readers", "--since", "10m", "--where", "data.n != 3", "--json"];
    let mut watching = Watching::start(&stage, &args).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(watching.next().await["event"]["data"]["n"].as_i64());
    }
    assert_eq!(seen, [Some(1), Some(2), Some(4)]);
    publish(&stage, "note.a", 3).await;
    publish(&stage, "note.a", 9).await;
    let delivery = watching.next().await;
    assert_eq!((&delivery["event"]["data"]["n"], &delivery["attempt"]), (&json!(9), &json!(1)), "{delivery}");
    agentbus_tests::wait::until("a group that has taken all", || async {
        let status: Value = stage.up.api("/v1/status").await;
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        let mine = groups.into_iter().find(|group| group["group"] == "readers").unwrap_or_default();
        if mine["lag"] == 0 && mine["in_flight"] == 0 { Ok(()) } else { Err(mine) }
    })
    .await;
    drop(watching);
    stage.end().await;
}
