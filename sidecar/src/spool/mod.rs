//! The spool: where published events wait on disk while the broker is away, for agents that ask for it.
//!
//! While all is well, an event goes straight to the broker and is only noted here, in order. When the broker is away (no
//! connection for 2 s, or no answer), everything that is under way moves into the spool in its order, and from then on
//! whatever is published goes behind it, until the last of it is stored: so the order of one agent's events is kept. The
//! agent hears `stored: spool` once its event lasts on disk as the fsync policy says, never before.
//!
//! What moved after it was sent, and was not answered, is marked: the broker may have it. It is sent again under the same
//! sealed id, which the broker swallows within its dedupe window. Only after an outage longer than that window such an
//! event can be stored twice. An event that was never sent, or was answered, is stored once.
//!
//! `record` is one event on disk, `log` the files, `drained` the place up to which they are sent, `writer` the thread that
//! owns them, `drain` the task that sends them. Asks, schedules and what an ack emits do not come here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentbus_nats::grant::SpoolOptions;
use agentbus_nats::publisher::Message;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::state::InstanceLock;
use tokio::sync::{Notify, oneshot};

pub mod drain;
pub mod drained;
pub mod log;
pub mod record;
pub mod writer;

use crate::metrics::Metrics;
use log::Log;
use writer::{Entry, Order, Writer};

/// Orders to the writer that it has not begun: each event is one, so this is what may wait for the disk.
const ORDERS_MAX: usize = 8192;
/// Bytes of events that wait for the disk; more are refused for the moment.
const UNWRITTEN_BYTES_MAX: usize = 64 << 20;

/// What is in the spool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that wait.
    pub events: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Events refused for good, in the file for people.
    pub refused: u64,
}

/// Handle to one instance's spool. Cheap to clone.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
}

/// What the handle, the writer and the drainer have in common.
pub struct Shared {
    front: Mutex<Front>,
    /// Told of everything that changes.
    changed: Notify,
    metrics: Metrics,
    /// The kernel takes it back when this process ends.
    _lock: InstanceLock,
}

#[derive(Default)]
struct Front {
    /// Events in the spool or on their way into it; 0 = publish straight away.
    waiting: u64,
    unwritten_bytes: usize,
    /// Under way to the broker, in order.
    sending: BTreeMap<u64, Sending>,
    next: u64,
    counts: Counts,
}

struct Sending {
    body: Vec<u8>,
    sent: bool,
    answer: oneshot::Sender<Result<(), Fault>>,
}

/// An event's place: under way to the broker, or in the spool. Dropped, it is not waited for.
pub struct Ticket {
    /// Its number while it is under way to the broker.
    place: Option<(Arc<Shared>, u64)>,
    answer: oneshot::Receiver<Result<(), Fault>>,
}

impl Spool {
    /// Opens the spool in `dir`; what a predecessor left there is sent first. Refuses a folder that another process has.
    pub fn open(dir: &Path, options: &SpoolOptions, metrics: Metrics) -> Result<Self, Fault> {
        let bad = |why: String| Fault::new(Code::BadConfig, format!("cannot use the spool: {why}"));
        log::create(dir).map_err(|error| bad(error.to_string()))?;
        let lock = InstanceLock::acquire(dir).map_err(|error| bad(error.to_string()))?;
        let log = Log::open(dir, options.bytes_max).map_err(|error| bad(format!("`{}`: {error}", dir.display())))?;
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        let front = Front { waiting: log.waiting(), ..Front::default() };
        let shared = Shared { front: Mutex::new(front), changed: Notify::new(), metrics, _lock: lock };
        let spool = Self { shared: Arc::new(shared), orders };
        if log.waiting() > 0 {
            tracing::info!(events = log.waiting(), "events left in the spool are sent first");
        }
        let writer = Writer::new(log, *options, spool.shared.clone());
        let thread = std::thread::Builder::new().name("spool".to_owned());
        thread.spawn(move || writer.run(&inbox)).map_err(|error| bad(error.to_string()))?;
        Ok(spool)
    }

    /// Takes an event in: behind what waits, or, when nothing does, as under way to the broker.
    pub fn enter(&self, id: &str, message: &Message) -> Result<Ticket, Fault> {
        let body = record::encode(id, message);
        let (tx, answer) = oneshot::channel();
        let mut front = self.shared.front();
        let place = if front.waiting > 0 {
            self.keep(&mut front, vec![Entry { body, answer: tx }])?;
            None
        } else {
            let number = front.next;
            front.next += 1;
            front.sending.insert(number, Sending { body, sent: false, answer: tx });
            Some((self.shared.clone(), number))
        };
        Ok(Ticket { place, answer })
    }

