//! What is known about all instances, for everybody who looks: one list, changed in place, watched by many.

use std::sync::Arc;
use std::time::SystemTime;

use agentbus_nats::moves;
use tokio::sync::watch;

use crate::status::InstanceStatus;

/// One instance's line on the board.
#[derive(Debug, Clone)]
pub(super) struct Line {
    board: Arc<watch::Sender<Vec<InstanceStatus>>>,
    at: usize,
}

/// A board with these instances, and a line for each.
pub(super) fn board(statuses: Vec<InstanceStatus>) -> (watch::Receiver<Vec<InstanceStatus>>, Vec<Line>) {
    let count = statuses.len();
    let (tx, rx) = watch::channel(statuses);
    let board = Arc::new(tx);
    (rx, (0..count).map(|at| Line { board: Arc::clone(&board), at }).collect())
}

impl Line {
    /// Changes the line; watchers are told only of real changes. A new state is stamped with the time.
    pub fn update(&self, change: impl FnOnce(&mut InstanceStatus)) {
        self.board.send_if_modified(|all| {
            let Some(status) = all.get_mut(self.at) else { return false };
            let before = status.clone();
            change(status);
            if status.state != before.state {
                status.since = moves::rfc3339(SystemTime::now());
            }
            *status != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::InstanceState;

    #[test]
    fn watchers_hear_of_changes_only() {
        let (mut watcher, lines) = board(vec![InstanceStatus::default(), InstanceStatus::default()]);
        watcher.mark_unchanged();
        lines[1].update(|status| status.state = InstanceState::Spawning);
        assert!(!watcher.has_changed().unwrap());
        lines[1].update(|status| status.state = InstanceState::Running);
        assert!(watcher.has_changed().unwrap());
        assert_eq!(watcher.borrow()[0].since, "");
        assert_ne!(watcher.borrow()[1].since, "");
    }
}
