//! What a program that embeds agentbus writes in its own tests. The guide shows this file.

use agentbus_sidecar::embed::{Embedded, Member, TOKEN, reads};
use agentbus_tests::http::HttpAgent;
use serde_json::json;

/// An agent of yours talks HTTP to its sidecar; any client does.
fn agent(url: &str) -> HttpAgent {
    HttpAgent { address: url.trim_start_matches("http://").to_owned(), token: TOKEN.to_owned() }
}

#[tokio::test]
async fn two_agents_talk_in_one_process() -> Result<(), agentbus_proto::Fault> {
    // A bus with its streams, in this process. Nothing is installed, and nothing is left behind.
    let bus = Embedded::start().await?;
    // A sidecar beside each of the two agents.
    let writer = bus.sidecar(Member::new("writer").publishes("notes.>")).await?;
    let reader = bus.sidecar(Member::new("reader").takes(reads("readers", &["notes.>"]))).await?;

    // From here on they are agents as anywhere else.
    agent(&writer.url).publish(json!({"to": "notes.created", "data": {"text": "hello"}})).await;
    let delivery = agent(&reader.url).receive_one("5s").await;
    assert_eq!(delivery["event"]["data"]["text"], "hello");
    assert_eq!(delivery["event"]["source"], "writer");
    agent(&reader.url).ack(&delivery).await;

    // The stream itself can be looked at.
    let stored = bus.bus().stream(&bus.names().events()).await?;
    assert_eq!(stored.map(|info| info.messages), Some(1));
    writer.drain().await;
    reader.drain().await;
    Ok(())
}

#[tokio::test]
async fn what_a_member_may_not_publish_is_refused() -> Result<(), agentbus_proto::Fault> {
    let bus = Embedded::start().await?;
    let writer = bus.sidecar(Member::new("writer").publishes("notes.>")).await?;
    let answer = agent(&writer.url).post("/v1/publish", &json!({"to": "files.created"})).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (403, Some("SCOPE_DENIED")));
    Ok(())
}
