//! What the table knows of an event: for the control plane, when somebody asks where it is.

use std::time::{Instant, SystemTime};

use agentbus_nats::held::{self, Wanted, What, nanos};
use agentbus_nats::moves::Origin;

use super::{Held, State, Table};
use crate::memory::{Key, Source, Verdict};

impl Table {
    /// What is held or remembered of `wanted`, an event of the stream `events`. `now` is the same moment twice.
    pub fn look(&self, wanted: &Wanted, events: &str, now: (Instant, SystemTime)) -> Option<held::Held> {
        let key = Key {
            group: wanted.group.as_str().into(),
            source: Source::Events,
            seq: wanted.seq,
            stored_at: held::moment(wanted.stored_at),
        };
        let direct = self.by_key.get(&key).and_then(|id| self.held.get(id));
        let held = direct.or_else(|| self.held.values().find(|held| is_copy(held, &key, events)));
        if let Some(held) = held {
            return Some(describe(held, wanted, now));
        }
        let what = match self.memory.verdict(&key)? {
            Verdict::Acked => What::Acked,
            Verdict::Nacked | Verdict::Dead | Verdict::Moved => What::Moved,
            Verdict::Later | Verdict::ToPark(..) => What::Later,
            // It comes again, here or elsewhere.
            Verdict::Lost | Verdict::Died => return None,
        };
        Some(held::Held { group: wanted.group.clone(), seq: wanted.seq, what, attempt: 0, since_ms: None })
    }
}

/// A held delivery in the words of the question.
fn describe(held: &Held, wanted: &Wanted, (now, wall): (Instant, SystemTime)) -> held::Held {
    let (what, since) = match held.state {
        State::Waiting => (What::Waiting, None),
        State::Out { since, .. } | State::Settling { since, .. } => (What::Out, Some(since)),
    };
    let since = since.and_then(|since| wall.checked_sub(now.saturating_duration_since(since)));
    held::Held {
        group: wanted.group.clone(),
        seq: wanted.seq,
        what,
        attempt: held.fresh.attempt,
        since_ms: since.map(|since| nanos(since) / 1_000_000),
    }
}

/// Whether it is a retry of that event.
fn is_copy(held: &Held, key: &Key, events: &str) -> bool {
    held.key.source == Source::Retry && held.key.group == key.group && {
        let origin = Origin::of(&held.incoming);
        origin.seq == key.seq && origin.stream == events
    }
}
