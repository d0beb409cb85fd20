//! Talking to the control plane: a fresh token at half life, and joining a group on request.
//!
//! Both change the grant. A token for a new group means a new connection, because permissions are fixed when a
//! connection is made: what was written is flushed, then resumed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::Bus;
use agentbus_nats::grant::{ControlReply, ControlRequest, Grant, GroupGrant, Policy};
use agentbus_nats::{pattern, subject};
use agentbus_proto::sidecar::v1::Subscription;
use agentbus_proto::{Code, Fault};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::inbound::Hub;
use crate::outbound::Outbound;

/// The control plane answers within milliseconds or is away.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How often the clock is looked at; also the time between two tries to renew.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Keeps and extends the grant. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    hub: Hub,
    outbound: Outbound,
    grant: watch::Sender<Grant>,
    /// One change at a time: each one replaces the connection.
    changing: Mutex<()>,
}

impl Control {
    /// For a sidecar that runs under `grant`.
    pub fn new(bus: Arc<dyn Bus>, hub: Hub, outbound: Outbound, grant: Grant) -> Self {
        let inner = Inner { bus, hub, outbound, grant: watch::Sender::new(grant), changing: Mutex::new(()) };
        Self { inner: Arc::new(inner) }
    }

    /// Renews the token at half of its life until stopped. Returns early, with true, when it has expired all the same:
    /// the broker lets nobody in with it, so only a new start with a new grant helps.
    pub async fn keep_fresh(self, stop: CancellationToken) -> bool {
        let mut grants = self.inner.grant.subscribe();
        let mut renew_at = half_life(grants.borrow_and_update().expires, SystemTime::now());
        loop {
            // By the wall clock, in short steps: a machine that slept through half a day must notice.
            tokio::select! {
                () = stop.cancelled() => return false,
                _ = grants.changed() => renew_at = half_life(grants.borrow_and_update().expires, SystemTime::now()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = SystemTime::now();
            if seconds(now) >= self.inner.grant.borrow().expires {
                return true;
            }
            if now >= renew_at
                && let Err(fault) = self.change("renew", None).await
            {
                tracing::warn!(%fault, "token not renewed; trying again");
            }
        }
    }

    /// The groups for these subscriptions, joined where necessary. None named = the declared ones.
    pub async fn join(&self, subscriptions: &[Subscription]) -> Result<Vec<String>, Fault> {
        if subscriptions.is_empty() {
            let declared = self.inner.hub.declared();
            if declared.is_empty() {
                let why = "no subscription is declared for this agent: name one, or add `subscribe` to agentbus.yaml";
                return Err(Fault::new(Code::InvalidAddress, why));
            }
            return Ok(declared);
        }
        let mut groups = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            groups.push(self.join_one(subscription).await?);
        }
        Ok(groups)
    }

    /// The groups for a long poll: the named one, or all this sidecar is in; an error when there is none.
    pub fn joined(&self, group: &str) -> Result<Vec<String>, Fault> {
        if !group.is_empty() {
            return match self.inner.hub.group(group) {
                Some(_) => Ok(vec![group.to_owned()]),
                None => Err(Fault::new(
                    Code::InvalidAddress,
                    format!("not in group `{group}`: POST /v1/subscriptions first"),
                )),
            };
        }
        let groups = self.inner.hub.group_names();
        if groups.is_empty() {
            let why = "no subscription yet: POST /v1/subscriptions first, or add `subscribe` to agentbus.yaml";
            return Err(Fault::new(Code::InvalidAddress, why));
        }
        Ok(groups)
    }

    async fn join_one(&self, subscription: &Subscription) -> Result<String, Fault> {
        let agent = self.inner.grant.borrow().agent.clone();
        let name = if subscription.group.is_empty() { agent } else { subscription.group.clone() };
        agentbus_proto::name::lower_name("group", &name)?;
        if subscription.patterns.is_empty() {
            return match self.inner.hub.group(&name) {
                Some(_) => Ok(name),
                None => Err(Fault::new(
                    Code::InvalidAddress,
                    format!("group `{name}` needs patterns, for example `notes.>`"),
                )),
            };
        }
        let patterns: Vec<String> =
            pattern::simplify(&subscription.patterns)?.iter().map(ToString::to_string).collect();
        let attributes: BTreeMap<String, String> = subscription.attributes.clone().into_iter().collect();
        agentbus_proto::validate::filters(&subscription.types, &attributes)?;
        let same = |group: &GroupGrant| {
            pattern::simplify(&group.patterns)
                .is_ok_and(|own| own.iter().map(ToString::to_string).eq(patterns.iter().cloned()))
                && group.types == subscription.types
                && group.attributes == attributes
                && group.ordered == subscription.ordered
                && group.by_key == subscription.by_key
                && group.split_lanes == subscription.split_lanes
        };
        if self.inner.hub.group(&name).is_some_and(|group| same(&group)) {
            return Ok(name);
        }
        let wanted = GroupGrant {
            name: name.clone(),
            patterns,
            types: subscription.types.clone(),
            attributes,
            ordered: subscription.ordered,
            by_key: subscription.by_key,
            split_lanes: subscription.split_lanes,
            declared: false,
            policy: Policy::default(),
            ..GroupGrant::default()
        };
        self.change("subscribe", Some(wanted)).await?;
        Ok(name)
    }

    /// Asks the control plane and takes the new grant into use.
    async fn change(&self, verb: &str, group: Option<GroupGrant>) -> Result<(), Fault> {
        let _one = self.inner.changing.lock().await;
        let grant = self.ask(verb, group).await?;
        self.inner.bus.renew(grant.jwt.clone()).await?;
        self.inner.outbound.renew(&grant);
        self.inner.hub.renew(&grant);
        self.inner.grant.send_replace(grant);
        Ok(())
    }

    /// The newest grant.
    pub fn grant(&self) -> Grant {
        self.inner.grant.borrow().clone()
    }

    /// Asks the control plane something else than a grant. `CONTROL_PLANE_DOWN` within 5 s when it does not answer.
    pub async fn call<T: DeserializeOwned>(&self, verb: &str, request: &impl Serialize) -> Result<T, Fault> {
        match self.request(verb, request).await? {
            ControlReply::Answer(value) => serde_json::from_value(value).map_err(|error| unreadable(&error)),
            _ => Err(unreadable(&"an answer of another kind")),
        }
    }

    async fn ask(&self, verb: &str, group: Option<GroupGrant>) -> Result<Grant, Fault> {
        let instance = self.inner.grant.borrow().instance.clone();
        let request = ControlRequest { public_key: self.inner.bus.public_key(), instance, group };
        match self.request(verb, &request).await? {
            ControlReply::Grant(grant) => Ok(*grant),
            _ => Err(unreadable(&"no grant in it")),
        }
    }

    async fn request(&self, verb: &str, request: &impl Serialize) -> Result<ControlReply, Fault> {
        let subject = {
            let grant = self.inner.grant.borrow();
            subject::control(&grant.namespace, &grant.agent, verb)
        };
        self.inner.bus.up(ANSWER_WAIT).await?;
        let body = serde_json::to_vec(request).map_err(|error| Fault::new(Code::InvalidEvent, error.to_string()))?;
        let answer = self.inner.bus.request(&subject, body.into(), ANSWER_WAIT).await.map_err(|_| {
            let why = "the control plane does not answer; what is already granted goes on";
            Fault::new(Code::ControlPlaneDown, why).with_retry_after(Duration::from_secs(2))
        })?;
        match serde_json::from_slice(&answer.payload).map_err(|error| unreadable(&error))? {
            ControlReply::Error { code, message } => {
                Err(Fault::new(code.parse().unwrap_or(Code::ControlPlaneDown), message))
            }
            reply => Ok(reply),
        }
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(Code::ControlPlaneDown, format!("unreadable answer of the control plane: {error}"))
}

/// When half of what is left is over.
fn half_life(expires: u64, now: SystemTime) -> SystemTime {
    now + Duration::from_secs(expires.saturating_sub(seconds(now)) / 2)
}

/// Seconds since the Unix epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_half_of_what_is_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(half_life(1000 + 86_400, now), now + Duration::from_secs(43_200));
        assert_eq!(half_life(10, now), now);
    }
}
