//! The owner of everything inbound: the table, the group loops, the clock tick, and the way to the broker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use agentbus_nats::ack::{Answer, Receipt};
use agentbus_nats::bus::Bus;
use agentbus_nats::grant::{AgentLife, Grant, GroupGrant};
use agentbus_nats::held::{self, Wanted};
use agentbus_nats::moves;
use agentbus_nats::names::Names;
use agentbus_nats::publisher::Publisher;
use agentbus_nats::pull::Incoming;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::trace::Tracer;
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit::{self, Admission, Fresh, admit};
use super::group;
use super::receipt::Receipts;
use super::table::bounds::Bounds;
use super::table::{Command, Extend, Gone, Held, Outgoing, Table};
use crate::memory::{Key, Source};
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::seal::Seal;
use crate::standby;

/// Moves and answers under way at once.
const COMMANDS_MAX: usize = 256;
/// Group loops hand over what is on its way within a round trip to the broker; without one they are not waited for.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// Answers kept while there is no connection: as many as a busy agent can have out.
const UNSENT_MAX: usize = 20_000;
/// Such an answer of a group that keeps an order is dropped after this long: a lease that is still good is good for so long.
const ORDERED_UNSENT: Duration = Duration::from_secs(1);
/// An ack confirmed later than this may be another member's delivery: well below the broker's ack wait of 10 s, with the
/// wait for the confirmation.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// The same where the ack wait is shorter: this much below it.
const CONFIRM_MARGIN: Duration = Duration::from_secs(3);

/// How the inbound side behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Settled deliveries remembered; about 100 bytes each.
    pub memory_entries_max: usize,
    /// How often leases are looked at.
    pub tick: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // Twice the bound on unsettled deliveries of one group: with few groups, whatever can come again is still known.
        Self { memory_entries_max: 40_000, tick: Duration::from_millis(250) }
    }
}

/// What the hub works with.
pub struct Parts {
    /// Connection to the bus.
    pub bus: Arc<dyn Bus>,
    /// Publishing with PubAck.
    pub publisher: Publisher,
    /// Publishing for the agent: emitted events take the same way.
    pub outbound: Outbound,
    /// Delivery ids.
    pub seal: Seal,
    /// Spans.
    pub tracer: Tracer,
    /// Counters.
    pub metrics: Metrics,
}

/// Handle to the inbound side. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    names: Names,
    agent: String,
    options: Options,
    table: Mutex<Table>,
    groups: Mutex<HashMap<Arc<str>, Running>>,
    /// What seals the successors' ids, by group.
    secrets: RwLock<BTreeMap<String, String>>,
    /// Answers given while there was no connection.
    unsent: Mutex<Vec<Unsent>>,
    receipts: Receipts,
    /// The group loops, and what ends them: first of all in a drain.
    loops: TaskTracker,
    intake: CancellationToken,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Unsent {
    subject: async_nats::Subject,
    answer: Answer,
    since: Instant,
}

struct Running {
    grant: Arc<GroupGrant>,
    poke: Arc<Notify>,
    stop: CancellationToken,
}

