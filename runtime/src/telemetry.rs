//! Logs and traces of one process: set up once in `main`, flushed once at the end.
//!
//! Logs go to stderr through `tracing`, filtered by `AGENTBUS_LOG` (default: `info`, the NATS client only from `warn`, and its connector
//! not at all: a connection that is not made again is no error, and whether the broker is there is told by us).
//! Spans go to an OTLP collector when `--otlp` or the standard `OTEL_*` variables name one; otherwise the tracer is disabled.
//! The two are apart on purpose: log lines are not spans, and [`crate::trace`] needs no subscriber.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::otlp::{Pipeline, Target};
use crate::trace::Tracer;

/// The variable that filters logs, in `tracing` directives: `debug`, `info,agentbus_sidecar=trace`.
pub const LOG_VARIABLE: &str = "AGENTBUS_LOG";

const LOG_DEFAULT: &str = "info,async_nats=warn,async_nats::connector=off";

/// How long the last spans may take to leave; then the process ends without them.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// What a process says about itself, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `service.name` of all spans, such as `agentbus-sidecar/check`. Wins over `OTEL_SERVICE_NAME`.
    pub service_name: String,
    /// `service.instance.id`: which of several.
    pub instance: Option<String>,
    /// OTLP endpoint URL: `http://host:4317` (gRPC) or `http://host:4318` (HTTP). Unset: the `OTEL_*` variables decide.
    pub otlp: Option<String>,
    /// One JSON object per log line instead of text.
    pub log_json: bool,
}

/// Why telemetry cannot be set up. All of these are configuration mistakes, except [`Error::Thread`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `AGENTBUS_LOG` is not a list of filter directives.
    #[error("bad log filter `{filter}` in {LOG_VARIABLE}")]
    Filter {
        /// The value.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The OTLP endpoint is not usable.
    #[error("bad OTLP endpoint `{endpoint}`: {reason}")]
    Endpoint {
        /// The value.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The OTLP protocol is none of ours.
    #[error("bad OTLP protocol `{protocol}`: use grpc or http/protobuf")]
    Protocol {
        /// The value.
        protocol: String,
    },
    /// The exporter refused its settings.
    #[error("cannot export spans to `{endpoint}`")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No thread for the exporter.
    #[error("cannot start the thread that exports spans")]
    Thread {
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The running telemetry of this process.
#[derive(Debug)]
#[must_use = "call shutdown, or the last spans are lost"]
pub struct Telemetry {
    pipeline: Option<Pipeline>,
    tracer: Tracer,
}

/// Sets up logs and traces. The environment is read here and nowhere else.
///
/// A second call keeps the first subscriber for logs (so tests can call it) and gives a tracer of its own.
pub fn init(options: Options) -> Result<Telemetry, Error> {
    logs(options.log_json)?;
    let target = Target::resolve(options.otlp.as_deref(), |key| std::env::var(key).ok())?;
    start(target, &options)
}

fn start(target: Option<Target>, options: &Options) -> Result<Telemetry, Error> {
    let pipeline = target.map(|target| Pipeline::start(&target, options)).transpose()?;
    let tracer = match &pipeline {
        Some(pipeline) => Tracer::new(pipeline.provider.tracer("agentbus")),
        None => Tracer::disabled(),
    };
    Ok(Telemetry { pipeline, tracer })
}

fn filter(value: Option<String>) -> Result<EnvFilter, Error> {
    let filter = value.filter(|value| !value.trim().is_empty()).unwrap_or_else(|| LOG_DEFAULT.to_owned());
    EnvFilter::try_new(&filter).map_err(|source| Error::Filter { filter, source })
}

fn logs(json: bool) -> Result<(), Error> {
    let directives = filter(std::env::var(LOG_VARIABLE).ok())?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(directives).with_writer(std::io::stderr).with_ansi(colour);
    // Fails only when there is a subscriber already, and then that one stays.
    let _ = if json { builder.json().finish().try_init() } else { builder.finish().try_init() };
    Ok(())
}

impl Telemetry {
    /// Telemetry that exports nothing and leaves logging alone: for tests and embedding.
    pub fn disabled() -> Self {
        Self { pipeline: None, tracer: Tracer::disabled() }
    }

    /// The tracer to give to every part; disabled when no collector is configured.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends what is left, within 5 s. The blocking flush runs on a blocking thread, so that a `current_thread` runtime
    /// goes on meanwhile. Spans started afterwards are not recorded.
    pub async fn shutdown(self) {
        let Some(pipeline) = self.pipeline else { return };
        let flush = tokio::task::spawn_blocking(move || pipeline.provider.shutdown_with_timeout(FLUSH_MAX));
        match tokio::time::timeout(FLUSH_MAX + Duration::from_millis(500), flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(%error, "last spans not exported"),
            Ok(Err(error)) => warn!(%error, "last spans not exported"),
            Err(_) => warn!("last spans not exported in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_filter_has_a_default_and_is_checked() {
        assert_eq!(filter(Some(" ".to_owned())).unwrap().to_string(), filter(None).unwrap().to_string());
        let error = filter(Some("agentbus=loud".to_owned())).unwrap_err().to_string();
        assert!(error.contains("agentbus=loud") && error.contains("AGENTBUS_LOG"), "{error}");
    }
}
