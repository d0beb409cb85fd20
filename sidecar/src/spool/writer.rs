//! The thread that owns the spool's files: many events share one fsync, and none blocks the sidecar's own thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::grant::{Fsync, SpoolOptions};
use agentbus_nats::moves;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::bytesize;
use tokio::sync::oneshot;

use super::Shared;
use super::log::{Error, Log};
use super::record::Record;

/// Events that share an fsync at most.
const TOGETHER_MAX: usize = 512;
/// With `fsync: interval`, how often.
const INTERVAL: Duration = Duration::from_millis(100);
/// Payload that the drainer gets at once.
const READ_BYTES_MAX: usize = 4 << 20;
/// When to ask again after the disk was full.
const FULL_WAIT: Duration = Duration::from_secs(5);

/// An event for the spool.
pub struct Entry {
    /// Its record.
    pub body: Vec<u8>,
    /// Told when it lasts.
    pub answer: oneshot::Sender<Result<(), Fault>>,
}

/// What the writer does.
pub enum Order {
    /// Keep these, in this order.
    Keep(Vec<Entry>),
    /// The first records that wait.
    Read(oneshot::Sender<io::Result<Vec<(u64, Record)>>>),
    /// These are stored, those are refused for good.
    Done {
        /// Stored.
        stored: Vec<u64>,
        /// Refused, and why.
        refused: Vec<(u64, Record, Fault)>,
        /// Told when that is noted.
        answer: oneshot::Sender<()>,
    },
}

/// The owner of the files.
pub struct Writer {
    log: Log,
    options: SpoolOptions,
    shared: Arc<Shared>,
    /// Written and not yet made to last, in order.
    unsynced: Vec<oneshot::Sender<Result<(), Fault>>>,
    since: Instant,
}

impl Writer {
    /// For an open log.
    pub fn new(log: Log, options: SpoolOptions, shared: Arc<Shared>) -> Self {
        shared.count(&log);
        Self { log, options, shared, unsynced: Vec::new(), since: Instant::now() }
    }

    /// Runs until every handle is gone.
    pub fn run(mut self, orders: &Receiver<Order>) {
        while let Some(first) = self.next(orders) {
            if let Some(order) = first {
                self.take(order);
                while self.unsynced.len() < TOGETHER_MAX
                    && let Ok(order) = orders.try_recv()
                {
                    self.take(order);
                }
            }
            if self.options.fsync != Fsync::Interval || self.since.elapsed() >= INTERVAL {
                self.settle();
            }
            self.shared.count(&self.log);
        }
        self.settle();
    }

    /// The next order, or `Some(None)` when it is time to sync; `None` at the end.
    fn next(&self, orders: &Receiver<Order>) -> Option<Option<Order>> {
        if self.unsynced.is_empty() {
            return orders.recv().ok().map(Some);
        }
        match orders.recv_timeout(INTERVAL.saturating_sub(self.since.elapsed())) {
            Ok(order) => Some(Some(order)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Keep(entries) => entries.into_iter().for_each(|entry| self.keep(entry)),
            Order::Read(answer) => {
                // What is sent must not be taken back afterwards.
                self.settle();
                let _ = answer.send(self.log.read(READ_BYTES_MAX));
            }
            Order::Done { stored, refused, answer } => {
                self.done(stored, refused);
                let _ = answer.send(());
            }
        }
    }

    fn keep(&mut self, entry: Entry) {
        self.shared.written(entry.body.len());
        match self.log.append(&entry.body) {
            Ok(()) => {
                if self.unsynced.is_empty() {
                    self.since = Instant::now();
                }
                self.unsynced.push(entry.answer);
            }
            Err(error) => {
                self.shared.gone(1);
                let _ = entry.answer.send(Err(self.fault(&error)));
            }
        }
    }

    /// Makes what was written last, as far as the policy asks for it, and tells those who wait.
    fn settle(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let synced = if self.options.fsync == Fsync::Never { Ok(()) } else { self.log.sync() };
        let answers = std::mem::take(&mut self.unsynced);
        let outcome = synced.map_err(|error| {
            self.log.take_back(answers.len() as u64);
            self.shared.gone(answers.len() as u64);
            self.fault(&Error::Disk(error))
        });
        for answer in answers {
            // Who does not wait any more has its event kept all the same.
            let _ = answer.send(outcome.clone());
        }
    }

    fn done(&mut self, mut stored: Vec<u64>, refused: Vec<(u64, Record, Fault)>) {
        let at = moves::rfc3339(SystemTime::now());
        for (index, record, fault) in refused {
            match self.log.refuse(&record, &fault, &at) {
                Ok(()) => {
                    tracing::error!(id = %record.id, %fault, "an event of the spool is refused for good");
                    stored.push(index);
                }
                Err(error) => tracing::error!(%error, "cannot write down a refused event; it stays in the spool"),
            }
        }
        if let Err(error) = self.log.done(&stored, self.options.fsync != Fsync::Never) {
            tracing::error!(%error, "cannot note what is sent: it may be sent again after a restart");
        }
        self.shared.gone(stored.len() as u64);
    }

    fn fault(&self, error: &Error) -> Fault {
        let why = match error {
            Error::Full => format!(
                "the broker is away and the spool is full ({}): this event is not kept",
                bytesize::format(self.options.bytes_max)
            ),
            Error::Disk(error) => {
                format!("the broker is away and the spool's disk does not take the event ({error}): it is not kept")
            }
        };
        Fault::new(Code::SpoolFull, why).with_retry_after(FULL_WAIT)
    }
}

#[cfg(test)]
mod tests;
