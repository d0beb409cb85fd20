//! Asks: events that want replies, and who waits for them.
//!
//! The way of an ask: checked → somebody serves the address? (`served`; without a control plane we go on) → stored
//! like any event, with `reply_by` → replies. A reply is stored too, but no consumer holds it: this sidecar hears it through
//! a core subscription of its own, so it never queues behind what its agent has not read yet. What is stored while the
//! connection is away is looked for afterwards (`missed`). Who hears what is decided in `table`, and how much of it may wait
//! in `room`; the asker's end is `pending`.

mod missed;
mod pending;
mod room;
mod served;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::{Note, Shared, Subscription};
use agentbus_nats::{headers, subject};
use agentbus_proto::{Address, Code, EventHead, Fault, Stamp, stamp};
use agentbus_runtime::trace::{Context, Kind, Span, Tracer, semconv};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use pending::Pending;
use served::Served;
pub use table::Reply;
use table::{Answerers, Table, Taken};

use crate::control::Control;
use crate::outbound::{Outbound, Parent, fail};

/// How long a final reply is waited for when the asker does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait for a final reply.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Replies of one ask that its asker has not read yet.
const UNREAD_MAX: usize = 1024;
/// Bytes of them; a larger one is handed on when nothing else is unread. Half of what all asks may hold.
const UNREAD_BYTES_MAX: usize = room::BYTES_MAX / 2;

/// The asks of one sidecar. Cheap to clone.
#[derive(Clone)]
pub struct Asks {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Shared,
    outbound: Outbound,
    control: Control,
    tracer: Tracer,
    table: Mutex<Table<Ear>>,
    served: Served,
    /// There is reason to look for missed replies.
    look: Notify,
    stop: CancellationToken,
}

