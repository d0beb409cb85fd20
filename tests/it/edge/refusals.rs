//! Bad input by HTTP and gRPC: each with its stable code and a text that says what is wrong, and nothing stored.

use agentbus_proto::event::v1::{Address, Event, address::Kind};
use agentbus_proto::sidecar::v1 as pb;
use agentbus_proto::sidecar::wire;
use agentbus_proto::sidecar::wire::sidecar_client::SidecarClient;
use agentbus_proto::{Code, Fault};
use agentbus_tests::grpc;
use agentbus_tests::http::request;
use prost::Message;
use tonic::Request;
use tonic::transport::Channel;

use super::Edge;

/// Bodies of a publish, with status, code and a part of the text.
const BAD_JSON: [(&str, u16, &str, &str); 22] = [
    ("", 400, "INVALID_EVENT", "EOF while parsing a value at line 1 column 0"),
    ("{\n \"to\": \"notes.a\",\n oops}", 400, "INVALID_EVENT", "at line 3 column 2"),
    (r#"{"to":"notes.a"} x"#, 400, "INVALID_EVENT", "trailing characters at line 1 column 18"),
    (r#"{"to":"notes.a","data":{"#, 400, "INVALID_EVENT", "EOF while parsing"),
    (r#"{"to":"notes.a","prio":1}"#, 400, "INVALID_EVENT", "unknown field `prio`"),
    (r#"{"to":"notes.a","source":"admin"}"#, 400, "INVALID_EVENT", "unknown field `source`"),
    (r#"{"data":1}"#, 400, "INVALID_EVENT", "missing field `to`"),
    (r#"{"to":""}"#, 400, "INVALID_ADDRESS", "address is empty"),
    (r#"{"to":"notes..a"}"#, 400, "INVALID_ADDRESS", "notes..a"),
    (r#"{"to":"notes.*"}"#, 400, "INVALID_ADDRESS", "wildcard *"),
    (r#"{"to":"notes.>"}"#, 400, "INVALID_ADDRESS", "wildcard >"),
    (r#"{"to":"notes a"}"#, 400, "INVALID_ADDRESS", "' '"),
    (r#"{"to":"@reviewer"}"#, 400, "INVALID_ADDRESS", "no agent or pool `@reviewer` is declared"),
    (r#"{"to":"@reviewer","park":true}"#, 403, "SCOPE_DENIED", "`@reviewer`"),
    (r##"{"to":"#eng"}"##, 400, "INVALID_ADDRESS", "no channel `#eng` is declared"),
    (r##"{"to":"#all"}"##, 403, "SCOPE_DENIED", "`#all`"),
    (r#"{"to":"other.a"}"#, 403, "SCOPE_DENIED", "`other.a`"),
    (r#"{"to":"notes.a","ttl":"0s"}"#, 410, "EXPIRED", "before it was published"),
    (r#"{"to":"notes.a","ttl":"-1s"}"#, 400, "INVALID_EVENT", "`-1s` is not a duration"),
    (r#"{"to":"notes.a","hops":33}"#, 422, "HOP_LIMIT", "`hops` is 33; at most 32"),
    (r#"{"to":"notes.a","attributes":{"Ab-Group":"x"}}"#, 400, "INVALID_EVENT", "reserved"),
    (r#"{"to":"notes.a","data":1,"data_base64":"AA=="}"#, 400, "INVALID_EVENT", "not both"),
];

#[tokio::test]
async fn bad_json_is_refused_and_says_where() {
    let edge = Edge::start().await;
    let auth = [("authorization", format!("Bearer {}", edge.sidecar.token))];
    for (body, status, code, wanted) in BAD_JSON {
        let answer = request(&edge.sidecar.address(), "POST", "/v1/publish", &auth, body.into()).await.unwrap();
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{body}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(wanted), "{body}: {}", answer.body);
    }
    for path in ["/v1/subscriptions", "/v1/receive", "/v1/deliveries/x/nack"] {
        let body = "{\"nonsense\": 1}".into();
        let answer = request(&edge.sidecar.address(), "POST", path, &auth, body).await.unwrap();
        assert_eq!((answer.status, answer.body["code"].as_str()), (400, Some("INVALID_EVENT")), "{path}");
        assert!(answer.body["detail"].as_str().unwrap().contains("unknown field `nonsense`"), "{}", answer.body);
    }
    assert_eq!(edge.stored().await, 0);
}

fn to(kind: Kind) -> Option<Address> {
    Some(Address { kind: Some(kind) })
}

#[tokio::test]
async fn bad_events_are_refused_by_grpc() {
    let edge = Edge::start().await;
    let mut client = grpc::client(&edge.sidecar).await;
    let good = || grpc::event("notes.a", "x");
    let past = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let cases = [
        (None, Code::InvalidEvent, "no event"),
        (Some(Event { to: None, ..good() }), Code::InvalidAddress, "no `to`"),
        (Some(Event { to: to(Kind::Agent("reviewer".into())), ..good() }), Code::InvalidAddress, "`@reviewer`"),
        (Some(Event { to: to(Kind::Channel("all".into())), ..good() }), Code::ScopeDenied, "`#all`"),
        (Some(Event { to: to(Kind::Topic("a.>".into())), ..good() }), Code::InvalidAddress, "wildcard >"),
        (Some(Event { expires: Some(past), ..good() }), Code::Expired, "expired at 1970"),
        (Some(Event { hops: 33, ..good() }), Code::HopLimit, "`hops` is 33"),
        (Some(Event { id: "a b".into(), ..good() }), Code::InvalidEvent, "`id` contains ' '"),
        (Some(Event { priority: 9, ..good() }), Code::InvalidEvent, "`priority`"),
    ];
    for (event, code, wanted) in cases {
        let request = pb::PublishRequest { event: event.clone(), ..Default::default() };
        let fault = Fault::from(client.publish(request).await.unwrap_err());
        assert_eq!(fault.code, code, "{event:?}: {fault}");
        assert!(fault.message.contains(wanted), "{event:?}: {fault}");
    }
    let ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let request = pb::PublishRequest { event: Some(good()), ttl, ..Default::default() };
    assert_eq!(Fault::from(client.publish(request).await.unwrap_err()).message, "`ttl` is negative or out of range");
    assert_eq!(edge.stored().await, 0);
}

/// Encoded events that are none. A valid event with `data` as a number would fail only at its receivers.
fn garbage() -> [(Vec<u8>, &'static str); 5] {
    let good = grpc::event("notes.a", "").encode_to_vec();
    let and = |tail: &[u8]| [&good[..], tail].concat();
    [
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "not an agentbus.event.v1.Event"),
        (good[..good.len() - 1].to_vec(), "not an agentbus.event.v1.Event"),
        (and(b"\x0a\x02\xff\xfe"), "not an agentbus.event.v1.Event"),
        (and(b"\x68\x01"), "`data` is not bytes"),
        (and(b"\x6a\x7f"), "not an agentbus.event.v1.Event"),
    ]
}

#[tokio::test]
async fn bytes_that_are_no_event_are_refused() {
    let edge = Edge::start().await;
    let channel = Channel::from_shared(edge.sidecar.url.clone()).unwrap().connect().await.unwrap();
    let mut client = SidecarClient::new(channel);
    for (bytes, wanted) in garbage() {
        let event = bytes.clone().into();
        let mut request = Request::new(wire::PublishRequest { event, ..Default::default() });
        let token = format!("Bearer {}", edge.sidecar.token).parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let fault = Fault::from(client.publish(request).await.unwrap_err());
        assert_eq!(fault.code, Code::InvalidEvent, "{bytes:x?}");
        assert!(fault.message.contains(wanted), "{bytes:x?}: {fault}");
    }
    assert_eq!(edge.stored().await, 0);
}
