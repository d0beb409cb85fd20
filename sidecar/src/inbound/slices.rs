//! The loop of a group that reads in slices: by lanes, by parts, or in strict order. `lanes` decides what is asked; here it
//! is carried out.
//!
//! A strict group keeps its place: while its one delivery is out, a request stays open, which can be served only after it,
//! and holds the pin; not so when its agent reads other groups, too, and has no credit left that would be kept for it. The parts of a keyed group change hands: a part is let go of after its turn, so that a member that
//! is free gets it, and one that comes later gets some at all.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::grant::GroupGrant;
use agentbus_nats::names::Names;
use agentbus_nats::pull::Incoming;
use agentbus_nats::pull::slices::{Slices, Taken};
use agentbus_proto::Fault;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::{BATCH_MAX, IDLE, retries_wanted};
use super::hub::Hub;
use super::lanes::{Ask, Turns};
use crate::memory::Source;

/// Open requests of a busy agent are withdrawn after this long; quick agents are free again before.
const BUSY: Duration = Duration::from_millis(50);
/// A part is kept for this long, then a member that waits for it gets it.
const PART_TURN: Duration = Duration::from_secs(1);
/// Most messages of one lane asked for at once.
const LANE_MAX: usize = 512;

/// Pulls while somebody asks; what is on its way at the end is still taken in.
pub(super) async fn pull(
    hub: &Hub,
    group: &Arc<GroupGrant>,
    poke: &Notify,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    let (names, bus) = (hub.names(), hub.bus());
    let mut events = bus.slices(&names.events(), group.consumers(), group.pin_timeout()).await?;
    let mut retries = bus.pull(&names.retry(), &Names::retry_consumer(&group.name)).await?;
    let most = if group.keeps_order() { 1 } else { LANE_MAX };
    let weights = group.slices().into_iter().map(|slice| slice.weight());
    let mut turns = Turns::new(weights, most, std::time::Instant::now());
    let mut asked = Instant::now();
    let mut promise = Promise { hub, group, messages: 0 };
    loop {
        let demand = hub.table().demand(&group.name);
        let in_line = group.ordered && hub.table().stays_in_line(&group.name);
        if demand > 0 || in_line {
            asked = Instant::now();
        }
        let wanted = if in_line { demand.max(1) } else { demand };
        let asks = turns.plan(wanted, std::time::Instant::now());
        promise.is(turns.promised());
        for ask in asks {
            request(&mut events, group, ask).await;
        }
        retries.want(retries_wanted(demand));
        let again = turns.wake().filter(|_| wanted > 0).map(Instant::from_std);
        tokio::select! {
            taken = events.next() => {
                let rest = std::iter::from_fn(|| events.try_next()).take(BATCH_MAX - 1);
                let batch = note(&mut turns, std::iter::once(taken).chain(rest));
                hub.incoming(group, Source::Events, batch).await;
            }
            incoming = retries.next() => hub.incoming(group, Source::Retry, vec![incoming]).await,
            () = poke.notified() => {}
            () = tokio::time::sleep_until(again.unwrap_or(asked)), if again.is_some() => {}
            () = tokio::time::sleep_until(asked + BUSY), if wanted == 0 && turns.any_open() => {
                turns.withdrawn();
                hub.incoming(group, Source::Events, events.withdraw().await?).await;
            }
            () = tokio::time::sleep_until(asked + IDLE), if wanted == 0 => break,
            () = stop.cancelled() => break,
        }
    }
    let rest = events.withdraw().await;
    for slice in 0..group.slices().len() {
        events.release(slice).await;
    }
    hub.incoming(group, Source::Retry, retries.finish().await).await;
    hub.incoming(group, Source::Events, rest?).await;
    Ok(())
}

/// Credit that is kept for what a group that keeps an order has asked for: it cannot give back what another group's event
/// has taken the credit of, or at the price of an attempt only. Ends with the loop.
struct Promise<'a> {
    hub: &'a Hub,
    group: &'a GroupGrant,
    messages: usize,
}

impl Promise<'_> {
    fn is(&mut self, messages: usize) {
        if !self.group.keeps_order() || messages == self.messages {
            return;
        }
        let less = messages < std::mem::replace(&mut self.messages, messages);
        self.hub.table().promise(&self.group.name, messages);
        if less {
            self.hub.after_all();
        }
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.is(0);
    }
}

async fn request(events: &mut Slices, group: &GroupGrant, ask: Ask) {
    if group.by_key && events.pinned(ask.slice).is_some_and(|since| since >= PART_TURN) {
        events.release(ask.slice).await;
    }
    events.ask(ask.slice, ask.messages, ask.wait).await;
}

fn note(turns: &mut Turns, taken: impl Iterator<Item = Taken>) -> Vec<Incoming> {
    let now = std::time::Instant::now();
    let mut batch = Vec::new();
    for taken in taken {
        match taken {
            Taken::Message(slice, incoming) => {
                turns.taken(slice, now);
                batch.push(incoming);
            }
            Taken::Ended { slice, refused } => turns.ended(slice, refused, now),
        }
    }
    batch
}
