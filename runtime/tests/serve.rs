//! The doors of a process: HTTP/1.1, HTTP/2 and gRPC on one port and one socket, the admin listener, bounded shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test helper fails its test")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use agentbus_runtime::admin::{self, Admin};
use agentbus_runtime::metrics;
use agentbus_runtime::ready::Readiness;
use agentbus_runtime::serve::{self, Limits, Socket};
use axum::Router;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
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
    grpc.route("/hello", get(async || "hello")).route("/stuck", get(std::future::pending::<String>))
}

/// Sends one HTTP/1.1 request on a fresh connection; gives status and body.
async fn ask<S>(stream: S, method: &str, path: &str, headers: &[(&str, &str)]) -> hyper::Result<(u16, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
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
    let admin = Admin { readiness, metrics: Arc::new(move || metrics::encode(&registry)), drain: drain.clone() };
    let (address, _token, _server) = tcp(admin::router(admin), Limits::default()).await;
    let call = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        ask(TcpStream::connect(address).await.unwrap(), method, path, headers).await.unwrap()
    };

    assert_eq!(call("GET", "/livez", &[]).await.0, 200);
    let expect = r#"{"ready":false,"parts":{"broker":"starting"}}"#.to_owned();
    assert_eq!(call("GET", "/readyz", &[]).await, (503, expect));
    latch.ready();
    assert_eq!(call("GET", "/readyz", &[]).await, (200, r#"{"ready":true,"parts":{"broker":"ok"}}"#.to_owned()));
    let (_, text) = call("GET", "/metrics", &[]).await;
    assert!(text.contains("events_total 1") && text.ends_with("# EOF\n"), "{text}");

    assert_eq!(call("GET", "/drain", &[]).await.0, 405);
    assert_eq!(call("POST", "/drain", &[("origin", "http://evil.example")]).await.0, 403);
    assert!(!drain.is_cancelled());
    assert_eq!(call("POST", "/drain", &[]).await.0, 202);
    assert!(drain.is_cancelled());
}
