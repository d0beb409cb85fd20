//! An OTLP collector for tests: takes spans by gRPC and by HTTP/protobuf on one loopback port and keeps them.
//!
//! It speaks the real protocol (the generated services of opentelemetry-proto), so that what is tested is what a
//! Jaeger would get.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::http::header;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// One received span, in plain words.
#[derive(Debug, Clone)]
pub struct Span {
    /// How it came: `grpc` or `http`.
    pub by: &'static str,
    /// `service.instance.id` of its process.
    pub instance: String,
    /// `service.name` of its process.
    pub service: String,
    /// Name.
    pub name: String,
    /// Kind as OTLP names it: `Producer`, `Consumer`, `Client`.
    pub kind: String,
    /// Trace id, hex.
    pub trace: String,
    /// Span id, hex.
    pub id: String,
    /// Parent's span id, hex; empty for a root.
    pub parent: String,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether it is marked as failed.
    pub failed: bool,
    /// Start, nanoseconds since the epoch.
    pub start: u64,
    /// End, nanoseconds since the epoch.
    pub end: u64,
}

impl Span {
    /// An attribute's text; empty when it is not set.
    pub fn attr(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A running collector. Ends when dropped.
pub struct Collector {
    /// `http://127.0.0.1:<port>`, for both protocols.
    pub url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    server: AbortHandle,
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Starts one.
    pub async fn start() -> Self {
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let sink = Sink(spans.clone());
        let http = sink.clone();
        let by_http = move |body: axum::body::Bytes| async move {
            http.take("http", ExportTraceServiceRequest::decode(body).expect("a trace request"));
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            ([(header::CONTENT_TYPE, "application/x-protobuf")], answer)
        };
        let router = Routes::new(TraceServiceServer::new(sink)).prepare().into_axum_router();
        let router = router.route("/v1/traces", post(by_http));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url, spans, server }
    }

    /// Everything received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("not poisoned").clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take("grpc", request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Sink {
    fn take(&self, by: &'static str, request: ExportTraceServiceRequest) {
        let mut spans = self.0.lock().expect("not poisoned");
        for group in request.resource_spans {
            let resource = texts(group.resource.map(|resource| resource.attributes).unwrap_or_default());
            let all = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(all.map(|span| read(by, &resource, span)));
        }
    }
}

fn read(by: &'static str, resource: &BTreeMap<String, String>, span: otlp::Span) -> Span {
    let of = |key: &str| resource.get(key).cloned().unwrap_or_default();
    Span {
        by,
        instance: of("service.instance.id"),
        service: of("service.name"),
        kind: format!("{:?}", span.kind()),
        failed: span.status.as_ref().is_some_and(|status| status.code() == otlp::status::StatusCode::Error),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: texts(span.attributes),
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| {
        let value = match pair.value.and_then(|value| value.value) {
            Some(any_value::Value::StringValue(text)) => text,
            Some(any_value::Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key, value)
    };
    attributes.into_iter().map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
