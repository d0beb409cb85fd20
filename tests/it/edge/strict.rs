//! Nothing that is sent is silently ignored, and whatever cannot be read is refused with a problem and a stable code.

use std::collections::BTreeMap;

use agentbus_proto::sidecar::v1::Subscription;
use agentbus_proto::{Code, Fault};
use agentbus_tests::grpc;
use agentbus_tests::http::request;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use super::openapi::routed;
use super::{Edge, Reply, exchange};

/// A message of the older format that says one thing too many; one without the rest is told what it lacks.
const MESSAGE: &str = r#"{"message_id":"m","from_agent":"a","to_agent":"b","message_type":"t","body":{},"nonsense":1}"#;

impl Edge {
    /// Any request with the token, as text.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        let (address, token, length) = (self.sidecar.address(), &self.sidecar.token, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        let text = format!("{head}Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}");
        exchange(TcpStream::connect(&address).await.unwrap(), &text).await
    }

    async fn refused(&self, (method, path): (&str, &str), body: &str, status: u16, code: Code, wanted: &str) -> Reply {
        let reply = self.ask(method, path, body).await;
        let told = (reply.status, reply.body["status"].as_u64(), Fault::from_problem_json(&reply.body));
        let expected = (status, Some(u64::from(status)), Some(code));
        let fault = told.2.clone();
        assert_eq!(
            (told.0, told.1, told.2.map(|fault| fault.code)),
            expected,
            "{method} {path} {body}: {}",
            reply.body
        );
        assert!(fault.unwrap().message.contains(wanted), "{method} {path} {body}: {}", reply.body);
        assert!(reply.head.contains("content-type: application/problem+json"), "{}", reply.head);
        reply
    }
}

