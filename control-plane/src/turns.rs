//! Turns for requests: one agent's are handled one after the other, and only so many of them may wait.
//!
//! What one agent asks holds up nobody else, however much it is. Some may wait, because replicas of an agent ask at the
//! same time when they start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, MutexGuard};

/// Most requests of one agent under way or waiting; beyond, the answer is `RATE_LIMITED`.
pub const WAITING_MAX: usize = 16;

/// The queues of all agents that have requests.
#[derive(Debug, Default)]
pub struct Turns {
    queues: Mutex<HashMap<String, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    places: usize,
    turn: Arc<Turn<()>>,
}

/// A place in an agent's queue; given up when dropped.
#[derive(Debug)]
pub struct Place {
    turns: Arc<Turns>,
    agent: String,
    turn: Arc<Turn<()>>,
}

impl Turns {
    /// A place for one more request of this agent; none when it has too many.
    pub fn place(self: &Arc<Self>, agent: &str) -> Option<Place> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(agent.to_owned()).or_default();
        if queue.places >= WAITING_MAX {
            return None;
        }
        queue.places += 1;
        Some(Place { turns: Arc::clone(self), agent: agent.to_owned(), turn: Arc::clone(&queue.turn) })
    }
}

impl Place {
    /// Waits until it is this request's turn, in the order of asking; it is until the guard is dropped.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get_mut(&self.agent) {
            queue.places -= 1;
            if queue.places == 0 {
                queues.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_with_too_many_requests_holds_up_only_itself() {
        let turns = Arc::new(Turns::default());
        let mut places: Vec<Place> = (0..WAITING_MAX).map(|_| turns.place("busy").unwrap()).collect();
        assert!(turns.place("busy").is_none());
        let (first, second) = (&places[0], &places[1]);
        let held = first.turn().await;
        assert!(second.turn.try_lock().is_err(), "one after the other");
        drop(turns.place("other").unwrap().turn().await);
        drop(held);
        drop(second.turn().await);
        places.pop();
        assert!(turns.place("busy").is_some());
        places.clear();
        assert!(turns.queues.lock().unwrap().is_empty(), "nothing is kept of who asks no more");
    }
}
