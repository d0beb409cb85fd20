//! Spans really arrive at a collector: over gRPC and over HTTP, from a `current_thread` runtime, flushed at shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test helper fails its test")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use agentbus_runtime::telemetry::{self, Options};
use agentbus_runtime::trace::{Context, Kind, Tracer, semconv};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

type Received = mpsc::UnboundedReceiver<ExportTraceServiceRequest>;

struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let _ = self.0.send(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn grpc_collector() -> (SocketAddr, Received) {
    let (tx, rx) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(tx)));
    tokio::spawn(server.serve_with_incoming(incoming));
    (address, rx)
}

async fn http_collector() -> (SocketAddr, Received) {
    let (tx, rx) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let export = move |body: axum::body::Bytes| {
        let _ = tx.send(ExportTraceServiceRequest::decode(body).unwrap());
        async { ExportTraceServiceResponse::default().encode_to_vec() }
    };
    let router = axum::Router::new().route("/v1/traces", axum::routing::post(export));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, rx)
}

fn options(endpoint: String) -> Options {
    let service_name = "test".to_owned();
    Options { service_name, instance: Some("test-0".to_owned()), otlp: Some(endpoint), log_json: false }
}

/// publish (failed) -> process, the latter linked to the former and begun a second ago.
fn record(tracer: &Tracer) -> (Context, Context) {
    let mut publish = tracer.start(Kind::Producer, "publish task.done", None, &[], None);
    publish.attr(semconv::MESSAGING_SYSTEM, semconv::SYSTEM);
    publish.attr(semconv::AGENTBUS_ATTEMPT, 2);
    publish.fail("no room");
    let parent = publish.context();
    let start = SystemTime::now() - Duration::from_secs(1);
    let process = tracer.start(Kind::Consumer, "process task.done", Some(&parent), &[parent], Some(start));
    let child = process.context();
    process.end_at(start + Duration::from_millis(250));
    (parent, child)
}

fn spans(received: &mut Received) -> HashMap<String, Span> {
    let mut spans = HashMap::new();
    while let Ok(request) = received.try_recv() {
        for resource in request.resource_spans {
            let attributes = resource.resource.clone().unwrap().attributes;
            assert!(attributes.iter().any(|pair| pair.key == "service.instance.id"), "{attributes:?}");
            let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(found.map(|span| (span.name.clone(), span)));
        }
    }
    spans
}

async fn check(endpoint: String, mut received: Received) {
    let telemetry = telemetry::init(options(endpoint)).unwrap();
    let (parent, child) = record(&telemetry.tracer());
    assert_eq!(parent.trace_id, child.trace_id);
    telemetry.shutdown().await;

    let spans = spans(&mut received);
    let publish = &spans["publish task.done"];
    let process = &spans["process task.done"];
    assert_eq!(publish.trace_id, parent.trace_id);
    assert_eq!(publish.status.as_ref().unwrap().message, "no room");
    assert_eq!(publish.attributes.len(), 2);
    assert_eq!(process.span_id, child.span_id);
    assert_eq!(process.parent_span_id, parent.span_id);
    assert_eq!(process.links[0].span_id, parent.span_id);
    assert_eq!(process.end_time_unix_nano - process.start_time_unix_nano, 250_000_000);
}

#[tokio::test(flavor = "current_thread")]
async fn spans_arrive_over_grpc() {
    let (address, received) = grpc_collector().await;
    check(format!("http://{address}"), received).await;
}

#[tokio::test(flavor = "current_thread")]
async fn spans_arrive_over_http() {
    let (address, received) = http_collector().await;
    check(format!("http://{address}/v1/traces"), received).await;
}

#[tokio::test(flavor = "current_thread")]
async fn spans_arrive_without_a_flush() {
    let (address, mut received) = grpc_collector().await;
    let telemetry = telemetry::init(options(format!("http://{address}"))).unwrap();
    record(&telemetry.tracer());
    let request = tokio::time::timeout(Duration::from_secs(10), received.recv()).await.expect("nothing exported");
    assert!(request.is_some());
    telemetry.shutdown().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_collector_that_is_away_delays_nobody_for_long() {
    // Bound, never accepting: the connection is made, no answer ever comes.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let telemetry = telemetry::init(options(format!("http://{}", silent.local_addr().unwrap()))).unwrap();
    let tracer = telemetry.tracer();
    record(&tracer);
    let before = Instant::now();
    telemetry.shutdown().await;
    assert!(before.elapsed() < Duration::from_secs(7), "{:?}", before.elapsed());
    // After shutdown contexts are still passed on.
    let parent = Context::root();
    assert_eq!(tracer.start(Kind::Internal, "late", Some(&parent), &[], None).context(), parent);
}
