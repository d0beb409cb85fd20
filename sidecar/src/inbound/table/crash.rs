//! What an agent leaves behind that dies, and how it is found out which event kills it.
//!
//! - A death is one failure for the breaker of each group it hits, however much was in hand.
//! - Was one delivery in hand, it is to blame: the death counts as an attempt, and after as many as the crash limit it is a
//!   dead letter (`CRASH`).
//! - Were there several, nobody knows which: all are *suspects*. They keep their attempts, and from then on each is handed
//!   out alone: before all others, when nothing else is in hand, and nothing beside it. So the next death tells.
//! - Is it known, those that died with it are no suspects any more, as far as they wait here.
//!
//! That must outlive this sidecar and reach whoever gets the event next. Suspects go back at once as copies that say so
//! (`Ab-Crashes`). Where order is kept there are no copies: they stay here, held, for the agent that is started again; one
//! that goes to another member after all is delivered once more, which counts as an attempt. What a sidecar does not live
//! to write down the broker counts, for all it held: whoever has as many deliveries as the limit allows is handed out alone
//! the last time. So nothing becomes a dead letter for dying beside something else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Command, Id, State, Table};
use crate::inbound::admit::{Suspect, millis};
use crate::memory::Verdict;

/// A connection that breaks and a process whose end is told within this time are the same death.
const SAME_DEATH: Duration = Duration::from_secs(2);

/// What is remembered of deaths.
#[derive(Default)]
pub(super) struct Deaths {
    /// Suspects held.
    pub(super) suspects: usize,
    /// The connections that broke last.
    broken: Option<Broken>,
}

/// Connections that broke with something in hand, all by the same death.
struct Broken {
    at: Instant,
    /// When the first of them did, as suspects have it.
    death_ms: u64,
    /// The groups it was a failure for.
    groups: Vec<Arc<str>>,
}

impl Table {
    /// The agent runs: what happens to it from now on is another death.
    pub fn agent_started(&mut self) {
        self.agent_stopping = false;
        self.deaths.broken = None;
    }

    /// The agent process is gone: what it had in hand is under suspicion, what waited goes to others. `killed`: it was ended
    /// from outside, which speaks against all that these groups would give it, whether it held something or not.
    pub fn agent_exited(&mut self, killed: &[Arc<str>], now: (Instant, SystemTime)) -> Vec<Command> {
        let ids = self.ids(|held| matches!(held.state, State::Out { .. }));
        let mut commands = self.died(ids, now);
        let broken = self.deaths.broken.take();
        let hit = |group: &&Arc<str>| broken.as_ref().is_some_and(|broken| broken.groups.contains(group));
        let death = format!("killed at {}", millis(now.1));
        for group in killed.iter().filter(|group| !hit(group)) {
            if self.bounds.failed(group, Some(&death), now.0) {
                commands.push(Command::LeaveAlone(group.clone()));
            }
        }
        let waiting = self.ids(|held| held.state == State::Waiting && !is_kept(held));
        commands.extend(waiting.iter().filter_map(|id| self.lose(id)).map(Command::GiveBack));
        commands
    }

    /// A connection broke with these in hand.
    pub(super) fn connection_broke(&mut self, ids: Vec<Id>, now: (Instant, SystemTime)) -> Vec<Command> {
        self.died(ids, now)
    }

    /// Whoever had these is dead. Several connections of one process break one after the other: together they are one death.
    fn died(&mut self, ids: Vec<Id>, (now, clock): (Instant, SystemTime)) -> Vec<Command> {
        let before = self.deaths.broken.take().filter(|broken| now.duration_since(broken.at) < SAME_DEATH);
        let mut broken = before.unwrap_or(Broken { at: now, death_ms: millis(clock), groups: Vec::new() });
        let out = self.held.values().filter(|held| matches!(held.state, State::Out { .. })).count();
        // What another connection has in hand may be the same process's: then, too, nobody knows.
        let alone = ids.len() == 1 && out == 1 && broken.groups.is_empty();
        let mut hit: BTreeMap<Arc<str>, Option<String>> = BTreeMap::new();
        let mut commands = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(held) = self.held.get(&id) else { continue };
            hit.insert(held.key.group.clone(), alone.then(|| held.fresh.head.id.clone()));
            commands.extend(if alone { self.blame(&id) } else { self.suspect(&id, now, broken.death_ms) });
        }
        hit.retain(|group, _| !broken.groups.contains(group));
        for (group, event) in &hit {
            if self.bounds.failed(group, event.as_deref(), now) {
                commands.push(Command::LeaveAlone(group.clone()));
            }
        }
        broken.at = now;
        broken.groups.extend(hit.into_keys());
        self.deaths.broken = Some(broken);
        commands
    }

    /// It kills its agent. What died with it once and waits here is free again.
    fn blame(&mut self, id: &str) -> Option<Command> {
        let held = self.remove(id)?;
        if let Some(of) = &held.fresh.suspect {
            let same = |other: &Suspect| other.death_ms == of.death_ms && other.crashes == 0;
            for other in self.held.values_mut().filter(|other| other.fresh.suspect.as_ref().is_some_and(same)) {
                other.fresh.suspect = None;
                self.deaths.suspects -= 1;
            }
        }
        self.memory.remember(held.key.clone(), Verdict::Died);
        Some(Command::Crash(held))
    }

    /// It may be the one that kills its agent.
    fn suspect(&mut self, id: &str, now: Instant, death_ms: u64) -> Option<Command> {
        let mut held = self.remove(id)?;
        let crashes = held.fresh.suspect.as_ref().map_or(0, |suspect| suspect.crashes);
        held.fresh.suspect = Some(Suspect { crashes, death_ms, stays: false });
        if held.group.keeps_order() && !held.fresh.at_most_once {
            held.back_in_line(now);
            self.hold(id.into(), held);
            return None;
        }
        self.memory.remember(held.key.clone(), Verdict::Lost);
        Some(Command::Suspect(held))
    }
}

/// Kept for the agent that is started again.
fn is_kept(held: &super::Held) -> bool {
    held.fresh.suspect.is_some() && held.group.keeps_order() && !held.fresh.at_most_once
}
