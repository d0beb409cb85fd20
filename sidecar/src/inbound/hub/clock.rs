//! The tick that keeps leases alive, and the answers that wait while there is no connection to give them on.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use agentbus_nats::ack::{Answer, Receipt};
use agentbus_nats::names::Names;

use super::Hub;
use crate::inbound::table::{Command, Extend};

/// Answers kept while there is no connection: as many as a busy agent can have out.
const UNSENT_MAX: usize = 20_000;
/// Such an answer of a group that keeps an order is dropped after this long: a lease that is still good is good for so long.
const ORDERED_UNSENT: Duration = Duration::from_secs(1);

/// An answer that waits for a connection.
pub(super) struct Unsent {
    subject: async_nats::Subject,
    answer: Answer,
    since: Instant,
}

impl Hub {
    pub(super) async fn keep_leases(self) {
        let mut tick = tokio::time::interval(self.inner.options.tick);
        let (mut generation, mut run) = (self.bus().generation(), self.bus().run_id());
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            // While the connection is away nothing can be extended; when it is back everything is, at once.
            let now = self.bus().generation();
            let extend = match now {
                0 => Extend::Nothing,
                now if now != generation => Extend::Everything,
                _ => Extend::Due,
            };
            generation = if now == 0 { generation } else { now };
            if extend == Extend::Everything {
                let now = self.bus().run_id();
                let restarted = std::mem::replace(&mut run, now.clone()) != now;
                let unsent = std::mem::take(&mut *self.inner.unsent.lock().unwrap_or_else(PoisonError::into_inner));
                let sent = unsent.into_iter().filter(|unsent| !self.is_stale(unsent, restarted));
                self.spawn(sent.map(|unsent| Command::Answer(unsent.subject, unsent.answer)).collect());
                if restarted {
                    self.table().take_ordered();
                    self.after_all();
                }
            }
            let commands = self.table().tick(Instant::now(), extend);
            self.try_again();
            let wake = {
                let mut table = self.table();
                let (freed, again) = (table.take_freed(), table.reads_again());
                freed || again
            };
            if wake {
                self.after_all();
            }
            self.metrics().in_flight.set(self.held() as i64);
            self.metrics().broker_connected.set(i64::from(self.bus().is_up()));
            self.metrics().held_bytes.set(self.table().bytes() as i64);
            self.spawn(commands);
        }
    }

    pub(in crate::inbound) async fn answer(&self, subject: &async_nats::Subject, answer: Answer) {
        if self.bus().is_up() {
            return self.bus().answer(subject, answer).await;
        }
        // Waiting for a connection would block all: it is sent when there is one again. What does not fit is answered when
        // the message comes again.
        let mut unsent = self.inner.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        if answer != Answer::Progress && unsent.len() < UNSENT_MAX {
            unsent.push(Unsent { subject: subject.clone(), answer, since: Instant::now() });
        }
    }

    /// Where order is kept, an answer that waited, or that is for a broker before this one, may be about what is somebody
    /// else's by now. Without it the event comes again, here to be acked from memory.
    fn is_stale(&self, unsent: &Unsent, restarted: bool) -> bool {
        let receipt = Receipt::parse(unsent.subject.clone());
        let group = receipt.and_then(|receipt| self.group(Names::group_of(&receipt.consumer)));
        (restarted || unsent.since.elapsed() >= ORDERED_UNSENT) && group.is_some_and(|group| group.keeps_order())
    }
}
