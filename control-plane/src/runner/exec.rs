//! The `exec` runner: a command once per event. Data on stdin, exit code = ack, nack or reject, stdout = events.
//!
//! One loop owns everything: frames from the sidecar, commands that end, time, and the order to stop. When the sidecar is
//! replaced, commands go on, ask the new one for more time, and tell it their verdicts: a delivery id outlives the sidecar
//! that gave it. A command that is not given more time because its event is lost is stopped: so it is where order is kept,
//! because another member gets the event then.
//!
//! Stopping: no more deliveries, then the running commands get their grace, then they are killed and their events nacked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use agentbus_proto::sidecar::v1::{Delivery, SettleResponse, SubscribeRequest, subscribe_response::Frame};
use agentbus_proto::{Code, Fault, timestamp};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::client::{self, Inbound};
use super::frames;
use super::jobs::{Held, Jobs, Key};
use super::settle::settle;
use super::verdict::{self, Verdict};
use super::work::Work;

pub use super::options::{Argv, Options, Output};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A request for more time without an answer is sent again after this long.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// After the commands were killed, how long their ends and the sidecar's answers may take.
const LAST_WAIT: Duration = Duration::from_secs(4);
/// Frames from the sidecar that wait for the loop.
const INBOUND_MAX: usize = 64;

/// Serves the agent's declared subscriptions until `shutdown` is cancelled and what runs has ended. Fails only when
/// the sidecar refuses for good, for example the token.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client::client(&options.url, &options.token)?;
    let (inbound_tx, inbound) = mpsc::channel(INBOUND_MAX);
    let room = Arc::new(AtomicU32::new(options.concurrency));
    let subscribing = tokio::spawn(client::subscribe(client.clone(), room.clone(), inbound_tx));
    let runner = Runner {
        work: Arc::new(Work::new(&options, client)),
        concurrency: options.concurrency,
        grace: Duration::from_millis(options.grace_ms),
        room,
        stream: 1,
        outbound: None,
        credit: 0,
        jobs: Jobs::default(),
        tasks: JoinSet::new(),
        settles: JoinSet::new(),
        phase: Phase::Working,
    };
    runner.run(inbound, subscribing, shutdown).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    /// Running commands may finish until then.
    Finishing(Instant),
    /// They were killed; their events may be settled until then.
    Leaving(Instant),
}

struct Runner {
    work: Arc<Work>,
    concurrency: u32,
    grace: Duration,
    /// Deliveries the sidecar may hand out on a stream that is opened now.
    room: Arc<AtomicU32>,
    /// Number of the open stream, or of the next one.
    stream: u64,
    outbound: Option<mpsc::Sender<SubscribeRequest>>,
    /// As last told on the open stream.
    credit: u32,
    jobs: Jobs,
    tasks: JoinSet<Verdict>,
    /// Verdicts on their way.
    settles: JoinSet<()>,
    phase: Phase,
}

impl Runner {
    async fn run(
        mut self,
        mut inbound: mpsc::Receiver<Inbound>,
        mut subscribing: JoinHandle<Option<Fault>>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !self.is_done() {
            // Every branch is cancel-safe: queues, joins and timers keep what has not been taken.
            tokio::select! {
                () = shutdown.cancelled(), if self.phase == Phase::Working => self.stop_taking(),
                Some(event) = inbound.recv() => self.on(event),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                Some(_) = self.settles.join_next() => {}
                _ = ticks.tick() => self.on_time(Instant::now()),
                refused = &mut subscribing => {
                    let fault = refused.ok().flatten();
                    let why = fault.map_or_else(|| "it ended".to_owned(), |fault| fault.to_string());
                    anyhow::bail!("the sidecar refuses the subscription: {why}");
                }
            }
            self.tell_credit();
        }
        subscribing.abort();
        Ok(())
    }

    fn on(&mut self, event: Inbound) {
        match event {
            Inbound::Up { outbound, credit } => self.up(outbound, credit),
            Inbound::Down => {
                tracing::info!(running = self.jobs.len(), "sidecar gone; commands go on");
                self.outbound = None;
                self.stream += 1;
            }
            Inbound::Frame(frame) => self.on_frame(*frame),
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Delivery(delivery) => self.take(delivery),
            Frame::Settled(answer) => self.extended(answer),
            Frame::Lost(lost) => {
                let why = lost.why.map(|why| why.message).unwrap_or_default();
                tracing::warn!(delivery = %lost.delivery_id, why, "delivery taken back; its command is stopped");
                self.jobs.lose(&lost.delivery_id);
            }
            Frame::Draining(_) => tracing::debug!("sidecar is draining"),
        }
    }

