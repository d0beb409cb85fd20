//! The sidecar's Prometheus metrics. Labels never carry a topic, an id or a type: their number must stay small.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// `outcome` alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `stored`, `duplicate` or the error code.
    pub outcome: &'static str,
}

/// `group` and `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupOutcome {
    /// Group name.
    pub group: String,
    /// `acked`, `nacked`, `rejected`, `expired`, `filtered`, `forged`, `reacked`, `lost`, `crashed`, `given_back`.
    pub outcome: &'static str,
}

/// `group` alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Group {
    /// Group name.
    pub group: String,
}

/// `side` and `group`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Breaker {
    /// `publish` (all destinations together) or `deliver`.
    pub side: &'static str,
    /// Group name; empty for `publish`.
    pub group: String,
}

/// `group` and dead-letter `class`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupClass {
    /// Group name.
    pub group: String,
    /// Dead-letter class.
    pub class: &'static str,
}

/// All metrics and their registry. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Publishes by outcome.
    pub published: Family<Outcome, Counter>,
    /// The one among them that counts at full rate: looked up once.
    pub published_stored: Counter,
    /// From the request to the PubAck.
    pub publish_seconds: Histogram,
    /// Deliveries by how they ended.
    pub deliveries: Family<GroupOutcome, Counter>,
    /// From stored to handed out.
    pub queue_wait_seconds: Histogram,
    /// From handed out to settled.
    pub process_seconds: Histogram,
    /// Retries made.
    pub retries: Family<Group, Counter>,
    /// Dead letters made.
    pub dead_letters: Family<GroupClass, Counter>,
    /// Deliveries held by this sidecar.
    pub in_flight: Gauge,
    /// 1 while connected to the broker.
    pub broker_connected: Gauge,
    /// Requests refused before they reached a handler.
    pub refused: Family<Outcome, Counter>,
    /// Publishes refused by the agent's own rate or quota.
    pub rate_limited: Counter,
    /// 0 closed, 1 half-open, 2 open.
    pub breaker_state: Family<Breaker, Gauge>,
    /// Events that wait on disk for the broker.
    pub spool_events: Gauge,
    /// Their size on disk, refused ones included.
    pub spool_bytes: Gauge,
    /// Events of the spool that were refused for good.
    pub spool_refused: Gauge,
    /// Bytes of undelivered events held, for the memory bound.
    pub held_bytes: Gauge<i64, std::sync::atomic::AtomicI64>,
}

impl Metrics {
    /// Registers everything under the prefix `agentbus_`.
    pub fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 4.0, 10));
        let mut registry = Registry::with_prefix("agentbus");
        let published = Family::<Outcome, Counter>::default();
        let published_stored = published.get_or_create_owned(&Outcome { outcome: "stored" });
        let metrics = Self {
            registry: Arc::default(),
            published,
            published_stored,
            publish_seconds: seconds(),
            deliveries: Family::default(),
            queue_wait_seconds: seconds(),
            process_seconds: seconds(),
            retries: Family::default(),
            dead_letters: Family::default(),
            in_flight: Gauge::default(),
            broker_connected: Gauge::default(),
            refused: Family::default(),
            rate_limited: Counter::default(),
            breaker_state: Family::default(),
            spool_events: Gauge::default(),
            spool_bytes: Gauge::default(),
            spool_refused: Gauge::default(),
            held_bytes: Gauge::default(),
        };
        // The encoder appends `_total` to counters and the unit to histograms.
        registry.register("published", "Publishes by outcome", metrics.published.clone());
        let publish = metrics.publish_seconds.clone();
        registry.register_with_unit("publish", "From the request to the broker's answer", Unit::Seconds, publish);
        registry.register("deliveries", "Deliveries by how they ended", metrics.deliveries.clone());
        let wait = metrics.queue_wait_seconds.clone();
        registry.register_with_unit("queue_wait", "From stored to handed out", Unit::Seconds, wait);
        let process = metrics.process_seconds.clone();
        registry.register_with_unit("process", "From handed out to settled", Unit::Seconds, process);
        registry.register("retries", "Retries made", metrics.retries.clone());
        registry.register("dead_letters", "Dead letters made", metrics.dead_letters.clone());
        registry.register("in_flight", "Deliveries held by this sidecar", metrics.in_flight.clone());
        registry.register("broker_connected", "1 while connected to the broker", metrics.broker_connected.clone());
        registry.register("refused", "Requests refused at the door", metrics.refused.clone());
        registry.register(
            "rate_limited",
            "Publishes refused by the agent's own rate or quota",
            metrics.rate_limited.clone(),
        );
        registry.register("breaker_state", "0 closed, 1 half-open, 2 open", metrics.breaker_state.clone());
        registry.register("spool_events", "Events that wait on disk for the broker", metrics.spool_events.clone());
        let spooled = metrics.spool_bytes.clone();
        registry.register_with_unit("spool", "Size of the spool on disk", Unit::Bytes, spooled);
        let refused = metrics.spool_refused.clone();
        registry.register("spool_refused", "Events of the spool that were refused for good", refused);
        registry.register_with_unit("held", "Events held by this sidecar", Unit::Bytes, metrics.held_bytes.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// The text of `/metrics`.
    pub fn encode(&self) -> String {
        agentbus_runtime::metrics::encode(&self.registry)
    }

    /// Counts one delivery's end.
    pub fn delivery(&self, group: &str, outcome: &'static str) {
        self.deliveries_ended(group, outcome, 1);
    }

    /// Counts the ends of several.
    pub fn deliveries_ended(&self, group: &str, outcome: &'static str, count: u64) {
        self.deliveries.get_or_create(&GroupOutcome { group: group.to_owned(), outcome }).inc_by(count);
    }

    /// Shows the state of a breaker: `publish` the worst of all destinations, `deliver` of one group.
    pub fn breaker(&self, side: &'static str, group: &str, state: crate::breaker::State) {
        self.breaker_state.get_or_create(&Breaker { side, group: group.to_owned() }).set(state.number());
    }

    /// Counts one publish.
    pub fn publish(&self, outcome: &'static str) {
        self.published.get_or_create(&Outcome { outcome }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        metrics.publish("stored");
        metrics.delivery("readers", "acked");
        metrics.publish_seconds.observe(0.001);
        metrics.retries.get_or_create(&Group { group: "readers".into() }).inc();
        let text = metrics.encode();
        for name in [
            "agentbus_published_total{outcome=\"stored\"} 1",
            "agentbus_deliveries_total{group=\"readers\",outcome=\"acked\"} 1",
            "agentbus_retries_total{group=\"readers\"} 1",
            "agentbus_publish_seconds_count 1",
            "agentbus_in_flight 0",
            "agentbus_broker_connected 0",
        ] {
            assert!(text.contains(name), "{name} in\n{text}");
        }
    }
}
