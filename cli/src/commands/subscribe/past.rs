//! `--since`: what is stored already, printed before the subscription takes anything.
//!
//! The subscription is in place by then, so between the last event printed here and the first one taken nothing is missing. What
//! comes as a delivery although it was printed is acked without a word.

use agentbus_control_plane::events::ListQuery;

use super::session::Session;
use crate::commands::tail;
use crate::history::History;

/// Events of a page.
const PAGE: usize = 500;

impl Session<'_> {
    /// Prints what was stored since this moment; says whether that was as much as was wanted.
    pub(super) async fn look_back(&mut self, since: String) -> anyhow::Result<bool> {
        let history = History::find(self.global, "subscribe").await?;
        let pattern = self.args.patterns.join(",");
        let mut query = ListQuery { since: Some(since), pattern, limit: Some(PAGE), ..ListQuery::default() };
        loop {
            let page = history.list(&query).await?;
            for stored in &page.events {
                let types = &self.args.types;
                let typed = types.is_empty()
                    || stored.event["type"].as_str().is_some_and(|kind| types.iter().any(|one| one == kind));
                if typed && self.filter.as_ref().is_none_or(|filter| filter.matches(&stored.event)) {
                    tail::print(self.global, stored, self.paint)?;
                    self.taken += 1;
                }
                self.printed_until = stored.seq;
                if self.args.max.is_some_and(|max| self.taken >= max) {
                    return Ok(true);
                }
            }
            if !page.more {
                return Ok(false);
            }
            query = ListQuery { from_seq: Some(page.next), since: None, ..query };
        }
    }
}