impl Asks {
    /// Listens for replies, then serves until `stop`.
    pub async fn start(
        bus: Shared,
        outbound: Outbound,
        control: Control,
        tracer: Tracer,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, Fault> {
        let grant = control.grant();
        let replies = bus.subscribe(&subject::replies(&grant.namespace, &grant.agent), None).await?;
        let inner = Inner {
            bus,
            outbound,
            control,
            tracer,
            table: Mutex::new(Table::new()),
            served: Served::default(),
            look: Notify::new(),
            stop: stop.clone(),
        };
        let asks = Self { inner: Arc::new(inner) };
        tasks.spawn(asks.clone().listen(replies));
        tasks.spawn(missed::keep(asks.clone(), stop));
        Ok(asks)
    }

    /// Stores an ask and gives the place to wait for its replies. Everything that can be known at once is refused at
    /// once: a bad event, an address that nobody serves (`NO_RESPONDER`). The caller's `parent` is the ask's place in a
    /// trace.
    pub async fn ask(
        &self,
        event: Bytes,
        ttl: Option<Duration>,
        timeout: Option<Duration>,
        parent: &Parent,
    ) -> Result<Pending, Fault> {
        let timeout = within(timeout)?;
        let (now, deadline) = (SystemTime::now(), tokio::time::Instant::now() + timeout);
        let mut head = EventHead::decode(&event)?;
        let to = head.to.as_ref().ok_or_else(|| Fault::new(Code::InvalidAddress, "the event has no `to`"))?;
        let to = Address::try_from(to)?;
        let mut span = self.span(&to, parent);
        let event = stamped(&event, &mut head, ttl, now, timeout);
        span.attr(semconv::MESSAGING_MESSAGE_ID, head.id.clone());
        span.attr(semconv::MESSAGING_MESSAGE_CONVERSATION_ID, head.chain().to_owned());
        let parent = Parent { context: Some(span.context()), tracestate: parent.tracestate.clone() };
        let asked = self.store(event, &to, &head.id, ttl, deadline, now, &parent).await;
        let waiting = asked.inspect_err(|fault| fail(&mut span, fault))?;
        Ok(Pending::new(waiting, span, deadline, timeout))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one ask, once")]
    async fn store(
        &self,
        event: Bytes,
        to: &Address,
        id: &str,
        ttl: Option<Duration>,
        deadline: tokio::time::Instant,
        now: SystemTime,
        parent: &Parent,
    ) -> Result<Waiting, Fault> {
        let checked = self.inner.outbound.check(event, ttl, parent, None)?;
        self.inner.served.check(&self.inner.control, to).await?;
        let answerers = Answerers::of(to, &self.inner.control.grant().directory);
        let (tx, rx) = mpsc::channel(UNREAD_MAX);
        // Before it is sent: the reply may be here before the broker's word.
        let unread = Arc::new(AtomicUsize::new(0));
        let number = self.table().open(id, answerers, now, Ear { to: tx, unread: Arc::clone(&unread) })?;
        let waiting = Waiting { asks: self.clone(), id: id.to_owned(), number, rx, unread };
        let sent = async { self.inner.outbound.send_checked(checked).await?.stored().await };
        let late = |_| Fault::new(Code::OutcomeUnknown, "the broker has not confirmed the ask before its deadline");
        let (_, stored) = tokio::time::timeout_at(deadline, sent).await.map_err(late)??;
        if stored.duplicate {
            // Asked before, perhaps by a caller that went away: it may be answered already.
            self.inner.look.notify_one();
        }
        Ok(waiting)
    }

    async fn listen(self, mut replies: Subscription) {
        loop {
            let note = tokio::select! {
                () = self.inner.stop.cancelled() => return,
                note = replies.next() => note,
            };
            let Some(Note { subject, headers, payload, .. }) = note else { return };
            self.take(&subject, headers::get(Some(&headers), headers::TRACEPARENT), payload);
        }
    }

    /// A stored reply, from wherever: decides and hands it on.
    fn take(&self, subject: &str, traceparent: Option<&str>, event: Bytes) {
        let Some(reply) = read(subject, traceparent, event) else {
            tracing::warn!(subject, "dropped: no reply of its sender");
            return;
        };
        let (id, from) = (reply.info.request_id.clone(), reply.head.source.clone());
        // Handed on before the next one is looked at, whoever finds it: so they keep their order.
        let mut table = self.table();
        match table.take(reply) {
            Taken::Ready { to, number, replies } => {
                if !replies.into_iter().all(|reply| to.hand(reply)) {
                    // Its end notices by the channel's end.
                    table.close(&id, number);
                }
            }
            Taken::Overrun => {
                tracing::warn!(id, "an ask is given up: its replies are not read, or those of other asks")
            }
            Taken::Foreign => tracing::warn!(from, "dropped: a reply of somebody who was not asked"),
            Taken::Ahead | Taken::Passed | Taken::Unasked => {}
        }
    }

    fn table(&self) -> MutexGuard<'_, Table<Ear>> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> Vec<(String, SystemTime)> {
        self.table().waiting()
    }

    fn span(&self, to: &Address, parent: &Parent) -> Span {
        let mut span = self.inner.tracer.start(Kind::Client, format!("ask {to}"), parent.context.as_ref(), &[], None);
        span.attr(semconv::MESSAGING_SYSTEM, semconv::SYSTEM);
        span.attr(semconv::MESSAGING_OPERATION_NAME, "ask");
        span.attr(semconv::MESSAGING_OPERATION_TYPE, "send");
        span.attr(semconv::MESSAGING_DESTINATION_NAME, to.to_string());
        span.attr(semconv::AGENTBUS_AGENT, self.inner.control.grant().agent);
        span
    }
}

/// Where the replies to one ask go.
#[derive(Clone)]
struct Ear {
    to: mpsc::Sender<Reply>,
    /// Bytes that are there and not read yet.
    unread: Arc<AtomicUsize>,
}

impl Ear {
    /// Hands a reply on; false when too much is unread, or nobody reads any more.
    fn hand(&self, reply: Reply) -> bool {
        let bytes = reply.event.len();
        let before = self.unread.fetch_add(bytes, Ordering::Relaxed);
        (before == 0 || before + bytes <= UNREAD_BYTES_MAX) && self.to.try_send(reply).is_ok()
    }
}

/// An ask that is stored and waits; closed when dropped.
struct Waiting {
    asks: Asks,
    id: String,
    number: u64,
    rx: mpsc::Receiver<Reply>,
    unread: Arc<AtomicUsize>,
}

impl Waiting {
    /// Notes that a reply was read.
    fn read(&self, reply: Option<Reply>) -> Option<Reply> {
        if let Some(reply) = &reply {
            self.unread.fetch_sub(reply.event.len(), Ordering::Relaxed);
        }
        reply
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.asks.table().close(&self.id, self.number);
    }
}

fn within(timeout: Option<Duration>) -> Result<Duration, Fault> {
    let timeout = timeout.unwrap_or(TIMEOUT_DEFAULT);
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        return Err(Fault::new(Code::InvalidEvent, "`timeout` must be more than nothing and at most 1h"));
    }
    Ok(timeout)
}

