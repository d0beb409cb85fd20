//! Metrics as Prometheus reads them: one registry per process, encoded in the OpenMetrics text format.

use prometheus_client::registry::Registry;

/// The media type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of `registry` as text, ending in `# EOF`.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string fails only if a metric's own encoder does; half an answer without `# EOF` is refused by the reader.
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
        tracing::error!(%error, "metrics not encoded");
    }
    text
}
