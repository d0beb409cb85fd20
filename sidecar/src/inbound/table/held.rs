//! One delivery in this sidecar's hands: what it is, who has it, and how long that is good for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentbus_nats::grant::{GroupGrant, GroupKind};
use agentbus_nats::pull::Incoming;
use agentbus_runtime::trace::{Context, Span};

use crate::inbound::admit::Fresh;
use crate::memory::Key;

/// What waits and nobody asks for goes back after this long, so that other members get it.
pub const LINGER: Duration = Duration::from_secs(2);
/// What waits behind an agent that is at work goes back after this long: another member may be free. Longer, because each
/// one that goes back is a copy in the retry stream.
pub const BUSY_LINGER: Duration = Duration::from_secs(15);
/// The same in a pool: what its agent cannot take now is for whoever is free.
pub const POOL_LINGER: Duration = Duration::from_millis(200);
/// The same where order is kept: another member takes the group or the part over. It counts as an attempt, so of a part once
/// per event, and of a strict group, which asks for nothing it has no credit for, as long as one is left.
pub const PART_LINGER: Duration = Duration::from_secs(1);

/// The same of one that is handed out alone: another member may be free now, this one is once all is settled.
pub const SUSPECT_LINGER: Duration = Duration::from_secs(1);

/// One held delivery.
pub struct Held {
    /// The message.
    pub incoming: Incoming,
    /// What it is.
    pub fresh: Box<Fresh>,
    /// Its key in the ack memory.
    pub key: Key,
    /// Its group.
    pub group: Arc<GroupGrant>,
    /// Span of the agent's work, while it is out.
    pub span: Option<Span>,
    /// That span's place in the trace.
    pub context: Option<Context>,
    /// Replies stored so far, if it is an ask.
    pub replied: Replied,
    pub(super) state: State,
    pub(super) taken: Instant,
    /// When its lease was renewed last. Where order is kept, the broker has said so.
    pub(super) extended: Instant,
    /// When that was last asked for.
    pub(super) asked: Instant,
    /// Its order could not be vouched for at some moment. Stays so until the broker delivers it here anew.
    pub(super) lapsed: bool,
}

/// How far a delivery's replies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replied {
    /// Place of the next one.
    pub next: u32,
    /// The broker's delivery count when the delivery was taken in: stays when its lease is renewed by another one.
    pub delivered: u64,
}

/// Where it is, with the subscriber that has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// In its group's queue.
    Waiting,
    /// In the agent's hands.
    Out { to: u64, since: Instant, deadline: Instant },
    /// A retry or dead letter is being stored.
    Settling { to: u64, since: Instant, deadline: Instant },
}

/// How long a lease of an ordered group is good for: well below the broker's patience, so that an answer given at the last
/// moment is there in time.
pub fn good_for(group: &GroupGrant) -> Duration {
    let wait = group.ack_wait();
    let margin = (wait / 5).max(Duration::from_secs(1));
    wait.saturating_sub(margin)
}

impl Held {
    /// What a move needs; the span stays with the original.
    pub fn copy(&self) -> Self {
        Self {
            incoming: self.incoming.clone(),
            fresh: self.fresh.clone(),
            key: self.key.clone(),
            group: self.group.clone(),
            span: None,
            ..*self
        }
    }

    /// A held delivery is extended this often: every 3 s with an ack wait of 10 s.
    pub(super) fn extend_every(&self) -> Duration {
        self.group.ack_wait().mul_f64(0.3)
    }

    /// Where order is kept: whether its lease could not be renewed for so long that the broker may be about to give it to
    /// somebody else. It gives what is delivered at most once to nobody else.
    pub fn is_lapsed(&self, now: Instant) -> bool {
        if !self.group.keeps_order() || self.fresh.at_most_once {
            return false;
        }
        self.lapsed || now.saturating_duration_since(self.extended) >= good_for(&self.group)
    }

    /// After how long it goes back while it waits; `busy`: its agent is at work, not away. None = it stays.
    pub(super) fn linger(&self, busy: bool) -> Option<Duration> {
        let pool = self.group.kind == GroupKind::Pool;
        if let Some(suspect) = self.fresh.suspect.as_ref().filter(|_| busy) {
            // Where going back costs an attempt it waits for its turn.
            return (!self.group.keeps_order() && !suspect.stays).then_some(SUSPECT_LINGER);
        }
        match (busy, &self.group) {
            (true, group) if group.ordered => self.may_go_back().then_some(PART_LINGER),
            (true, group) if group.by_key => (self.incoming.receipt.delivered == 1).then_some(PART_LINGER),
            (_, group) if pool && !group.keeps_order() => Some(POOL_LINGER),
            (true, _) => Some(BUSY_LINGER),
            (false, _) => Some(LINGER),
        }
    }

    /// Whether giving it back does no harm: where order is kept it counts as an attempt, and one must be left.
    pub(super) fn may_go_back(&self) -> bool {
        !self.group.keeps_order() || self.fresh.at_most_once || self.fresh.attempt < self.fresh.attempts_max
    }

    /// Back to waiting: its agent is dead.
    pub(super) fn back_in_line(&mut self, now: Instant) {
        (self.state, self.span, self.context, self.taken) = (State::Waiting, None, None, now);
    }

    /// How long the agent has had it.
    pub fn worked(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Out { since, .. } | State::Settling { since, .. } => Some(now.saturating_duration_since(since)),
            State::Waiting => None,
        }
    }
}
