//! Sizes: an event over the limit is refused with both numbers, and no body makes the sidecar grow.

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::{Code, Fault};
use agentbus_tests::broker::EVENT_BYTES_MAX;
use agentbus_tests::grpc;
use serde_json::{Map, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Edge, exchange};

#[tokio::test]
async fn an_event_over_the_limit_is_refused_with_both_numbers() {
    let edge = Edge::start().await;
    let answer = edge.agent.post("/v1/publish", &json!({"to": "notes.a", "data": "x".repeat(EVENT_BYTES_MAX)})).await;
    let detail = answer.body["detail"].as_str().unwrap();
    assert_eq!((answer.status, answer.body["code"].as_str()), (413, Some("TOO_LARGE")));
    assert!(detail.contains("the event has 1032") && detail.contains(&EVENT_BYTES_MAX.to_string()), "{detail}");

    let mut client = grpc::client(&edge.sidecar).await;
    let publish = |bytes: usize| PublishRequest {
        event: Some(grpc::event("notes.a", vec![b'x'; bytes])),
        ..PublishRequest::default()
    };
    let fault = Fault::from(client.publish(publish(EVENT_BYTES_MAX)).await.unwrap_err());
    assert_eq!(fault.code, Code::TooLarge);
    assert!(fault.message.contains(&format!("at most {EVENT_BYTES_MAX}")), "{fault}");
    assert_eq!(edge.stored().await, 0);

    client.publish(publish(EVENT_BYTES_MAX - 400)).await.unwrap();
    let delivery = edge.agent.receive_one("20s").await;
    let answer = edge.agent.settle(&delivery, "reject", json!({"reason": "y".repeat(600)})).await;
    assert_eq!(answer.status, 200, "the largest event fits as a dead letter: {}", answer.body);
}

#[tokio::test]
async fn a_frame_far_over_the_limit_is_refused() {
    let edge = Edge::start().await;
    let mut client = grpc::client(&edge.sidecar).await;
    let event = Some(grpc::event("notes.a", vec![b'x'; 20 << 20]));
    let fault = Fault::from(client.publish(PublishRequest { event, ..Default::default() }).await.unwrap_err());
    assert_eq!(fault.code, Code::TooLarge, "{fault}");
}

#[tokio::test]
async fn attributes_over_their_limits_are_refused() {
    let edge = Edge::start().await;
    let many: Map<_, _> = (0..33).map(|n| (format!("k{n}"), json!("v"))).collect();
    for (attributes, wanted) in [
        (json!(many), "33 attributes; at most 32"),
        (json!({"k": "v".repeat(8192)}), "8193 bytes; at most 8192"),
        (json!({"": "v"}), "empty key"),
    ] {
        let answer = edge.agent.post("/v1/publish", &json!({"to": "notes.a", "attributes": attributes})).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("INVALID_EVENT")));
        assert!(answer.body["detail"].as_str().unwrap().contains(wanted), "{}", answer.body);
    }
    let mut client = grpc::client(&edge.sidecar).await;
    let attributes = (0..33).map(|n| (n.to_string(), String::new())).collect();
    let event = Some(Event { attributes, ..grpc::event("notes.a", "x") });
    let fault = Fault::from(client.publish(PublishRequest { event, ..Default::default() }).await.unwrap_err());
    assert_eq!(fault.code, Code::InvalidEvent);
}

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn a_huge_body_is_refused_before_it_is_read() {
    let edge = Edge::start().await;
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        edge.sidecar.address(),
        edge.sidecar.token,
        1024 * MIB
    );
    let reply = exchange(TcpStream::connect(edge.sidecar.address()).await.unwrap(), &head).await;
    assert_eq!((reply.status, reply.body["code"].as_str()), (413, Some("TOO_LARGE")));
    let detail = reply.body["detail"].as_str().unwrap();
    assert!(detail.contains("1073741824") && detail.contains(&EVENT_BYTES_MAX.to_string()), "{detail}");
}

/// Sends chunks without an announced length until the sidecar hangs up; how many MiB went out.
async fn pour(edge: &Edge) -> u64 {
    let mut stream = TcpStream::connect(edge.sidecar.address()).await.unwrap();
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        edge.sidecar.address(),
        edge.sidecar.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(MIB as usize));
    for sent in 0..256 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            return sent;
        }
    }
    256
}

#[tokio::test]
async fn bodies_without_end_do_not_make_the_sidecar_grow() {
    let edge = Edge::start().await;
    edge.agent.publish(json!({"to": "notes.a"})).await;
    let before = edge.sidecar.resident_bytes();
    for _ in 0..4 {
        let sent = pour(&edge).await;
        assert!(sent < 64, "{sent} MiB were taken");
    }
    let grown = edge.sidecar.resident_bytes().saturating_sub(before);
    assert!(grown < 12 * MIB, "grew by {grown} bytes");
    edge.agent.publish(json!({"to": "notes.a"})).await;
}
