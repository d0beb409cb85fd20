//! Sends what waits in the spool, in order, as soon as the broker is there; and notices when it goes away.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::bus::Bus;
use agentbus_nats::connect::State;
use agentbus_nats::publisher::Publisher;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::backoff::Backoff;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Spool;
use super::record::Record;
use super::writer::Order;

/// A connection that is gone for this long is an outage: shorter ones are none to the agent.
const AWAY_AFTER: Duration = Duration::from_secs(2);
/// How long the last round may take after the stop: the broker answers within milliseconds.
const FINISH_WAIT: Duration = Duration::from_secs(2);
/// Between two looks when nothing tells that there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two tries when the broker does not take what is first in line: a full stream, a stream without leader.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(5), factor: 2.0, jitter: 0.2 };

/// Moves what is under way into the spool when the connection stays away.
pub async fn watch(spool: Spool, bus: Arc<dyn Bus>, stop: CancellationToken) {
    let mut state = bus.state();
    let work = async {
        while state.wait_for(|state| matches!(state, State::Down(_))).await.is_ok() {
            if bus.up(AWAY_AFTER).await.is_err() {
                spool.broker_away();
                if state.wait_for(|state| matches!(state, State::Up(_))).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Runs until stopped; a round that is under way then may finish, so that what it has sent is noted and not sent again.
pub async fn run(spool: Spool, bus: Arc<dyn Bus>, stop: CancellationToken) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let changed = spool.shared.changed.notified();
        if spool.counts().events == 0 || !bus.is_up() {
            let _ = tokio::time::timeout(LOOK_EVERY, stop.run_until_cancelled(changed)).await;
            continue;
        }
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(FINISH_WAIT).await;
        };
        let outcome = tokio::select! {
            outcome = round(&spool, bus.publisher(), &stop) => outcome,
            () = late => return tracing::warn!("stopped while the spool was being sent: some of it may be sent again"),
        };
        match outcome {
            Ok(()) => failures = 0,
            Err(fault) => {
                failures += 1;
                tracing::warn!(%fault, events = spool.counts().events, "the spool waits");
                let wait = tokio::time::sleep(BACKOFF.delay(failures, rand::random()));
                stop.run_until_cancelled(wait).await;
            }
        }
    }
}

/// Sends the first records. The error says why the first of those that are left must wait.
async fn round(spool: &Spool, publisher: &Publisher, stop: &CancellationToken) -> Result<(), Fault> {
    let records = read(spool).await?;
    if records.is_empty() {
        // What is counted is still on its way to the disk.
        tokio::time::sleep(Duration::from_millis(20)).await;
        return Ok(());
    }
    let messages = records.iter().map(|(_, record)| record.message.clone()).collect();
    // Together or not at all: nothing may overtake what the broker has no room for.
    let (stored, refused, stuck) = match publisher.store_all(messages).await {
        Ok(_) => (records.iter().map(|(index, _)| *index).collect(), Vec::new(), None),
        Err(fault) if super::is_away(&fault) => (Vec::new(), Vec::new(), Some(fault)),
        Err(_) => one_by_one(publisher, records, stop).await,
    };
    note(spool, stored, refused).await;
    stuck.map_or(Ok(()), Err)
}

/// What is stored, what is refused for good, and why the first of the others must wait. Ends early when stopped.
async fn one_by_one(
    publisher: &Publisher,
    records: Vec<(u64, Record)>,
    stop: &CancellationToken,
) -> (Vec<u64>, Vec<(u64, Record, Fault)>, Option<Fault>) {
    let (mut stored, mut refused) = (Vec::new(), Vec::new());
    for (index, record) in records {
        if stop.is_cancelled() {
            break;
        }
        match publisher.store(record.message.clone()).await {
            Ok(_) => stored.push(index),
            Err(fault) if fault.code.retryable() => return (stored, refused, Some(fault)),
            Err(fault) => refused.push((index, record, fault)),
        }
    }
    (stored, refused, None)
}

async fn read(spool: &Spool) -> Result<Vec<(u64, Record)>, Fault> {
    let (answer, records) = oneshot::channel();
    if !order(spool, Order::Read(answer)).await {
        return Ok(Vec::new());
    }
    let unreadable = |error| Fault::new(Code::SpoolFull, format!("the spool cannot be read: {error}"));
    records.await.unwrap_or_else(|_| Ok(Vec::new())).map_err(unreadable)
}

async fn note(spool: &Spool, stored: Vec<u64>, refused: Vec<(u64, Record, Fault)>) {
    let (answer, noted) = oneshot::channel();
    if order(spool, Order::Done { stored, refused, answer }).await {
        let _ = noted.await;
    }
}

/// Hands an order over; waits while the writer is busy. False when it is gone.
async fn order(spool: &Spool, mut order: Order) -> bool {
    use std::sync::mpsc::TrySendError;
    loop {
        match spool.orders.try_send(order) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(back)) => order = back,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
