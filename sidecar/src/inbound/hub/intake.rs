//! From the broker into the table, and from there to who has credit.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::ack::Answer;
use agentbus_nats::grant::GroupGrant;
use agentbus_nats::moves;
use agentbus_nats::pull::Incoming;

use super::Hub;
use crate::inbound::admit::{self, Admission, Fresh, admit};
use crate::inbound::table::Held;
use crate::memory::{Key, Source};

/// An ack confirmed later than this may be another member's delivery: well below the broker's ack wait of 10 s, with the
/// wait for the confirmation.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// The same where the ack wait is shorter: this much below it.
const CONFIRM_MARGIN: Duration = Duration::from_secs(3);

impl Hub {
    /// Messages from the broker, in their order.
    pub(in crate::inbound) async fn incoming(&self, group: &Arc<GroupGrant>, source: Source, batch: Vec<Incoming>) {
        let Some(name) = self.group_name(&group.name) else { return };
        let mut answers = Vec::new();
        let mut at_most_once = Vec::new();
        {
            let (mut table, now) = (self.table(), SystemTime::now());
            for incoming in batch {
                let receipt = &incoming.receipt;
                let key = Key { group: name.clone(), source, seq: receipt.seq, stored_at: receipt.stored_at };
                if table.renew(&key, receipt, Instant::now()) {
                    continue;
                }
                match admit(&incoming, group, &key, &table.memory, now) {
                    Admission::Deliver(fresh) if fresh.at_most_once => {
                        table.coming(&name, group.ordered);
                        at_most_once.push((incoming, fresh, key));
                    }
                    Admission::Deliver(fresh) => {
                        let id = self.seal().seal(&incoming.receipt);
                        table.insert(id, incoming, fresh, key, group.clone(), Instant::now());
                    }
                    Admission::Wait(left) => answers.push((incoming.receipt.subject, Answer::Nak(Some(left)))),
                    Admission::Done(outcome) => {
                        if outcome == "forged" {
                            tracing::warn!(subject = %incoming.subject, seq = key.seq, "dropped: source is not the sender");
                        }
                        if outcome == "expired" {
                            self.note(&key.group, &incoming, moves::attempt(&incoming), None, outcome, "");
                        }
                        self.metrics().delivery(&key.group, outcome);
                        answers.push((incoming.receipt.subject, Answer::Ack));
                    }
                    Admission::Dead(class, cause) => {
                        let (hub, group) = (self.clone(), group.clone());
                        self.inner.tasks.spawn(async move { hub.park_unheard(&group, &incoming, class, &cause).await });
                    }
                }
            }
        }
        for (subject, answer) in answers {
            self.answer(&subject, answer).await;
        }
        self.after(&name);
        if !at_most_once.is_empty() {
            self.inner.tasks.spawn(self.clone().take_at_most_once(
                group.clone(),
                at_most_once,
                self.bus().generation(),
            ));
        }
    }

    /// The agent sees these only after the broker has said that it forgot them. Without its word they come again, or
    /// never: both is at most once. What is old may be somebody else's by now, and the broker confirms that ack too.
    async fn take_at_most_once(self, group: Arc<GroupGrant>, batch: Vec<(Incoming, Box<Fresh>, Key)>, generation: u64) {
        let received = Instant::now();
        let within = CONFIRM_WITHIN.min(group.ack_wait().saturating_sub(CONFIRM_MARGIN));
        for (incoming, fresh, key) in batch {
            let is_good = received.elapsed() < within && self.bus().generation() == generation;
            let confirmed = is_good && self.bus().confirmed(&incoming.receipt.subject).await;
            {
                let mut table = self.table();
                table.came(&group.name, group.ordered, 1);
                if confirmed {
                    let id = self.seal().seal(&incoming.receipt);
                    table.insert(id, incoming, fresh, key, group.clone(), Instant::now());
                }
            }
            self.after(&group.name);
        }
    }

    /// After anything that changed credit or the queue of a group: hands out, then lets the group pull.
    pub(in crate::inbound) fn after(&self, group: &str) {
        let now = (Instant::now(), SystemTime::now());
        let late = self.table().dispatch(group, now, |id, held, deadline| self.hand(id, held, deadline));
        if !late.is_empty() {
            self.inner.tasks.spawn(self.clone().expire(late, now.1));
        }
        if let Some(running) = self.groups().get(group) {
            running.poke.notify_one();
        }
    }

    /// What expired while it waited for its agent is what it would have been on its way in.
    async fn expire(self, late: Vec<Held>, now: SystemTime) {
        for held in late {
            let (group, incoming) = (&held.key.group, &held.incoming);
            match admit::expired(&held.fresh.head, now) {
                Some(Admission::Dead(class, cause)) => self.park_unheard(&held.group, incoming, class, &cause).await,
                _ => {
                    self.note(group, incoming, held.fresh.attempt, None, "expired", "");
                    self.metrics().delivery(group, "expired");
                    self.answer(&incoming.receipt.subject, Answer::Ack).await;
                }
            }
        }
    }

    /// After anything that freed credit: it is credit for all groups of its subscriber.
    pub(in crate::inbound) fn after_all(&self) {
        self.group_names().iter().for_each(|name| self.after(name));
    }
}
