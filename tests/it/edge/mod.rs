//! The sidecar's edge: who comes in, what is refused and how, what every verb answers.

mod admin;
mod crowd;
mod curl;
mod door;
mod headers;
mod ids;
mod limits;
mod messages;
mod openapi;
mod refusals;
mod settle;
mod stream;
mod strict;
mod verbs;

use agentbus_tests::http::HttpAgent;
use agentbus_tests::{Broker, Member, SidecarProcess};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A broker, and the sidecar of `writer`, which publishes to `notes.>` and reads it as group `reader`.
struct Edge {
    broker: Broker,
    sidecar: SidecarProcess,
    agent: HttpAgent,
}

impl Edge {
    async fn start() -> Self {
        Self::start_as(Member::default()).await
    }

    async fn start_as(member: Member<'_>) -> Self {
        let broker = Broker::start().await;
        let groups = [broker.group("reader", &["notes.>"]).await];
        let member = Member { agent: "writer", groups: &groups, publish: &["notes.>"], ..member };
        let sidecar = SidecarProcess::start(&broker, member).await;
        let agent = HttpAgent::of(&sidecar);
        Self { broker, sidecar, agent }
    }

    /// Events stored so far.
    async fn stored(&self) -> u64 {
        self.broker.count(&self.broker.names.events()).await
    }
}

/// An HTTP answer with its head, for what `HttpAgent` does not show.
struct Reply {
    status: u16,
    head: String,
    body: Value,
}

/// Writes a request as it is and reads the answer to the end; the server may hang up before it has read everything.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Reply {
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Reply { status, head: head.to_lowercase(), body }
}

/// A publish request with these header lines, as text.
fn publish_text(headers: &str) -> String {
    let body = r#"{"to":"notes.created"}"#;
    let length = body.len();
    format!("POST /v1/publish HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}
