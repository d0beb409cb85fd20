//! What the table wants done, carried out.

use std::time::Instant;

use futures_util::StreamExt;

use super::Hub;
use crate::inbound::table::Command;

/// Moves and answers under way at once.
const COMMANDS_MAX: usize = 256;

impl Hub {
    pub(in crate::inbound) fn spawn(&self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let hub = self.clone();
            self.inner.tasks.spawn(async move { hub.run(commands).await });
        }
    }

    /// Carries commands out: begun in their order, many at once, so that one that waits does not hold up the rest.
    pub(super) async fn run(&self, commands: Vec<Command>) {
        let commands = futures_util::stream::iter(commands);
        commands.for_each_concurrent(COMMANDS_MAX, |command| self.run_one(command)).await;
    }

    async fn run_one(&self, command: Command) {
        match command {
            Command::Answer(subject, answer) => self.answer(&subject, answer).await,
            Command::Renew(id, subject) => {
                let sent = Instant::now();
                if self.bus().renewed(&subject).await {
                    self.table().renewed(&id, sent, Instant::now());
                }
            }
            Command::GiveBack(held) => self.give_back(&held).await,
            // Rare and large: boxed, so that hundreds of renewals at once stay small.
            Command::Crash(held) => Box::pin(self.crashed(*held)).await,
            Command::Suspect(held) => Box::pin(self.suspected(&held)).await,
            Command::LeaveAlone(group) => self.leave_alone(&group),
            Command::Fail(held, cause) => {
                self.metrics().delivery(&held.key.group, "lost");
                self.handling_failed(&held);
                self.failed_alone(&held, &cause, None).await;
                self.after_all();
            }
        }
    }
}