/// The event as an ask: with an id, with `reply_by`, and unless the asker wants it done in any case, over when the ask
/// is.
fn stamped(event: &Bytes, head: &mut EventHead, ttl: Option<Duration>, now: SystemTime, timeout: Duration) -> Bytes {
    let mut add = Stamp { source: head.source.clone(), ..Stamp::default() };
    if head.id.is_empty() {
        head.id = agentbus_proto::id::new();
        add.id = Some(head.id.clone());
    }
    let reply_by = now.checked_add(timeout).map(Into::into);
    add.reply_by = reply_by;
    if head.expires.is_none() && ttl.is_none() {
        add.expires = reply_by;
    }
    stamp(event, &add)
}

/// A reply as it was stored; none when it is no reply, or not from whom it says.
fn read(subject: &str, traceparent: Option<&str>, event: Bytes) -> Option<Reply> {
    let head = EventHead::decode(&event).ok()?;
    let info = head.reply.clone()?;
    // The sender token is the one name the broker has checked.
    (subject::sender(subject) == Some(head.source.as_str())).then(|| {
        let context = traceparent.and_then(Context::parse);
        Reply { event, head, info, context, share: None }
    })
}

#[cfg(test)]
mod tests {
    use agentbus_proto::event::v1::{Event, ReplyInfo};
    use prost::Message;

    use super::*;

    #[test]
    fn a_reply_must_be_one_and_from_its_sender() {
        let reply = ReplyInfo { request_id: "q".into(), ..ReplyInfo::default() };
        let event = Event { source: "b".into(), reply: Some(reply), ..Event::default() };
        let subject = subject::reply("default", "b", "a", "q");
        assert!(read(&subject, None, event.encode_to_vec().into()).is_some());
        let other = subject::reply("default", "c", "a", "q");
        assert!(read(&other, None, event.encode_to_vec().into()).is_none());
        let plain = Event { reply: None, ..event };
        assert!(read(&subject, None, plain.encode_to_vec().into()).is_none());
        assert!(read(&subject, None, b"\xff".as_slice().into()).is_none());
    }

    #[test]
    fn an_ask_expires_with_its_deadline_unless_it_says_otherwise() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let stamp = |event: Event, ttl: Option<Duration>| {
            let bytes = Bytes::from(event.encode_to_vec());
            let mut head = EventHead::decode(&bytes).unwrap();
            let event = Event::decode(stamped(&bytes, &mut head, ttl, now, Duration::from_secs(5))).unwrap();
            assert_eq!(event.id, head.id);
            (event.reply_by.unwrap().seconds, event.expires.map(|at| at.seconds))
        };
        assert_eq!(stamp(Event::default(), None), (105, Some(105)));
        assert_eq!(stamp(Event::default(), Some(Duration::from_secs(60))), (105, None));
        let later = Some(prost_types::Timestamp { seconds: 1000, nanos: 0 });
        assert_eq!(stamp(Event { expires: later, id: "q".into(), ..Event::default() }, None), (105, Some(1000)));
    }

    #[test]
    fn what_is_unread_has_a_bound_in_bytes() {
        let (to, mut rx) = mpsc::channel(UNREAD_MAX);
        let ear = Ear { to, unread: Arc::default() };
        let reply = |bytes: usize| {
            let (head, info) = (EventHead::default(), ReplyInfo::default());
            Reply { event: vec![0; bytes].into(), head, info, context: None, share: None }
        };
        assert!(ear.hand(reply(UNREAD_BYTES_MAX + 1)), "a single one always");
        assert!(!ear.hand(reply(1)));
        assert!(rx.try_recv().is_ok() && rx.try_recv().is_err());
    }

    #[test]
    fn a_timeout_has_bounds() {
        assert_eq!(within(None), Ok(TIMEOUT_DEFAULT));
        assert_eq!(within(Some(Duration::ZERO)).unwrap_err().code, Code::InvalidEvent);
        assert_eq!(within(Some(TIMEOUT_MAX + Duration::from_secs(1))).unwrap_err().code, Code::InvalidEvent);
    }
}
