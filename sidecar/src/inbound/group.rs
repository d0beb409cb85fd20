//! One group's loop: pulls from its two consumers exactly what the group's subscribers have credit for.

use std::sync::Arc;

use agentbus_nats::grant::GroupGrant;
use agentbus_nats::names::Names;
use agentbus_nats::pull::Pull;
use agentbus_proto::Fault;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use crate::memory::Source;

/// Retries asked for at once: early ones go straight back, so a few suffice.
const RETRY_PULL_MAX: usize = 256;

/// Runs until stopped; what is on its way then is still taken in.
pub(super) async fn run(
    hub: Hub,
    group: Arc<GroupGrant>,
    poke: Arc<Notify>,
    stop: CancellationToken,
) -> Result<(), Fault> {
    let names = hub.names().clone();
    let link = hub.link().clone();
    let mut events = Pull::open(&link, &names.events(), &Names::consumer(&group.name)).await?;
    let mut retries = Pull::open(&link, &names.retry(), &Names::retry_consumer(&group.name)).await?;
    loop {
        let demand = hub.table().demand(&group.name);
        events.want(demand);
        // A quarter for retries, one at least, so that neither starves the other.
        retries.want(demand.div_ceil(4).min(RETRY_PULL_MAX));
        let (source, incoming) = tokio::select! {
            incoming = events.next() => (Source::Events, incoming),
            incoming = retries.next() => (Source::Retry, incoming),
            () = poke.notified() => continue,
            () = stop.cancelled() => break,
        };
        hub.incoming(&group, source, incoming).await;
    }
    // What the broker has sent already would come again only after the ack wait, and count as a crash.
    for (source, pull) in [(Source::Events, &mut events), (Source::Retry, &mut retries)] {
        for incoming in pull.finish().await {
            hub.incoming(&group, source, incoming).await;
        }
    }
    Ok(())
}
