//! Who comes in: the token, the `Host`, the `Origin`, on HTTP, on gRPC and on the unix socket.

use std::os::unix::fs::PermissionsExt;

use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::sidecar::v1::sidecar_client::SidecarClient;
use agentbus_tests::{Broker, Member, SidecarProcess, grpc};
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use super::{Edge, exchange, publish_text};

/// Header lines that must not come in, with the status and code of the refusal. `HERE` is the sidecar's port.
const REFUSED: [(&str, u16, &str); 12] = [
    ("Host: 127.0.0.1:HERE\r\n", 401, "UNAUTHENTICATED"),
    ("Host: 127.0.0.1:HERE\r\nAuthorization: Bearer wrong\r\n", 401, "UNAUTHENTICATED"),
    ("Host: 127.0.0.1:HERE\r\nAuthorization: Basic TOKEN\r\n", 401, "UNAUTHENTICATED"),
    ("Host: 127.0.0.1:HERE\r\nAuthorization: Bearer \r\n", 401, "UNAUTHENTICATED"),
    ("Host: evil.example\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: evil.example:HERE\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: 127.0.0.1:1\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: 127.0.0.1.evil.example:HERE\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: localhost:HERE\r\nOrigin: http://evil.example\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: localhost:HERE\r\nOrigin: null\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: localhost:HERE\r\nOrigin: http://localhost\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
    ("Host: localhost:HERE\r\nOrigin: https://localhost:HERE\r\nAuthorization: Bearer TOKEN\r\n", 403, "SCOPE_DENIED"),
];

#[tokio::test]
async fn nobody_else_comes_in_by_http() {
    let edge = Edge::start().await;
    let address = edge.sidecar.address();
    let port = address.rsplit(':').next().unwrap();
    for (headers, status, code) in REFUSED {
        let request = publish_text(&headers.replace("HERE", port).replace("TOKEN", &edge.sidecar.token));
        let reply = exchange(TcpStream::connect(&address).await.unwrap(), &request).await;
        assert_eq!((reply.status, reply.body["code"].as_str()), (status, Some(code)), "{headers}");
        assert_eq!(reply.body["status"], status, "{headers}");
        assert!(reply.head.contains("content-type: application/problem+json"), "{}", reply.head);
        assert_eq!(reply.head.contains("www-authenticate: bearer"), status == 401, "{}", reply.head);
    }
    assert_eq!(edge.stored().await, 0);
}

#[tokio::test]
async fn loopback_names_with_the_right_port_come_in() {
    let edge = Edge::start().await;
    let address = edge.sidecar.address();
    let (port, token) = (address.rsplit(':').next().unwrap(), &edge.sidecar.token);
    for host in ["127.0.0.1", "localhost", "LocalHost", "[::1]"] {
        let headers = format!("Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\n");
        let reply = exchange(TcpStream::connect(&address).await.unwrap(), &publish_text(&headers)).await;
        assert_eq!(reply.status, 200, "{host}: {}", reply.body);
    }
}

/// Publishes by gRPC with this `:authority` and these metadata.
async fn call(sidecar: &SidecarProcess, authority: &str, metadata: &[(&'static str, &str)]) -> Result<(), Status> {
    let origin = format!("http://{authority}").parse().unwrap();
    let channel = Endpoint::from_shared(sidecar.url.clone()).unwrap().origin(origin).connect().await.unwrap();
    let event = Some(grpc::event("notes.created", "x"));
    let mut request = Request::new(PublishRequest { event, ..PublishRequest::default() });
    for (key, value) in metadata {
        request.metadata_mut().insert(MetadataKey::from_static(key), value.parse().unwrap());
    }
    SidecarClient::new(channel).publish(request).await.map(drop)
}

fn code(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("agentbus-code").and_then(|value| value.to_str().ok())
}

#[tokio::test]
async fn nobody_else_comes_in_by_grpc() {
    let edge = Edge::start().await;
    let here = edge.sidecar.address();
    let rebound = here.replace("127.0.0.1", "evil.example");
    let token = format!("Bearer {}", edge.sidecar.token);
    let auth = ("authorization", token.as_str());
    let refused = [
        (&here, vec![], Code::Unauthenticated, "UNAUTHENTICATED"),
        (&here, vec![("authorization", "Bearer wrong")], Code::Unauthenticated, "UNAUTHENTICATED"),
        (&rebound, vec![auth], Code::PermissionDenied, "SCOPE_DENIED"),
        (&here, vec![auth, ("origin", "http://evil.example")], Code::PermissionDenied, "SCOPE_DENIED"),
        (&here, vec![auth, ("origin", "null")], Code::PermissionDenied, "SCOPE_DENIED"),
    ];
    for (authority, metadata, status, name) in refused {
        let refusal = call(&edge.sidecar, authority, &metadata).await.unwrap_err();
        assert_eq!((refusal.code(), code(refusal.metadata())), (status, Some(name)), "{metadata:?}");
    }
    assert_eq!(edge.stored().await, 0);
    call(&edge.sidecar, &here, &[auth]).await.unwrap();
    assert_eq!(edge.stored().await, 1);
}

#[tokio::test]
async fn the_unix_socket_is_the_owners_alone_and_asks_for_the_token_too() {
    let broker = Broker::start().await;
    let path = broker.dir.path().join("s.sock");
    let unix = path.to_str();
    let mut sidecar =
        SidecarProcess::start(&broker, Member { agent: "writer", publish: &["notes.>"], unix, ..Member::default() })
            .await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let ask =
        async |headers: String| exchange(UnixStream::connect(&path).await.unwrap(), &publish_text(&headers)).await;
    let token = &sidecar.token;
    assert_eq!(ask(format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n")).await.status, 200);
    assert_eq!(ask("Host: localhost\r\n".to_owned()).await.status, 401);
    assert_eq!(ask(format!("Host: evil.example\r\nAuthorization: Bearer {token}\r\n")).await.status, 403);
    assert!(sidecar.drain().await.success());
    assert!(!path.exists());
}
