//! The doors of a process: HTTP/1.1, HTTP/2 and gRPC on one port and one socket, the admin listener, bounded shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test helper fails its test")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use agentbus_runtime::admin::{self, Admin};
use agentbus_runtime::metrics;
use agentbus_runtime::ready::Readiness;
use agentbus_runtime::serve::{self, Limits, Peer, Socket};
use axum::routing::get;
use axum::{Extension, Router};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Service;

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        _: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn router() -> Router {
    let grpc = tonic::service::Routes::new(TraceServiceServer::new(Service)).into_axum_router();
    grpc.route("/hello", get(async || "hello"))
        .route("/stuck", get(std::future::pending::<String>).post(async |body: Bytes| body))
        .route("/large", get(async || "x".repeat(16 << 20)))
        .route("/token", get(admitted))
        .route("/long", get(long))
}

async fn admitted(Extension(peer): Extension<Peer>) -> &'static str {
    peer.admit();
    "welcome"
}

/// Longer than any of the waits that the tests set.
async fn long() -> &'static str {
    tokio::time::sleep(Duration::from_secs(1)).await;
    "at last"
}

/// Sends one HTTP/1.1 request on a fresh connection; gives status and body.
async fn ask<S>(stream: S, method: &str, path: &str, headers: &[(&str, &str)]) -> hyper::Result<(u16, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn tcp(router: Router, limits: Limits) -> (std::net::SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let server = tokio::spawn(serve::serve(Socket::Tcp(listener), router, token.clone(), limits));
    (address, token, server)
}

#[tokio::test]
async fn http_and_grpc_share_a_port() {
    let (address, token, server) = tcp(router(), Limits::default()).await;
    let (status, body) = ask(TcpStream::connect(address).await.unwrap(), "GET", "/hello", &[]).await.unwrap();
    assert_eq!((status, body.as_str()), (200, "hello"));

    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = TraceServiceClient::new(channel);
    client.export(ExportTraceServiceRequest::default()).await.unwrap();

    // Idle connections do not hold up a shutdown.
    token.cancel();
    tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stuck_request_is_cut_after_the_grace() {
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
    let (address, token, server) = tcp(router(), limits).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let stuck = tokio::spawn(async move { ask(stream, "GET", "/stuck", &[]).await });
    let (status, _) = ask(TcpStream::connect(address).await.unwrap(), "GET", "/hello", &[]).await.unwrap();
    assert_eq!(status, 200);
    token.cancel();
    tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    assert!(stuck.await.unwrap().is_err());
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let (address, _token, _server) = tcp(router(), limits).await;
    let first = TcpStream::connect(address).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        // The kernel accepts the second connection, the server does not, until the first one leaves.
        let second = TcpStream::connect(address).await.unwrap();
        let mut answer = tokio::spawn(async move { ask(second, "GET", "/hello", &[]).await });
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut answer).await.is_err());
        drop(first);
        assert_eq!(answer.await.unwrap().unwrap().0, 200);
    })
    .await
    .unwrap();
}

/// Sends text and reads until the answer ends with `end`; gives its status.
async fn exchange(stream: &mut TcpStream, request: &str, end: &str) -> u16 {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with(end) {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "ended behind {answer:?}");
        answer.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A connection whose token was right.
async fn known(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(exchange(&mut stream, "GET /token HTTP/1.1\r\nhost: x\r\n\r\n", "welcome").await, 200);
    stream
}

/// What strangers do with the connections they open.
const STRANGERS: [&str; 4] = [
    "",
    "GET /hello HT",
    "POST /stuck HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf",
    // Many answers that are never read.
    "GET /large HTTP/1.1\r\nhost: x\r\n\r\nGET /large HTTP/1.1\r\nhost: x\r\n\r\n",
];

#[tokio::test]
async fn strangers_starve_nobody_who_has_shown_a_token() {
    let limits = Limits { connections_max: 64, guest_wait: Duration::from_secs(3600), ..Limits::default() };
    let (address, _token, _server) = tcp(router(), limits).await;
    let mut before = known(address).await;
    let mut strangers = Vec::new();
    for n in 0..400 {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(STRANGERS[n % STRANGERS.len()].as_bytes()).await.unwrap();
        strangers.push(stranger);
    }
    let served = async {
        drop(known(address).await);
        assert_eq!(exchange(&mut before, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "hello").await, 200);
    };
    tokio::time::timeout(Duration::from_secs(5), served).await.expect("served at once");
}

#[tokio::test]
async fn a_guest_does_not_stay_and_a_long_poll_does() {
    let limits = Limits { guest_wait: Duration::from_millis(200), ..Limits::default() };
    let (address, _token, _server) = tcp(router(), limits).await;
    let mut poll = known(address).await;
    poll.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    for text in STRANGERS {
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(text.as_bytes()).await.unwrap();
        // It ends, by an orderly end or a reset.
        let ends = async { while stranger.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout(Duration::from_secs(5), ends).await.unwrap_or_else(|_| panic!("{text:?} stays"));
    }
    assert_eq!(exchange(&mut poll, "", "at last").await, 200);
}

#[tokio::test]
async fn a_connection_without_requests_ends_and_one_with_a_long_request_does_not() {
    let limits = Limits { idle_wait: Duration::from_millis(100), ..Limits::default() };
    let (address, _token, _server) = tcp(router(), limits).await;
    let (mut idle, mut busy) = (known(address).await, known(address).await);
    busy.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), idle.read(&mut [0; 1])).await.unwrap();
    assert_eq!(ended.unwrap(), 0);
    assert_eq!(exchange(&mut busy, "", "at last").await, 200);
}

