//! Removes old facts from the audit stream, behind a snapshot of what is folded from them.
//!
//! The stream is kept for people, as long as there is room and for a year at most. What has to be known longer is in the
//! snapshot: only facts that it has are removed.

use std::time::{Duration, SystemTime};

use agentbus_nats::bus::StreamInfo;
use agentbus_nats::read::{From, Query};
use agentbus_proto::Fault;

use super::facts::Facts;
use super::read::DeadLetters;
use super::snapshot;

/// Facts older than this are removed.
const AGE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Beyond this share of the space the oldest facts are removed…
const FULL_PERCENT: u64 = 80;
/// …down to this share.
const KEEP_PERCENT: u64 = 70;

impl DeadLetters {
    /// Removes the facts that need not be kept; tells how many.
    pub(crate) async fn trim_facts(&self, now: SystemTime) -> Result<u64, Fault> {
        let mut facts = self.facts.lock().await;
        self.trim_behind(&mut facts, now).await
    }

    /// The same for whoever has the turn.
    pub(super) async fn trim_behind(&self, facts: &mut Facts, now: SystemTime) -> Result<u64, Fault> {
        let name = self.names.audit();
        let Some(stream) = self.bus.stream(&name).await? else { return Ok(0) };
        let too_old = match now.checked_sub(AGE_MAX) {
            Some(from) => self.younger(&stream, from).await?,
            None => None,
        };
        let Some(below) = below(&stream, too_old) else { return Ok(0) };
        self.refresh(facts).await?;
        if let Some(letters) = self.bus.stream(&self.names.dead_letters()).await? {
            facts.forget_below(letters.first_seq);
        }
        // The fold has looked at all there was; its own facts may have ended long before.
        facts.seen = facts.seen.max(stream.last_seq);
        snapshot::save(&*self.bus, &self.names, facts).await?;
        let removed = self.bus.purge(&name, below.min(facts.seen + 1), None).await?;
        tracing::info!(removed, as_of = facts.seen, "old facts removed from the audit stream");
        Ok(removed)
    }

    /// The first fact that is younger than `from`, when there are older ones.
    async fn younger(&self, stream: &StreamInfo, from: SystemTime) -> Result<Option<u64>, Fault> {
        let oldest = self.bus.find(&stream.config.name, "aba.>", stream.first_seq).await?;
        if oldest.is_none_or(|oldest| oldest.stored_at >= from) {
            return Ok(None);
        }
        let query = Query { from: From::Time(from), headers_only: true, limit: 1, ..Query::all() };
        let page = self.bus.read(&stream.config.name, &query).await?;
        Ok(Some(page.records.first().map_or(stream.last_seq + 1, |record| record.seq)))
    }
}

/// Facts below this are not kept; none = all are. By the mean size of facts: what is left over is for the next time.
fn below(stream: &StreamInfo, too_old: Option<u64>) -> Option<u64> {
    let most = u64::try_from(stream.config.max_bytes).ok().filter(|most| *most > 0);
    let excess = most.filter(|most| stream.bytes > most / 100 * FULL_PERCENT);
    let for_room = excess.map(|most| {
        let excess = u128::from(stream.bytes - most / 100 * KEEP_PERCENT);
        let span = u128::from((stream.last_seq + 1).saturating_sub(stream.first_seq));
        stream.first_seq + u64::try_from(span * excess / u128::from(stream.bytes)).unwrap_or(0).max(1)
    });
    for_room.into_iter().chain(too_old).max()
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::Config;

    use super::*;

    #[test]
    fn the_oldest_go_when_four_fifths_are_used_or_a_year_has_passed() {
        let check = |bytes, max_bytes, too_old, wanted: Option<u64>| {
            let stream = StreamInfo {
                config: Config { max_bytes, ..Config::default() },
                created: time::OffsetDateTime::UNIX_EPOCH,
                messages: 100,
                bytes,
                first_seq: 101,
                last_seq: 200,
                consumers: 0,
            };
            assert_eq!(below(&stream, too_old), wanted, "{bytes} of {max_bytes}");
        };
        check(800, 1000, None, None);
        check(1000, 1000, None, Some(131));
        check(801, 1000, None, Some(113));
        check(801, 1000, Some(150), Some(150));
        check(10, 1000, Some(150), Some(150));
        check(1000, -1, None, None);
    }
}
