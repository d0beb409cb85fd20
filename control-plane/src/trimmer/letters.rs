//! Removes dead letters that are older than the project wants them. Only where it says so: without a word they are kept.

use std::time::SystemTime;

use agentbus_nats::read::{From, Query};
use agentbus_proto::Fault;
use serde_json::json;

use super::Trimmer;

pub(super) async fn trim(trimmer: &Trimmer, now: SystemTime) -> Result<(), Fault> {
    let Some(from) = trimmer.retention.dead_letters.and_then(|age| now.checked_sub(age)) else { return Ok(()) };
    let name = trimmer.names.dead_letters();
    let Some(letters) = trimmer.bus.stream(&name).await?.filter(|letters| letters.messages > 0) else { return Ok(()) };
    let query = Query { from: From::Time(from), headers_only: true, limit: 1, ..Query::all() };
    let page = trimmer.bus.read(&name, &query).await?;
    // Those written since the stream was looked at are younger, and above its last sequence.
    let below = page.records.first().map_or(letters.last_seq + 1, |record| record.seq);
    let removed = if below > letters.first_seq { trimmer.bus.purge(&name, below, None).await? } else { 0 };
    if removed > 0 {
        tracing::info!(removed, "dead letters were older than retention.dead_letters");
        trimmer.audit.record("retention.dead_letters_removed.v1", json!({"letters": removed, "below": below}));
    }
    Ok(())
}
