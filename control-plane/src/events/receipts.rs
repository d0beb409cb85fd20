//! Makes the stream of receipts when a sidecar is about to write the first one: the verb `receipts`.

use std::sync::Arc;

use agentbus_nats::plan;
use agentbus_proto::Fault;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::service::Events;
use crate::control::Verb;

pub(super) struct Receipts(pub Arc<Events>);

#[async_trait]
impl Verb for Receipts {
    async fn answer(&self, _agent: &str, _request: &[u8]) -> Result<Value, Fault> {
        let (bus, names) = (self.0.bus(), self.0.names());
        if bus.stream(&names.receipts()).await?.is_none() {
            bus.create_stream(&plan::receipts_table(bus, names, &self.0.sizes)).await?;
            tracing::info!(stream = names.receipts(), "made for the first receipt");
        }
        Ok(json!({}))
    }
}
