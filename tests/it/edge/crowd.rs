//! A crowd without a token at the door: whoever has one is served at once.

use std::time::{Duration, Instant};

use agentbus_tests::http::HttpAgent;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Edge;

/// More than a sidecar keeps open.
const CROWD: usize = 1300;
/// Nobody waits for a timeout of somebody else.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What those do that say something: half a head, half a body, requests whose answers they do not read.
const WORDS: [&str; 4] = [
    "",
    "POST /v1/publish HT",
    "POST /v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

#[tokio::test]
async fn silent_half_sent_and_unread_connections_keep_nobody_with_a_token_out() {
    agentbus_runtime::files::raise_open_max();
    let edge = Edge::start().await;
    // A long poll is under way, and ends with its delivery.
    let agent = HttpAgent::of(&edge.sidecar);
    let poll = tokio::spawn(async move { agent.receive_one("60s").await });
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        let mut stranger = TcpStream::connect(edge.sidecar.address()).await.unwrap();
        let words = WORDS[n % WORDS.len()];
        // Many times over for those who do not read. Whoever is cut already cannot write.
        let _ = stranger.write_all(words.repeat(if n % WORDS.len() == 3 { 50 } else { 1 }).as_bytes()).await;
        crowd.push(stranger);
    }
    let before = Instant::now();
    edge.agent.publish(json!({"to": "notes.created", "data": 1})).await;
    let delivery = poll.await.unwrap();
    edge.agent.ack(&delivery).await;
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    // The admin listener has no tokens; it is not shut by a crowd either.
    let admin = edge.sidecar.admin.trim_start_matches("http://").to_owned();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(&admin).await.unwrap());
    }
    let before = Instant::now();
    assert_eq!(edge.admin("GET", "/livez", &[]).await.status, 200);
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
}