impl Hub {
    /// Starts the loops of a grant's groups.
    pub fn start(parts: Parts, grant: &Grant, options: Options) -> Self {
        let inner = Inner {
            parts,
            names: Names::new(&grant.namespace),
            agent: grant.agent.clone(),
            options,
            table: Mutex::new(Table::new(options.memory_entries_max, Bounds::new(grant))),
            groups: Mutex::default(),
            secrets: RwLock::default(),
            unsent: Mutex::default(),
            receipts: Receipts::default(),
            loops: TaskTracker::new(),
            intake: CancellationToken::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let hub = Self { inner: Arc::new(inner) };
        hub.renew(grant);
        hub.inner.tasks.spawn(hub.clone().keep_leases());
        hub
    }

    /// Takes a renewed grant: starts new groups, restarts changed ones.
    pub fn renew(&self, grant: &Grant) {
        *self.inner.secrets.write().unwrap_or_else(PoisonError::into_inner) = grant.group_secrets.clone();
        let mut groups = self.groups();
        let others = standby::inboxes(grant).into_iter().filter(|name| !groups.contains_key(name.as_str()));
        self.table().closed.extend(others);
        groups.retain(|name, running| {
            let stays = grant.groups.iter().any(|group| *group.name == **name);
            if !stays {
                running.stop.cancel();
                self.table().forget(name);
            }
            stays
        });
        for group in &grant.groups {
            let name: Arc<str> = group.name.as_str().into();
            if groups.get(&name).is_some_and(|running| *running.grant == *group) {
                continue;
            }
            if let Some(changed) = groups.remove(&name) {
                changed.stop.cancel();
            }
            let grant = Arc::new(group.clone());
            let (poke, stop) = (Arc::new(Notify::new()), self.inner.intake.child_token());
            self.inner.loops.spawn(group::keep(self.clone(), grant.clone(), poke.clone(), stop.clone()));
            groups.insert(name, Running { grant, poke, stop });
        }
    }

    /// Asks nothing for these groups from now on, and for all others again.
    pub fn close(&self, groups: &BTreeSet<String>) {
        self.table().closed.clone_from(groups);
        self.after_all();
    }

    /// Names of the declared groups: what an agent gets that names none.
    pub fn declared(&self) -> Vec<String> {
        let groups = self.groups();
        let mut names: Vec<String> = groups
            .values()
            .filter(|running| running.grant.declared)
            .map(|running| running.grant.name.clone())
            .collect();
        names.sort();
        names
    }

    /// Names of all groups.
    pub fn group_names(&self) -> Vec<String> {
        self.groups().keys().map(ToString::to_string).collect()
    }

    /// The grant of a group, if the agent is in it.
    pub fn group(&self, name: &str) -> Option<Arc<GroupGrant>> {
        self.groups().get(name).map(|running| running.grant.clone())
    }

    pub(super) fn group_name(&self, name: &str) -> Option<Arc<str>> {
        self.groups().get_key_value(name).map(|(name, _)| name.clone())
    }

    /// Adds a subscriber of these groups. `tx` must have room for the largest credit.
    pub fn attach(&self, groups: &[String], credit: usize, tx: mpsc::Sender<Outgoing>) -> Result<u64, Fault> {
        let names: Option<Vec<Arc<str>>> = groups.iter().map(|name| self.group_name(name)).collect();
        let names = names.ok_or_else(|| Fault::new(Code::InvalidAddress, "not a member of one of these groups"))?;
        let mut table = self.table();
        if table.draining {
            return Err(draining());
        }
        let id = table.attach(names, credit, tx);
        drop(table);
        groups.iter().for_each(|name| self.after(name));
        Ok(id)
    }

    /// Sets a subscriber's credit.
    pub fn credit(&self, id: u64, credit: usize) {
        self.table().credit(id, credit);
        self.after_all();
    }

    /// Lets a subscriber go; what it held is handed on in the background.
    pub fn detach(&self, id: u64, how: Gone) {
        let commands = self.table().detach(id, how);
        self.spawn(commands);
        self.after_all();
    }

    /// Puts deliveries back that were on an answer which never left.
    pub fn unhand(&self, ids: &[String]) {
        self.table().unhand(ids);
        self.after_all();
    }

    /// Takes note of what became of the agent process.
    pub fn agent_is(&self, life: AgentLife) {
        match life {
            AgentLife::Started => self.agent_stopping(false),
            AgentLife::Stopping => self.agent_stopping(true),
            AgentLife::Stopped => self.agent_stopped(),
            AgentLife::Exited => self.agent_exited(),
            AgentLife::Killed => self.agent_killed(),
        }
    }

    /// The agent process is gone: its deliveries go back at once.
    pub fn agent_exited(&self) {
        let commands = self.table().agent_exited();
        tracing::info!(deliveries = commands.len(), "agent gone, deliveries given back");
        self.spawn(commands);
        // Its connections may outlive it for a while, those of its helpers for long: their credit is free again.
        self.after_all();
    }

    /// Whether the agent is being stopped on purpose: then a connection that breaks is a goodbye.
    pub fn agent_stopping(&self, stopping: bool) {
        self.table().agent_stopping = stopping;
    }

    /// The agent process was stopped on purpose: its deliveries go back at once, and nobody is to blame.
    pub fn agent_stopped(&self) {
        let commands = self.table().give_all_back();
        tracing::info!(deliveries = commands.len(), "agent stopped, deliveries given back");
        self.spawn(commands);
        self.after_all();
    }

    /// What is held or remembered of an event, for whoever asks where it is. `now` is the same moment twice.
    pub fn look(&self, wanted: &Wanted, now: (Instant, SystemTime)) -> Option<held::Held> {
        self.table().look(wanted, &self.inner.names.events(), now)
    }

    pub(super) fn receipts(&self) -> &Receipts {
        &self.inner.receipts
    }

    /// For what may go on beside everything; a drain waits for its end, so it must be bounded.
    pub(super) fn spawn_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Deliveries held.
    pub fn held(&self) -> usize {
        self.table().len()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.table().draining
    }

    /// Stops taking work, waits for the agent to finish what it has, gives the rest back. Bounded by `grace` plus the
    /// time to store what is given back.
    pub async fn drain(&self, grace: Duration) {
        self.table().start_draining();
        let end = Instant::now() + grace;
        self.inner.intake.cancel();
        self.inner.loops.close();
        let _ = tokio::time::timeout(HAND_OVER_MAX, self.inner.loops.wait()).await;
        let waiting = self.table().give_waiting_back();
        self.run(waiting).await;
        while Instant::now() < end && self.held() > 0 && self.table().has_work_out() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let commands = self.table().give_all_back();
        if !commands.is_empty() {
            tracing::info!(deliveries = commands.len(), "drain: giving back");
        }
        self.run(commands).await;
        self.inner.stop.cancel();
        self.inner.tasks.close();
        // Moves under way are bounded by the publisher's own waits.
        self.inner.tasks.wait().await;
        self.bus().flush(Duration::from_secs(2)).await;
    }

    /// Messages from the broker, in their order.
    pub(super) async fn incoming(&self, group: &Arc<GroupGrant>, source: Source, batch: Vec<Incoming>) {
        let Some(name) = self.group_name(&group.name) else { return };
        let mut answers = Vec::new();
        let mut at_most_once = Vec::new();
        {
            let (mut table, now) = (self.table(), SystemTime::now());
            for incoming in batch {
                let receipt = &incoming.receipt;
                let key = Key { group: name.clone(), source, seq: receipt.seq, stored_at: receipt.stored_at };
                if table.renew(&key, receipt, Instant::now()) {
                    continue;
                }
                match admit(&incoming, group, &key, &table.memory, now) {
                    Admission::Deliver(fresh) if fresh.at_most_once => at_most_once.push((incoming, fresh, key)),
                    Admission::Deliver(fresh) => {
                        let id = self.seal().seal(&incoming.receipt);
                        table.insert(id, incoming, fresh, key, group.clone(), Instant::now());
                    }
                    Admission::Wait(left) => answers.push((incoming.receipt.subject, Answer::Nak(Some(left)))),
                    Admission::Done(outcome) => {
                        if outcome == "forged" {
                            tracing::warn!(subject = %incoming.subject, seq = key.seq, "dropped: source is not the sender");
                        }
                        if outcome == "expired" {
                            self.note(&key.group, &incoming, moves::attempt(&incoming), None, outcome, "");
                        }
                        self.metrics().delivery(&key.group, outcome);
                        answers.push((incoming.receipt.subject, Answer::Ack));
                    }
                    Admission::Dead(class, cause) => {
                        let hub = self.clone();
                        self.inner
                            .tasks
                            .spawn(async move { hub.park_unheard(&key.group, &incoming, class, &cause).await });
                    }
                }
            }
        }
        for (subject, answer) in answers {
            self.answer(&subject, answer).await;
        }
        self.after(&name);
        if !at_most_once.is_empty() {
            self.inner.tasks.spawn(self.clone().take_at_most_once(
                group.clone(),
                at_most_once,
                self.bus().generation(),
            ));
        }
    }

    /// The agent sees these only after the broker has said that it forgot them. Without its word they come again, or
    /// never: both is at most once. What is old may be somebody else's by now, and the broker confirms that ack too.
    async fn take_at_most_once(self, group: Arc<GroupGrant>, batch: Vec<(Incoming, Box<Fresh>, Key)>, generation: u64) {
        let received = Instant::now();
        let within = CONFIRM_WITHIN.min(group.ack_wait().saturating_sub(CONFIRM_MARGIN));
        for (incoming, fresh, key) in batch {
            if received.elapsed() >= within || self.bus().generation() != generation {
                return;
            }
            if !self.bus().confirmed(&incoming.receipt.subject).await {
                continue;
            }
            let id = self.seal().seal(&incoming.receipt);
            self.table().insert(id, incoming, fresh, key, group.clone(), Instant::now());
            self.after(&group.name);
        }
    }

    /// After anything that changed credit or the queue of a group: hands out, then lets the group pull.
    pub(super) fn after(&self, group: &str) {
        let now = (Instant::now(), SystemTime::now());
        let late = self.table().dispatch(group, now, |id, held, deadline| self.hand(id, held, deadline));
        if !late.is_empty() {
            self.inner.tasks.spawn(self.clone().expire(late, now.1));
        }
        if let Some(running) = self.groups().get(group) {
            running.poke.notify_one();
        }
    }

    /// What expired while it waited for its agent is what it would have been on its way in.
    async fn expire(self, late: Vec<Held>, now: SystemTime) {
        for held in late {
            let (group, incoming) = (&held.key.group, &held.incoming);
            match admit::expired(&held.fresh.head, now) {
                Some(Admission::Dead(class, cause)) => self.park_unheard(group, incoming, class, &cause).await,
                _ => {
                    self.note(group, incoming, held.fresh.attempt, None, "expired", "");
                    self.metrics().delivery(group, "expired");
                    self.answer(&incoming.receipt.subject, Answer::Ack).await;
                }
            }
        }
    }

    /// After anything that freed credit: it is credit for all groups of its subscriber.
    pub(super) fn after_all(&self) {
        self.group_names().iter().for_each(|name| self.after(name));
    }

    async fn keep_leases(self) {
        let mut tick = tokio::time::interval(self.inner.options.tick);
        let (mut generation, mut run) = (self.bus().generation(), self.bus().run_id());
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            // While the connection is away nothing can be extended; when it is back everything is, at once.
            let now = self.bus().generation();
            let extend = match now {
                0 => Extend::Nothing,
                now if now != generation => Extend::Everything,
                _ => Extend::Due,
            };
            if extend == Extend::Everything {
                let unsent = std::mem::take(&mut *self.inner.unsent.lock().unwrap_or_else(PoisonError::into_inner));
                let sent = unsent.into_iter().filter(|unsent| !self.is_stale(unsent));
                self.spawn(sent.map(|unsent| Command::Answer(unsent.subject, unsent.answer)).collect());
            }
            generation = if now == 0 { generation } else { now };
            if extend == Extend::Everything {
                let now = self.bus().run_id();
                if std::mem::replace(&mut run, now.clone()) != now {
                    self.table().take_ordered();
                    self.after_all();
                }
            }
            let commands = self.table().tick(Instant::now(), extend);
            self.try_again();
            self.metrics().in_flight.set(self.held() as i64);
            self.metrics().broker_connected.set(i64::from(self.bus().is_up()));
            self.metrics().held_bytes.set(self.table().bytes() as i64);
            self.spawn(commands);
        }
    }

