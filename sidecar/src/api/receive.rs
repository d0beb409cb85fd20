//! The long poll: a subscriber that lives for one answer.

use std::time::Duration;

use agentbus_proto::Fault;
use agentbus_proto::sidecar::wire;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::inbound::{Gone, Hub, Outgoing};

/// Most deliveries in one answer.
pub const MAX: usize = 1000;
/// Longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// While the broker has more, what is on its way is waited for this long: it should be on this answer, not in our hands
/// until the agent asks again.
const LINGER: Duration = Duration::from_millis(5);

/// Up to `max` deliveries of these groups; waits for the first one.
pub async fn receive(hub: &Hub, groups: &[String], max: usize, wait: Duration) -> Result<Vec<wire::Delivery>, Fault> {
    let max = max.clamp(1, MAX);
    let (tx, rx) = mpsc::channel(max + 1);
    let id = hub.attach(groups, max, tx)?;
    let mut poll = Poll { hub, id, rx, taken: Vec::new(), answered: false };
    let end = Instant::now() + wait.min(WAIT_MAX);
    poll.fill(end, |poll| !poll.taken.is_empty()).await;
    poll.fill(Instant::now() + LINGER, |poll| poll.taken.len() >= max || !poll.has_more_behind()).await;
    Ok(poll.answer())
}

/// Gives back what was taken if the caller goes away before the answer is made.
struct Poll<'a> {
    hub: &'a Hub,
    id: u64,
    rx: mpsc::Receiver<Outgoing>,
    taken: Vec<wire::Delivery>,
    answered: bool,
}

impl Poll<'_> {
    async fn fill(&mut self, end: Instant, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            match timeout_at(end, self.rx.recv()).await {
                Ok(Some(Outgoing::Delivery(delivery))) => self.taken.push(*delivery),
                Ok(Some(Outgoing::Lost(id, _))) => self.taken.retain(|delivery| delivery.delivery_id != id),
                Ok(Some(Outgoing::Draining) | None) | Err(_) => return,
            }
        }
    }

    /// With nothing behind the last one there is nothing to wait for: on a quiet bus an answer leaves at once.
    fn has_more_behind(&self) -> bool {
        self.taken.last().is_some_and(|delivery| self.hub.has_more_behind(&delivery.delivery_id))
    }

    fn answer(mut self) -> Vec<wire::Delivery> {
        // First no new ones, then what came in between: nothing is left in the channel.
        self.hub.detach(self.id, Gone::Answered);
        while let Ok(outgoing) = self.rx.try_recv() {
            if let Outgoing::Delivery(delivery) = outgoing {
                self.taken.push(*delivery);
            }
        }
        self.answered = true;
        std::mem::take(&mut self.taken)
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.hub.detach(self.id, Gone::Answered);
        let mut ids: Vec<String> = self.taken.iter().map(|delivery| delivery.delivery_id.clone()).collect();
        while let Ok(outgoing) = self.rx.try_recv() {
            if let Outgoing::Delivery(delivery) = outgoing {
                ids.push(delivery.delivery_id);
            }
        }
        self.hub.unhand(&ids);
    }
}