#[tokio::test]
async fn what_is_no_http_is_told_so_in_a_problem() {
    let limits = Limits { refusal: |status| format!("refused with {status}"), ..Limits::default() };
    let (address, _token, _server) = tcp(router(), limits).await;
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(70_000));
    let long_head = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    let good = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET /a b HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), 400),
        (long_path, 414),
        (long_head, 431),
        (format!("{good}{good}nonsense\r\n\r\n"), 400),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        let last = answer.rfind("HTTP/1.1").map(|at| &answer[at..]).unwrap_or_default();
        assert!(last.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
        assert!(
            last.contains("application/problem+json") && last.ends_with(&format!("refused with {status}")),
            "{last}"
        );
        assert_eq!(answer.matches("hello").count(), request.matches("/hello").count(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_private_replaces_a_stale_one_and_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead process leaves its socket");

    let socket = serve::bind_unix(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let token = CancellationToken::new();
    let server = tokio::spawn(serve::serve(socket, router(), token.clone(), Limits::default()));
    let (status, _) = ask(UnixStream::connect(&path).await.unwrap(), "GET", "/hello", &[]).await.unwrap();
    assert_eq!(status, 200);
    let taken = serve::serve_unix(&path, router(), token.clone()).await.unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);

    token.cancel();
    server.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn the_admin_listener_tells_and_drains() {
    let (readiness, drain) = (Readiness::new(), CancellationToken::new());
    let latch = readiness.latch("broker");
    let mut registry = Registry::default();
    let events = Counter::<u64>::default();
    registry.register("events", "Events", events.clone());
    events.inc();
    let metrics = Arc::new(move || metrics::encode(&registry));
    let admin = Admin { readiness, metrics, drain: drain.clone(), token: Some("secret".to_owned()) };
    let (open, _token, _server) = tcp(admin::router(Admin { token: None, ..admin.clone() }), Limits::default()).await;
    let (address, _token, _server) = tcp(admin::router(admin), Limits::default()).await;
    let call_at = async |address, method: &str, path: &str, headers: &[(&str, &str)]| {
        ask(TcpStream::connect(address).await.unwrap(), method, path, headers).await.unwrap()
    };
    let call = async |method: &str, path: &str, headers: &[(&str, &str)]| call_at(address, method, path, headers).await;

    assert_eq!(call("GET", "/livez", &[]).await.0, 200);
    let expect = r#"{"ready":false,"parts":{"broker":"starting"}}"#.to_owned();
    assert_eq!(call("GET", "/readyz", &[]).await, (503, expect));
    latch.ready();
    assert_eq!(call("GET", "/readyz", &[]).await, (200, r#"{"ready":true,"parts":{"broker":"ok"}}"#.to_owned()));
    let (_, text) = call("GET", "/metrics", &[]).await;
    assert!(text.contains("events_total 1") && text.ends_with("# EOF\n"), "{text}");

    assert_eq!(call("GET", "/drain", &[]).await.0, 405);
    let token = ("authorization", "Bearer secret");
    assert_eq!(call("POST", "/drain", &[token, ("origin", "http://evil.example")]).await.0, 403);
    assert_eq!(call("POST", "/drain", &[token, ("host", "evil.example")]).await.0, 403);
    assert_eq!(call("GET", "/metrics", &[("host", "evil.example")]).await.0, 403);
    assert_eq!(call("POST", "/drain", &[]).await.0, 401);
    assert_eq!(call("POST", "/drain", &[("authorization", "Bearer secre")]).await.0, 401);
    assert_eq!(call_at(open, "POST", "/drain", &[token]).await.0, 404, "without a token nobody may");
    assert!(!drain.is_cancelled());
    assert_eq!(call("POST", "/drain", &[token]).await.0, 202);
    assert!(drain.is_cancelled());
}
