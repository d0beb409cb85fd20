//! The way into other namespaces. Each has accounts of its own, in which nothing of this one is, so what crosses goes through a
//! connection there that the control plane makes with its own keys, for as long as it is needed.

use std::sync::Arc;
use std::time::Instant;

use agentbus_nats::accounts;
use agentbus_nats::bus::Bus;
use agentbus_nats::identity::Authority;
use agentbus_proto::{Code, Fault};

use crate::{base, grants};

/// Where other namespaces are.
pub enum Elsewhere {
    /// On this broker, each in accounts of its own.
    Broker {
        /// Its addresses.
        servers: Vec<String>,
        /// The keys of this namespace, from which those of others follow.
        authority: Arc<Authority>,
    },
    /// On this bus, which is in this process.
    Here(Arc<dyn Bus>),
}

impl Elsewhere {
    /// A bus with full rights in `namespace`; none when the broker does not know it and it is not to be made.
    pub async fn reach(&self, namespace: &str, create: bool) -> Result<Option<Arc<dyn Bus>>, Fault> {
        let (servers, authority) = match self {
            Self::Here(bus) => return Ok(Some(Arc::clone(bus))),
            Self::Broker { servers, authority } => (servers, authority),
        };
        let bad = |error| Fault::new(Code::BadConfig, format!("no keys for namespace `{namespace}`: {error}"));
        let authority = authority.of_namespace(namespace).map_err(bad)?;
        // Asked first: what is there may be laid out in another way.
        let known = accounts::known(servers, &authority, grants::now()).await;
        if let Ok(false) = known {
            if !create {
                return Ok(None);
            }
            accounts::install(servers, &authority, grants::now()).await?;
        }
        match (base::connect(servers, &authority, Instant::now()).await, known) {
            // A broker that tells us nothing may know it from its operator; this one does not.
            (Err(refused), Err(silent)) if refused.code == Code::Unauthenticated => Err(silent),
            (reached, _) => reached.map(Some),
        }
    }
}