#[tokio::test]
async fn every_route_refuses_what_it_would_ignore_or_cannot_read_and_says_why() {
    let edge = Edge::start().await;
    let mut methods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let bad = Code::InvalidEvent;
    for (method, path) in routed() {
        let path = path.replace("{id}", "x").replace("{*id}", "x");
        for verb in if path.contains("{verb}") { &["ack", "nack", "reject", "extend", "reply"][..] } else { &[""] } {
            let (method, path) = (method.to_uppercase(), path.replace("{verb}", verb));
            let (key, escape, utf8) =
                (format!("{path}?nonsense=1"), format!("{path}?page_size=%zz"), format!("{path}%ff"));
            edge.refused((&method, &key), "", 400, bad, "nonsense").await;
            edge.refused((&method, &escape), "", 400, bad, "%zz").await;
            edge.refused((&method, &utf8), "", 400, bad, "%FF").await;
            if method == "POST" {
                let unknown = if path == "/v1/messages" { MESSAGE } else { r#"{"nonsense":1}"# };
                edge.refused((&method, &path), unknown, 400, bad, "`nonsense`").await;
                edge.refused((&method, &path), "{", 400, bad, "line 1 column 1").await;
                edge.refused((&method, &path), "[]", 400, bad, "expected an object").await;
            } else {
                edge.refused((&method, &path), "{}", 400, bad, "takes no body").await;
            }
            methods.entry(path).or_default().push(method);
        }
    }
    for (path, methods) in methods {
        let reply = edge.refused(("PATCH", &path), "", 405, Code::NotFound, "takes no PATCH").await;
        let allowed =
            reply.head.lines().find_map(|line| line.strip_prefix("allow: ")).expect("an `Allow`").to_uppercase();
        for method in methods {
            assert!(allowed.split(',').any(|one| one.trim() == method), "{path}: {allowed}");
        }
    }
    edge.refused(("GET", "/v1/nothing"), "", 404, Code::NotFound, "/v1/nothing").await;
    edge.refused(("GET", "/v1/schedules?page_size=x"), "", 400, bad, "page_size").await;
    edge.refused(("GET", "/v1/schedules?page_size=1&page_size=2"), "", 400, bad, "page_size").await;
    assert_eq!(edge.stored().await, 0);
}

#[tokio::test]
async fn structures_are_objects_and_come_once() {
    let edge = Edge::start().await;
    let bad = Code::InvalidEvent;
    for (path, body, wanted) in [
        ("/v1/publish", r#"{"to":"notes.a","delivery":[]}"#, "expected an object"),
        ("/v1/publish", r#"{"to":"notes.a","delivery":{"backoff":[]}}"#, "expected an object"),
        ("/v1/ask", r#"{"to":"notes.a","delivery":[]}"#, "expected an object"),
        ("/v1/deliveries/x/ack", r#"{"emit":[["notes.a"]]}"#, "expected an object"),
        ("/v1/schedules", r#"{"to":"notes.a","delivery":[],"after":"1h"}"#, "expected an object"),
        ("/v1/schedules", r#"{"to":"notes.a","after":"1h","prio":1}"#, "unknown field `prio`"),
        ("/v1/schedules", r#"{"to":"notes.a","aftr":"1h"}"#, "unknown field `aftr`"),
        ("/v1/schedules", r#"{"to":"notes.a","after":"1h","after":"2h"}"#, "duplicate field `after`"),
        ("/v1/schedules", r#"{"to":"notes.a","to":"notes.b","after":"2h"}"#, "duplicate field `to`"),
    ] {
        edge.refused(("POST", path), body, 400, bad, wanted).await;
    }
    assert_eq!(edge.stored().await, 0);
}

#[tokio::test]
async fn a_group_cannot_ask_for_what_no_event_can_be() {
    let edge = Edge::start().await;
    for (filter, wanted) in [
        (json!({"types": ["a b"]}), "type `a b`"),
        (json!({"types": ["good.v1", ""]}), "type is empty"),
        (json!({"types": ["notes.*"]}), "wildcard"),
        (json!({"attributes": {"ab-kind": "x"}}), "reserved"),
    ] {
        let mut body = json!({"patterns": ["notes.>"], "group": "picky"});
        body.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        edge.refused(("POST", "/v1/subscriptions"), &body.to_string(), 400, Code::InvalidEvent, wanted).await;
    }
    let types = vec!["a b".to_owned()];
    let subscription =
        Subscription { patterns: vec!["notes.>".into()], group: "picky".into(), types, ..Subscription::default() };
    let opened = grpc::Stream::try_open(&mut grpc::client(&edge.sidecar).await, vec![subscription], 1).await;
    assert_eq!(opened.err().map(|fault| fault.code), Some(Code::InvalidEvent));
}

#[tokio::test]
async fn what_is_no_http_has_a_code_too() {
    let edge = Edge::start().await;
    let address = edge.sidecar.address();
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000));
    let long_head = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    for (text, status, code) in [
        ("nonsense\r\n\r\n", 400, "INVALID_EVENT"),
        ("GET /a b HTTP/1.1\r\n\r\n", 400, "INVALID_EVENT"),
        (&long_path, 414, "TOO_LARGE"),
        (&long_head, 431, "TOO_LARGE"),
    ] {
        let reply = exchange(TcpStream::connect(&address).await.unwrap(), text).await;
        assert_eq!((reply.status, reply.body["status"].as_u64()), (status, Some(u64::from(status))), "{}", reply.body);
        assert_eq!(reply.body["code"], code, "{}", reply.body);
        assert!(reply.head.contains("content-type: application/problem+json"), "{}", reply.head);
    }
}

/// A unary call with these bytes as its message; the status and our code.
async fn call(edge: &Edge, path: &str, message: &[u8]) -> (String, String) {
    let address = edge.sidecar.address();
    let stream = TokioIo::new(TcpStream::connect(&address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0], &length[..], message].concat();
    let request = hyper::Request::builder()
        .method("POST")
        .uri(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", edge.sidecar.token))
        .body(Full::new(Bytes::from(frame)));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let text = |name: &str| {
        let value = head.headers.get(name).or(trailers.get(name));
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    (text("grpc-status"), text("agentbus-code"))
}

#[tokio::test]
async fn malformed_calls_have_a_code_over_grpc() {
    let edge = Edge::start().await;
    let broken = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    let invalid = ("3".to_owned(), "INVALID_EVENT".to_owned());
    for method in ["Publish", "PublishStream", "Subscribe", "Receive", "Settle", "Ask", "Replay", "GetStatus", "Report"]
    {
        assert_eq!(call(&edge, &format!("/agentbus.sidecar.v1.Sidecar/{method}"), broken).await, invalid, "{method}");
    }
    let nowhere = ("12".to_owned(), "NOT_FOUND".to_owned());
    for path in ["/agentbus.sidecar.v1.Sidecar/Nothing", "/no.Such/Service", "/v1/nothing"] {
        assert_eq!(call(&edge, path, b"").await, nowhere, "{path}");
    }
    let auth = [("authorization", format!("Bearer {}", edge.sidecar.token))];
    let path = "/agentbus.sidecar.v1.Sidecar/Publish";
    let plain = request(&edge.sidecar.address(), "POST", path, &auth, "{}".into()).await.unwrap();
    assert_eq!((plain.status, plain.body["code"].as_str()), (404, Some("NOT_FOUND")), "{}", plain.body);
}