    pub(super) fn spawn(&self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let hub = self.clone();
            self.inner.tasks.spawn(async move { hub.run(commands).await });
        }
    }

    /// Carries commands out: begun in their order, many at once, so that one that waits does not hold up the rest.
    async fn run(&self, commands: Vec<Command>) {
        let commands = futures_util::stream::iter(commands);
        commands.for_each_concurrent(COMMANDS_MAX, |command| self.run_one(command)).await;
    }

    async fn run_one(&self, command: Command) {
        match command {
            Command::Answer(subject, answer) => self.answer(&subject, answer).await,
            Command::Renew(id, subject) => {
                let sent = Instant::now();
                if self.bus().renewed(&subject).await {
                    self.table().renewed(&id, sent);
                }
            }
            Command::GiveBack(held) => self.give_back(&held).await,
            Command::Crash(held) => self.crashed(&held).await,
            Command::Fail(held, cause) => {
                self.metrics().delivery(&held.key.group, "lost");
                self.handling_failed(&held);
                self.failed_alone(&held, &cause, None).await;
                self.after_all();
            }
        }
    }

    pub(super) async fn answer(&self, subject: &async_nats::Subject, answer: Answer) {
        if self.bus().is_up() {
            return self.bus().answer(subject, answer).await;
        }
        // Waiting for a connection would block all: it is sent when there is one again. What does not fit is answered when
        // the message comes again.
        let mut unsent = self.inner.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        if answer != Answer::Progress && unsent.len() < UNSENT_MAX {
            unsent.push(Unsent { subject: subject.clone(), answer, since: Instant::now() });
        }
    }

    /// Where order is kept, an answer that waited may be about what is somebody else's by now. Without it the event comes
    /// again, here to be acked from memory.
    fn is_stale(&self, unsent: &Unsent) -> bool {
        let receipt = Receipt::parse(unsent.subject.clone());
        let group = receipt.and_then(|receipt| self.group(Names::group_of(&receipt.consumer)));
        unsent.since.elapsed() >= ORDERED_UNSENT && group.is_some_and(|group| group.keeps_order())
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Arc<str>, Running>> {
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What seals the ids of a group's successors.
    pub(super) fn secret(&self, group: &str) -> String {
        let secrets = self.inner.secrets.read().unwrap_or_else(PoisonError::into_inner);
        secrets.get(group).cloned().unwrap_or_default()
    }

    pub(super) fn names(&self) -> &Names {
        &self.inner.names
    }

    pub(super) fn namespace(&self) -> &str {
        self.inner.names.namespace()
    }

    pub(super) fn agent(&self) -> &str {
        &self.inner.agent
    }

    /// The connection.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.inner.parts.bus
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.inner.parts.publisher
    }

    pub(super) fn outbound(&self) -> &Outbound {
        &self.inner.parts.outbound
    }

    pub(super) fn seal(&self) -> &Seal {
        &self.inner.parts.seal
    }

    pub(super) fn tracer(&self) -> &Tracer {
        &self.inner.parts.tracer
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.inner.parts.metrics
    }
}

/// The fault for new work during a drain.
pub fn draining() -> Fault {
    let why = "the sidecar is about to stop: connect again in a moment";
    Fault::new(Code::Draining, why).with_retry_after(Duration::from_secs(1))
}
