//! Where spans go: reads the OTLP settings, builds the exporter, keeps it off the caller's runtime.
//!
//! The SDK's batch processor exports from a plain thread, while both transports need a tokio reactor. The sidecar's only
//! runtime is `current_thread`: were the transport to live there, a blocking flush on that thread would wait for itself.
//! So the exporter gets a runtime of its own on a thread of its own, and only when tracing is on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::telemetry::{Error, Options};

/// Spans are sent at least this often. Shorter than the SDK's 5 s: someone watching a demo should not wait.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Where to send spans, and how.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) endpoint: String,
    pub(crate) http: bool,
}

impl Target {
    /// Decides from the `--otlp` value and the standard variables (`env` looks one up). `None`: tracing is off.
    /// The flag beats the variables, except that `OTEL_SDK_DISABLED` switches everything off.
    /// See <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.
    pub(crate) fn resolve(flag: Option<&str>, env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let env = |key: &str| env(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let off = env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || (flag.is_none() && env("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none"));
        if off {
            return Ok(None);
        }
        let protocol = env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| env("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let (endpoint, path) = if let Some(endpoint) = flag {
            (endpoint.trim().to_owned(), Path::IfMissing)
        } else if let Some(endpoint) = env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            (endpoint, Path::AsIs)
        } else if let Some(endpoint) = env("OTEL_EXPORTER_OTLP_ENDPOINT") {
            (endpoint, Path::Append)
        } else {
            return Ok(None);
        };
        let (authority, has_path) = split(&endpoint)?;
        let http = match protocol.as_deref() {
            Some("grpc") => false,
            Some("http/protobuf") => true,
            Some(other) => return Err(Error::Protocol { protocol: other.to_owned() }),
            // Nobody said: go by the well-known port, or by a path, which gRPC has no use for.
            None => authority.ends_with(":4318") || has_path,
        };
        let append = http && (path == Path::Append || (path == Path::IfMissing && !has_path));
        let endpoint = if append { format!("{}/v1/traces", endpoint.trim_end_matches('/')) } else { endpoint };
        Ok(Some(Self { endpoint, http }))
    }
}

#[derive(PartialEq)]
enum Path {
    AsIs,
    Append,
    IfMissing,
}

/// Splits off the authority and tells whether a path follows it.
fn split(endpoint: &str) -> Result<(&str, bool), Error> {
    let bad = |reason| Error::Endpoint { endpoint: endpoint.to_owned(), reason };
    if endpoint.starts_with("https://") {
        return Err(bad("this build exports over plain http only; send to a local collector"));
    }
    let rest = endpoint.strip_prefix("http://").ok_or_else(|| bad("it must begin with http://"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || authority.contains(char::is_whitespace) {
        return Err(bad("it names no host"));
    }
    Ok((authority, !path.is_empty()))
}

/// The running pipeline: the provider, and the thread that drives the transport.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) provider: SdkTracerProvider,
    /// Dropped: the transport's runtime stops.
    _stop: oneshot::Sender<()>,
}

impl Pipeline {
    /// Starts exporting to `target`. Reaching nobody is not an error: it is logged when it happens.
    pub(crate) fn start(target: &Target, options: &Options) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Thread { source })?;
        let handle = runtime.handle().clone();
        let inner = {
            let _inside = handle.enter();
            exporter(target)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("otlp-transport".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(stopped);
            })
            .map_err(|source| Error::Thread { source })?;
        let exporter = Detached { inner: Arc::new(inner), handle, failing: AtomicBool::new(false) };
        let mut batch = BatchConfigBuilder::default();
        if std::env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
            batch = batch.with_scheduled_delay(EXPORT_INTERVAL);
        }
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batch.build()).build();
        let provider =
            SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource(options)).build();
        Ok(Self { provider, _stop: stop })
    }
}

fn exporter(target: &Target) -> Result<SpanExporter, Error> {
    let built = if target.http {
        let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        builder.with_endpoint(&target.endpoint).build()
    } else {
        SpanExporter::builder().with_tonic().with_endpoint(&target.endpoint).build()
    };
    built.map_err(|source| Error::Exporter { endpoint: target.endpoint.clone(), source: Box::new(source) })
}

/// `OTEL_RESOURCE_ATTRIBUTES` first, then what we know ourselves: a service name per part, or every part would look the same.
fn resource(options: &Options) -> Resource {
    let mut attributes = vec![opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if let Some(instance) = &options.instance {
        attributes.push(opentelemetry::KeyValue::new("service.instance.id", instance.clone()));
    }
    Resource::builder().with_service_name(options.service_name.clone()).with_attributes(attributes).build()
}

/// An exporter that does its work on the transport's runtime, whatever thread asks.
#[derive(Debug)]
struct Detached {
    inner: Arc<SpanExporter>,
    handle: Handle,
    failing: AtomicBool,
}

impl Detached {
    /// Says once that exporting fails, and once that it works again.
    fn report(&self, result: &OTelSdkResult) {
        match (result, self.failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => warn!(%error, "spans cannot be exported"),
            (Ok(()), true) => info!("spans are exported again"),
            _ => {}
        }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Detached {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = Arc::clone(&self.inner);
        let job =
            self.handle.spawn(async move { opentelemetry_sdk::trace::SpanExporter::export(&*inner, batch).await });
        let result = job.await.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        self.report(&result);
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Called before the first export, while nobody else holds the exporter.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flag: Option<&str>, env: &[(&str, &str)], expect: Option<(&str, bool)>) {
        let look = |key: &str| env.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        let got = Target::resolve(flag, look).unwrap();
        let expect = expect.map(|(endpoint, http)| Target { endpoint: endpoint.to_owned(), http });
        assert_eq!(got, expect, "{flag:?} {env:?}");
    }

    #[test]
    fn flag_and_variables_decide_together() {
        const ANY: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
        check(None, &[], None);
        check(None, &[(ANY, " ")], None);
        check(Some("http://c:4317"), &[], Some(("http://c:4317", false)));
        check(Some("http://c:4318"), &[], Some(("http://c:4318/v1/traces", true)));
        check(Some("http://c:4318/x"), &[], Some(("http://c:4318/x", true)));
        check(Some("http://c:9"), &[(PROTOCOL, "http/protobuf")], Some(("http://c:9/v1/traces", true)));
        check(Some("http://c:4318"), &[(PROTOCOL, "grpc")], Some(("http://c:4318", false)));
        check(Some("http://c:1"), &[(ANY, "http://d:1")], Some(("http://c:1", false)));
        check(None, &[(ANY, "http://d:4318/base/")], Some(("http://d:4318/base/v1/traces", true)));
        check(None, &[(TRACES, "http://t:4318"), (ANY, "http://d:1")], Some(("http://t:4318", true)));
        check(None, &[(ANY, "http://d:1"), ("OTEL_TRACES_EXPORTER", "none")], None);
        check(Some("http://c:1"), &[("OTEL_SDK_DISABLED", "true")], None);
    }

    #[test]
    fn bad_settings_are_named() {
        let none = |_: &str| None;
        for endpoint in ["localhost:4317", "https://c:4317", "http://", "http:///v1/traces"] {
            let error = Target::resolve(Some(endpoint), none).unwrap_err().to_string();
            assert!(error.contains(endpoint), "{error}");
        }
        let json = |key: &str| (key == "OTEL_EXPORTER_OTLP_PROTOCOL").then(|| "http/json".to_owned());
        assert!(Target::resolve(Some("http://c:1"), json).unwrap_err().to_string().contains("http/json"));
    }
}
