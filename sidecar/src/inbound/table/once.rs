//! Events that are delivered at most once. The broker has forgotten them before their agent has them, so nothing there
//! holds the next ones back: what is still on its way in counts as held, and a strict group asks for nothing beside one.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Held, Table};

/// How many there are, by group.
#[derive(Default)]
pub(super) struct Once {
    /// The broker is being asked to forget them.
    coming: HashMap<Arc<str>, usize>,
    /// In strict groups: those, and what is held.
    in_line: HashMap<Arc<str>, usize>,
}

impl Once {
    pub(super) fn coming(&self, group: &str) -> usize {
        self.coming.get(group).copied().unwrap_or(0)
    }

    pub(super) fn held(&mut self, held: &Held) {
        if held.fresh.at_most_once && held.group.ordered {
            add(&mut self.in_line, &held.key.group);
        }
    }

    pub(super) fn gone(&mut self, held: &Held) {
        if held.fresh.at_most_once && held.group.ordered {
            take(&mut self.in_line, &held.key.group, 1);
        }
    }
}

impl Table {
    /// One is on its way in.
    pub fn coming(&mut self, group: &Arc<str>, ordered: bool) {
        add(&mut self.once.coming, group);
        if ordered {
            add(&mut self.once.in_line, group);
        }
    }

    /// So many are held now, or did not come.
    pub fn came(&mut self, group: &str, ordered: bool, count: usize) {
        take(&mut self.once.coming, group, count);
        if ordered {
            take(&mut self.once.in_line, group, count);
        }
    }

    /// Whether a strict group must not be asked for the next one, because the broker would not hold it back.
    pub fn is_taken(&self, group: &str) -> bool {
        self.once.in_line.contains_key(group)
    }
}

fn add(counts: &mut HashMap<Arc<str>, usize>, group: &Arc<str>) {
    *counts.entry(group.clone()).or_default() += 1;
}

fn take(counts: &mut HashMap<Arc<str>, usize>, group: &str, many: usize) {
    if let Some(count) = counts.get_mut(group) {
        *count = count.saturating_sub(many);
        if *count == 0 {
            counts.remove(group);
        }
    }
}