    /// The broker is away: what is under way moves into the spool, in order.
    pub fn broker_away(&self) {
        let mut front = self.shared.front();
        let moved: Vec<Entry> = std::mem::take(&mut front.sending).into_values().map(Sending::into_entry).collect();
        if moved.is_empty() {
            return;
        }
        tracing::warn!(events = moved.len(), "the broker is away: events go to the spool");
        if let Err(fault) = self.keep(&mut front, moved) {
            tracing::warn!(%fault, "the spool does not take what is under way");
        }
    }

    /// Hands entries to the writer; those that it does not take are answered by the end of their channel.
    fn keep(&self, front: &mut Front, entries: Vec<Entry>) -> Result<(), Fault> {
        let bytes: usize = entries.iter().map(|entry| entry.body.len()).sum();
        if front.unwritten_bytes > 0 && front.unwritten_bytes + bytes > UNWRITTEN_BYTES_MAX {
            return Err(slow());
        }
        let count = entries.len() as u64;
        match self.orders.try_send(Order::Keep(entries)) {
            Ok(()) => {
                front.unwritten_bytes += bytes;
                front.waiting += count;
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(slow()),
            Err(TrySendError::Disconnected(_)) => Err(Fault::new(Code::SpoolFull, "the spool is closed")),
        }
    }

    /// Waits until nothing is in the spool, `within` at most.
    pub async fn empty(&self, within: Duration) -> bool {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.shared.front().waiting == 0 {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, wait).await.is_ok()
    }

    /// What is in it.
    pub fn counts(&self) -> Counts {
        let front = self.shared.front();
        Counts { events: front.waiting, ..front.counts }
    }
}

impl Shared {
    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer took this many bytes off what waits for the disk.
    fn written(&self, bytes: usize) {
        let mut front = self.front();
        front.unwritten_bytes = front.unwritten_bytes.saturating_sub(bytes);
    }

    /// So many events are not in the spool any more, or never came to be.
    fn gone(&self, events: u64) {
        let mut front = self.front();
        front.waiting = front.waiting.saturating_sub(events);
    }

    fn count(&self, log: &Log) {
        let counts = Counts { events: log.waiting(), bytes: log.bytes(), refused: log.refused() };
        self.metrics.spool_events.set(counts.events.cast_signed());
        self.metrics.spool_bytes.set(counts.bytes.cast_signed());
        self.metrics.spool_refused.set(counts.refused.cast_signed());
        self.front().counts = counts;
        self.changed.notify_waiters();
    }
}

impl Sending {
    fn into_entry(mut self) -> Entry {
        if self.sent {
            record::mark_sent(&mut self.body);
        }
        Entry { body: self.body, answer: self.answer }
    }
}

impl Ticket {
    /// Of an event that lasts in the spool already.
    pub fn ready() -> Self {
        let (tx, answer) = oneshot::channel();
        let _ = tx.send(Ok(()));
        Self { place: None, answer }
    }

    /// Whether it was behind others from the start: then it must not be sent past them.
    pub fn is_behind(&self) -> bool {
        self.place.is_none()
    }

    /// It was handed to the connection: from now on nobody knows whether the broker has it, until it answers.
    pub fn sent(&self) {
        if let Some((shared, number)) = &self.place
            && let Some(sending) = shared.front().sending.get_mut(number)
        {
            sending.sent = true;
        }
    }

    /// The broker answered. False when the event has moved into the spool meanwhile.
    pub fn answered(&self) -> bool {
        self.place.as_ref().is_some_and(|(shared, number)| shared.front().sending.remove(number).is_some())
    }

    /// Waits until it lasts in the spool, or is known not to. Cancel-safe.
    pub async fn kept(&mut self) -> Result<(), Fault> {
        (&mut self.answer).await.unwrap_or_else(|_| Err(slow()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answered();
    }
}

/// Whether a failure to publish means that the broker is away, so that the event can wait.
pub fn is_away(fault: &Fault) -> bool {
    matches!(fault.code, Code::BrokerDown | Code::OutcomeUnknown)
}

fn slow() -> Fault {
    Fault::new(Code::RateLimited, "the spool's disk is slower than the events that come; this one is not kept")
        .with_retry_after(Duration::from_secs(1))
}
