//! The asker's end of an ask: its replies in order, until the final one or the deadline.

use std::time::Duration;

use agentbus_proto::{Code, Fault, duration};
use agentbus_runtime::trace::{Kind, Span, semconv};
use tokio::time::Instant;

use super::room::overrun;
use super::{Reply, Waiting};
use crate::outbound::fail;

/// So long before the deadline missed replies are looked for once more; a quarter of a short timeout.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// An ask that waits. Dropped, nobody waits any more, and replies that come are left in the stream.
pub struct Pending {
    waiting: Waiting,
    span: Span,
    deadline: Instant,
    timeout: Duration,
    last_look: Option<Instant>,
    over: bool,
}

impl Pending {
    pub(super) fn new(waiting: Waiting, span: Span, deadline: Instant, timeout: Duration) -> Self {
        let last_look = Some(deadline - LAST_LOOK.min(timeout / 4));
        Self { waiting, span, deadline, timeout, last_look, over: false }
    }

    /// The next reply; none behind the final one. `REPLY_TIMEOUT` at the deadline. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Reply>, Fault> {
        if self.over {
            return Ok(None);
        }
        match self.wait().await {
            Ok(reply) => {
                self.over = reply.info.r#final;
                self.received(&reply);
                Ok(Some(reply))
            }
            Err(fault) => {
                self.over = true;
                fail(&mut self.span, &fault);
                Err(fault)
            }
        }
    }

    async fn wait(&mut self) -> Result<Reply, Fault> {
        loop {
            // Without one left to do, the arm is off.
            let look = self.last_look.unwrap_or(self.deadline);
            tokio::select! {
                biased;
                reply = self.waiting.rx.recv() => return self.waiting.read(reply).ok_or_else(overrun),
                () = tokio::time::sleep_until(look), if self.last_look.is_some() => {
                    self.last_look = None;
                    self.waiting.asks.inner.look.notify_one();
                }
                () = tokio::time::sleep_until(self.deadline) => return Err(self.timed_out()),
                () = self.waiting.asks.inner.stop.cancelled() => return Err(crate::inbound::hub::draining()),
            }
        }
    }

    fn timed_out(&self) -> Fault {
        let timeout = duration::format(self.timeout);
        let why = format!("no final reply within {timeout}; `agentbus events show {}` tells more", self.waiting.id);
        Fault::new(Code::ReplyTimeout, why)
    }

    /// The reply's arrival in the trace: under the hop that stored it, like any event's.
    fn received(&mut self, reply: &Reply) {
        let parent = reply.context.unwrap_or_else(|| self.span.context());
        let tracer = &self.waiting.asks.inner.tracer;
        let stored = reply.head.time.as_ref().and_then(agentbus_proto::timestamp::to_system);
        let mut span = tracer.start(Kind::Client, "receive", Some(&parent), &[], stored);
        span.attr(semconv::MESSAGING_SYSTEM, semconv::SYSTEM);
        span.attr(semconv::MESSAGING_OPERATION_NAME, "receive");
        span.attr(semconv::MESSAGING_OPERATION_TYPE, "receive");
        span.attr(semconv::MESSAGING_MESSAGE_ID, reply.head.id.clone());
        span.attr(semconv::MESSAGING_MESSAGE_CONVERSATION_ID, reply.head.chain().to_owned());
        let agent = self.waiting.asks.inner.control.grant().agent;
        span.attr(semconv::MESSAGING_DESTINATION_NAME, format!("@{agent}"));
        span.attr(semconv::AGENTBUS_AGENT, agent);
        if let Some(fault) = reply.failure() {
            fail(&mut span, &fault);
            fail(&mut self.span, &fault);
        }
    }
}
