//! Traces as a real collector receives them: one tree over agents, retries and dead letters, nothing missing at the end.

mod parents;
mod tree;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use agentbus_nats::grant::{FromSidecar, GroupGrant, Start, ToSidecar};
use agentbus_tests::Broker;
use agentbus_tests::collector::Span;
use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::PATIENCE;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// A sidecar process with variables of its own: exporters are set up by the environment, which a test shares with others.
struct Traced {
    agent: HttpAgent,
    child: Child,
    stdin: ChildStdin,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Traced {
    /// Starts one for `agent`; it exports to `otlp` if there is one.
    async fn start(
        broker: &Broker,
        agent: &str,
        groups: &[GroupGrant],
        otlp: Option<&str>,
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(agentbus_tests::binary::agentbus());
        command.args(["sidecar", "--stdio"]).args(otlp.map(|otlp| ["--otlp", otlp]).into_iter().flatten());
        command.env("OTEL_RESOURCE_ATTRIBUTES", format!("service.instance.id={agent}")).envs(env.iter().copied());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let FromSidecar::Hello { public_key, .. } = line(&mut stdout).await else { panic!("no hello") };
        let token = format!("token-of-{agent}");
        let start = Start {
            grant: broker.grant(agent, agent, &public_key, groups, &[">"]),
            token: token.clone(),
            listen: "127.0.0.1:0".to_owned(),
            admin: "127.0.0.1:0".to_owned(),
            admin_token: None,
            unix: None,
            drain_ms: 5000,
            ..Start::default()
        };
        say(&mut stdin, &ToSidecar::Start(Box::new(start))).await;
        let FromSidecar::Ready { url, .. } = line(&mut stdout).await else { panic!("not ready") };
        let agent = HttpAgent { address: url.trim_start_matches("http://").to_owned(), token };
        Self { agent, child, stdin, _stdout: stdout }
    }

    /// Drains and waits for the end: whatever is not exported by then never will be.
    async fn end(mut self) {
        say(&mut self.stdin, &ToSidecar::Drain {}).await;
        drop(self.stdin);
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("ends in time").expect("ends");
        assert!(ended.success(), "{ended}");
    }
}

async fn line(stdout: &mut Lines<BufReader<ChildStdout>>) -> FromSidecar {
    let line = timeout(Duration::from_secs(30), stdout.next_line()).await.expect("answers in time");
    serde_json::from_str(&line.expect("reads").expect("a line before the end")).expect("a line of the protocol")
}

async fn say(stdin: &mut ChildStdin, line: &ToSidecar) {
    let text = serde_json::to_string(line).expect("serializes") + "\n";
    stdin.write_all(text.as_bytes()).await.expect("written");
}

/// Spans by id.
fn by_id(spans: &[Span]) -> BTreeMap<&str, &Span> {
    spans.iter().map(|span| (span.id.as_str(), span)).collect()
}

/// `trace id` and `span id` of a `traceparent`.
fn parts(traceparent: &str) -> (String, String) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{traceparent}");
    (parts[1].to_owned(), parts[2].to_owned())
}
