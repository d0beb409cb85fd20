//! Storing a message from a task that may move between threads.
//!
//! `Publisher::store` holds a watch guard across an await, so its future is not `Send`; it runs on a blocking thread
//! here. These are rare moves made for people, so a thread hop does not matter.

use agentbus_nats::publisher::{Message, Publisher, Stored};
use agentbus_proto::{Code, Fault};
use tokio::runtime::Handle;

/// Stores with certainty, see [`Publisher::store`]. Goes on when the caller goes away.
pub(crate) async fn store(publisher: &Publisher, message: Message) -> Result<Stored, Fault> {
    let (publisher, runtime) = (publisher.clone(), Handle::current());
    let stored = tokio::task::spawn_blocking(move || runtime.block_on(publisher.store(message)));
    stored.await.unwrap_or_else(|error| Err(Fault::new(Code::OutcomeUnknown, format!("storing ended early: {error}"))))
}