    /// A new stream: what still runs asks for time at once, so that the new sidecar keeps it from being handed to others.
    fn up(&mut self, outbound: mpsc::Sender<SubscribeRequest>, credit: u32) {
        (self.outbound, self.credit) = (Some(outbound), credit);
        let now = Instant::now();
        self.jobs.held().for_each(|held| held.extend_at = Some(now));
        self.on_time(now);
    }

    fn take(&mut self, delivery: Delivery) {
        if self.phase != Phase::Working {
            // It came after we said stop; unsettled, it goes back when this process ends.
            return;
        }
        let (key, now) = (Key::of(&delivery), SystemTime::now());
        let held = Held::new(&delivery, self.stream, now);
        if let Some(held) = self.jobs.join(&key, held) {
            let stop = CancellationToken::new();
            let task = self.tasks.spawn(self.work.clone().on(delivery, stop.clone())).id();
            self.jobs.start(key, task, stop, held);
        }
    }

    fn ended(&mut self, ended: Result<(Id, Verdict), JoinError>) {
        let (task, verdict) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), verdict::nack(format!("the runner failed: {error}"))),
        };
        let Some(job) = self.jobs.finish(task) else { return };
        for held in job.held {
            self.settles.spawn(settle(self.work.client.clone(), held.id, verdict.clone()));
        }
    }

    /// Only requests for more time are made on the stream.
    fn extended(&mut self, answer: SettleResponse) {
        // Nobody holds it: the command ended meanwhile.
        let Some(held) = self.jobs.held().find(|held| held.id == answer.delivery_id) else { return };
        match answer.failure.map(Fault::from) {
            None => held.until(answer.deadline.as_ref().and_then(timestamp::to_system), SystemTime::now()),
            // It is, or will be, somebody else's: a new sidecar says so of what keeps an order.
            Some(fault) if fault.code == Code::LeaseLost => {
                tracing::warn!(delivery = %held.id, %fault, "delivery lost; its command is stopped");
                self.jobs.lose(&answer.delivery_id);
            }
            Some(fault) if fault.code.retryable() => held.extend_at = Some(Instant::now() + Duration::from_secs(1)),
            Some(fault) => {
                tracing::warn!(delivery = %held.id, %fault, "no more time; the command goes on, its event may come again");
                held.extend_at = None;
            }
        }
    }

    fn on_time(&mut self, now: Instant) {
        match self.phase {
            Phase::Finishing(until) if now >= until => {
                tracing::warn!(running = self.jobs.len(), "grace is over; commands are killed");
                self.jobs.stop_all();
                self.phase = Phase::Leaving(now + LAST_WAIT);
            }
            _ => {}
        }
        let Some(outbound) = &self.outbound else { return };
        // A full queue is met again after the wait: repeating a frame is safe.
        for held in self.jobs.held().filter(|held| held.extend_at.is_some_and(|at| at <= now)) {
            let sent = outbound.try_send(frames::extend(&held.id, held.lease)).is_ok();
            held.extend_at = Some(now + if sent { ANSWER_WAIT } else { TICK });
        }
    }

    fn stop_taking(&mut self) {
        self.phase = Phase::Finishing(Instant::now() + self.grace);
        tracing::info!(running = self.jobs.len(), "stopping");
    }

    /// Commands of former streams hold no credit of this one, but they do hold a place.
    fn tell_credit(&mut self) {
        let foreign = u32::try_from(self.jobs.foreign(self.stream)).unwrap_or(u32::MAX);
        let room = if self.phase == Phase::Working { self.concurrency.saturating_sub(foreign) } else { 0 };
        self.room.store(room, Ordering::Relaxed);
        if self.outbound.is_some() && self.credit != room && self.send(frames::credit(room)) {
            self.credit = room;
        }
    }

    fn send(&self, frame: SubscribeRequest) -> bool {
        self.outbound.as_ref().is_some_and(|outbound| outbound.try_send(frame).is_ok())
    }

    fn is_done(&self) -> bool {
        let nothing_left = self.jobs.is_empty() && self.settles.is_empty();
        match self.phase {
            Phase::Working => false,
            Phase::Finishing(_) => nothing_left,
            Phase::Leaving(until) => nothing_left || Instant::now() >= until,
        }
    }
}
