//! The two arms, with the same verbs: `direct` is a plain NATS client, `sidecar` an agent beside its sidecar.

pub mod direct;
pub mod sidecar;

use std::time::Duration;

use agentbus_nats::names::Names;
use async_nats::jetstream::{self, consumer::PullConsumer};

/// How often the broker is asked whether all acks have arrived: small against the second that a measurement takes.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until this consumer has nothing left: all delivered, all acks seen by the broker.
pub async fn settled(jetstream: &jetstream::Context, names: &Names, group: &str) -> anyhow::Result<()> {
    let name = Names::consumer(group);
    let mut consumer: PullConsumer = jetstream.get_consumer_from_stream(&name, &names.events()).await?;
    loop {
        let info = consumer.info().await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
