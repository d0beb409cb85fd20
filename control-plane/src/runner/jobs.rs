//! What is being worked on, and which deliveries stand for it. Pure bookkeeping: time comes in, ids come out.
//!
//! A job is one event of one group. It may be handed out again while its command still runs (the sidecar was killed, the
//! broker waited in vain): then the new delivery joins the job instead of starting the command a second time, and the
//! verdict answers all of them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use agentbus_proto::sidecar::v1::Delivery;
use agentbus_proto::timestamp;
use tokio::task::Id;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Deadlines closer than this are not trusted to the last moment.
const EXTEND_MIN: Duration = Duration::from_millis(50);

/// Least time asked for: a delivery may have been under way for most of its first lease.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// Which event of which group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    stream: String,
    seq: u64,
    group: String,
}

impl Key {
    pub(super) fn of(delivery: &Delivery) -> Self {
        Self { stream: delivery.stream.clone(), seq: delivery.seq, group: delivery.group.clone() }
    }
}

/// One delivery of a job.
#[derive(Debug)]
pub(super) struct Held {
    pub id: String,
    /// Number of the stream it came on: on a newer one it does not count against the credit.
    pub stream: u64,
    /// How much time it was given at first, and is asked for again.
    pub lease: Duration,
    /// When to ask for more time; none when it cannot be extended any more.
    pub extend_at: Option<Instant>,
}

/// A command at work.
#[derive(Debug)]
pub(super) struct Job {
    pub task: Id,
    pub stop: CancellationToken,
    pub held: Vec<Held>,
}

/// All jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: HashMap<Key, Job>,
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Adds a job that was just started.
    pub(super) fn start(&mut self, key: Key, task: Id, stop: CancellationToken, held: Held) {
        self.jobs.insert(key, Job { task, stop, held: vec![held] });
    }

    /// Lets a delivery join the job that works on its event; gives it back when there is none.
    pub(super) fn join(&mut self, key: &Key, held: Held) -> Option<Held> {
        match self.jobs.get_mut(key) {
            Some(job) => {
                job.held.retain(|other| other.id != held.id);
                job.held.push(held);
                None
            }
            None => Some(held),
        }
    }

    /// Takes out the job of a task that ended.
    pub(super) fn finish(&mut self, task: Id) -> Option<Job> {
        let key = self.jobs.iter().find(|(_, job)| job.task == task).map(|(key, _)| key.clone())?;
        self.jobs.remove(&key)
    }

    /// A delivery was taken back. Its command is stopped when no other delivery stands for it.
    pub(super) fn lose(&mut self, id: &str) {
        for job in self.jobs.values_mut() {
            job.held.retain(|held| held.id != id);
            if job.held.is_empty() {
                job.stop.cancel();
            }
        }
    }

    /// Jobs none of whose deliveries came on stream number `stream`.
    pub(super) fn foreign(&self, stream: u64) -> usize {
        self.jobs.values().filter(|job| job.held.iter().all(|held| held.stream != stream)).count()
    }

    /// Every delivery held.
    pub(super) fn held(&mut self) -> impl Iterator<Item = &mut Held> {
        self.jobs.values_mut().flat_map(|job| &mut job.held)
    }

    /// Stops all commands.
    pub(super) fn stop_all(&self) {
        self.jobs.values().for_each(|job| job.stop.cancel());
    }
}

impl Held {
    pub(super) fn new(delivery: &Delivery, stream: u64, now: SystemTime) -> Self {
        let deadline = delivery.deadline.as_ref().and_then(timestamp::to_system);
        let lease = deadline.and_then(|deadline| deadline.duration_since(now).ok()).unwrap_or_default().max(LEASE_MIN);
        let mut held = Self { id: delivery.delivery_id.clone(), stream, lease, extend_at: None };
        held.until(deadline, now);
        held
    }

    /// Takes a deadline: more time is asked for when half of it has passed.
    pub(super) fn until(&mut self, deadline: Option<SystemTime>, now: SystemTime) {
        self.extend_at = deadline.map(|deadline| {
            let half = deadline.duration_since(now).unwrap_or_default() / 2;
            Instant::now() + half.max(EXTEND_MIN)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: &str, seq: u64) -> Delivery {
        let deadline = Some(timestamp::from_system(SystemTime::now() + Duration::from_secs(60)));
        let (stream, group) = ("S".into(), "g".into());
        Delivery { delivery_id: id.into(), stream, seq, group, deadline, ..Delivery::default() }
    }

    fn held(id: &str, stream: u64) -> Held {
        Held::new(&delivery(id, 1), stream, SystemTime::now())
    }

    async fn one_job() -> (Jobs, Key, Id, CancellationToken) {
        let task = tokio::spawn(async {}).id();
        let (stop, key) = (CancellationToken::new(), Key::of(&delivery("a", 1)));
        let mut jobs = Jobs::default();
        jobs.start(key.clone(), task, stop.clone(), held("a", 1));
        (jobs, key, task, stop)
    }

    #[tokio::test]
    async fn a_redelivery_joins_the_running_job() {
        let (mut jobs, key, task, _) = one_job().await;
        assert!(jobs.join(&Key::of(&delivery("x", 2)), held("x", 2)).is_some());
        assert_eq!(jobs.foreign(2), 1);
        assert!(jobs.join(&key, held("b", 2)).is_none());
        assert_eq!((jobs.len(), jobs.foreign(2)), (1, 0));
        let ids: Vec<String> = jobs.finish(task).unwrap().held.into_iter().map(|held| held.id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert!(jobs.is_empty());
    }

    #[tokio::test]
    async fn a_job_is_stopped_when_its_last_delivery_is_lost() {
        let (mut jobs, key, _, stop) = one_job().await;
        jobs.join(&key, held("b", 1));
        jobs.lose("a");
        assert!(!stop.is_cancelled());
        jobs.lose("b");
        assert!(stop.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn more_time_is_asked_for_at_half_time() {
        let now = SystemTime::now();
        let mut held = held("a", 1);
        held.until(Some(now + Duration::from_secs(60)), now);
        assert_eq!(held.extend_at.unwrap() - Instant::now(), Duration::from_secs(30));
        assert!(held.lease > Duration::from_secs(59), "{:?}", held.lease);
        held.until(Some(now - Duration::from_secs(1)), now);
        assert_eq!(held.extend_at.unwrap() - Instant::now(), EXTEND_MIN);
        held.until(None, now);
        assert_eq!(held.extend_at, None);
    }
}
