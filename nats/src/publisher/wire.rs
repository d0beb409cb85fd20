//! The connection that published messages go over. It is made once: what a broken one did not write is gone with it, so that
//! the next one begins with what has no answer yet, in its order.

use agentbus_proto::Fault;
use async_nats::{Client, Subscriber};
use tokio_util::sync::CancellationToken;

use crate::connect::Link;

/// How long the main connection may be away before the next look.
const LINK_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// One connection.
pub struct Wire {
    /// What writes to it.
    pub client: Client,
    /// The main connection's number when this one was made: a new token is in use there first.
    pub generation: u64,
    broken: CancellationToken,
}

impl Wire {
    /// Connects, and listens for answers below `inbox`.
    pub async fn open(link: &Link, inbox: &str) -> Result<(Self, Subscriber), Fault> {
        let generation = link.up(LINK_WAIT).await?;
        let (client, broken) = link.once("publishing").await?;
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|_| link.down())?;
        Ok((Self { client, generation, broken }, answers))
    }

    /// Waits until it is broken.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }
}
