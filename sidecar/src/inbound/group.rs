//! One group's loop: pulls from its two consumers exactly what the group's subscribers have credit for.
//!
//! While nobody asks, nothing is asked of the broker: a request left open there would bring an event to a sidecar whose
//! agent is not listening, while another member may be.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::grant::{GroupGrant, GroupKind};
use agentbus_nats::names::Names;
use agentbus_proto::Fault;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::slices;
use crate::memory::Source;

/// Retries asked for at once: early ones go straight back, so a few suffice.
const RETRY_PULL_MAX: usize = 256;
/// Before a group that failed is started again.
const AGAIN_WAIT: Duration = Duration::from_secs(1);
/// Open requests are withdrawn when nobody has asked for this long: longer than an agent needs between two polls.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// The same for pools, once their agent is at work: what comes then is for a member that is free.
const POOL_IDLE: Duration = Duration::from_millis(50);

/// Messages taken in at once when they are there: locks and wake-ups are shared by so many.
pub(super) const BATCH_MAX: usize = 128;

/// Runs a group until stopped, and again if it fails: a group that stands still would be a silent loss.
pub(super) async fn keep(hub: Hub, group: Arc<GroupGrant>, poke: Arc<Notify>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // A task of its own, so that a panic ends this round only.
        let round = tokio::spawn(run(hub.clone(), group.clone(), poke.clone(), stop.clone())).await;
        match round {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => tracing::warn!(group = %group.name, %fault, "group stopped, starting it again"),
            Err(error) => tracing::error!(group = %group.name, %error, "group failed, starting it again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN_WAIT) => {}
        }
    }
}

/// Runs until stopped.
async fn run(hub: Hub, group: Arc<GroupGrant>, poke: Arc<Notify>, stop: CancellationToken) -> Result<(), Fault> {
    loop {
        while hub.table().demand(&group.name) == 0 {
            tokio::select! {
                () = poke.notified() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
        if group.keeps_order() || group.split_lanes {
            slices::pull(&hub, &group, &poke, &stop).await?;
        } else {
            pull(&hub, &group, &poke, &stop).await?;
        }
    }
}

/// A quarter for retries, one at least, so that neither starves the other.
pub(super) fn retries_wanted(demand: usize) -> usize {
    demand.div_ceil(4).min(RETRY_PULL_MAX)
}

/// Pulls while somebody asks; what is on its way at the end is still taken in.
async fn pull(hub: &Hub, group: &Arc<GroupGrant>, poke: &Notify, stop: &CancellationToken) -> Result<(), Fault> {
    let (names, bus) = (hub.names(), hub.bus());
    let mut events = bus.pull(&names.events(), &Names::consumer(&group.name)).await?;
    let mut retries = bus.pull(&names.retry(), &Names::retry_consumer(&group.name)).await?;
    let idle = if group.kind == GroupKind::Pool { POOL_IDLE } else { IDLE };
    let mut asked = Instant::now();
    loop {
        let demand = hub.table().demand(&group.name);
        if demand > 0 {
            asked = Instant::now();
        }
        events.want(demand);
        retries.want(retries_wanted(demand));
        let (source, first) = tokio::select! {
            incoming = events.next() => (Source::Events, incoming),
            incoming = retries.next() => (Source::Retry, incoming),
            () = poke.notified() => continue,
            () = tokio::time::sleep_until(asked + idle), if demand == 0 => break,
            () = stop.cancelled() => break,
        };
        let pull = if source == Source::Events { &mut events } else { &mut retries };
        let rest = std::iter::from_fn(|| pull.try_next()).take(BATCH_MAX - 1);
        let batch = std::iter::once(first).chain(rest).collect();
        hub.incoming(group, source, batch).await;
    }
    // What the broker has sent already would come again only after the ack wait, and count as a crash.
    for (source, pull) in [(Source::Events, &mut events), (Source::Retry, &mut retries)] {
        hub.incoming(group, source, pull.finish().await).await;
    }
    Ok(())
}
