//! Answers sidecars on `abc.<ns>.<agent>.<verb>`: `renew` for a new token, `subscribe` to join a group.
//!
//! The agent token of the subject is authenticated by the broker. The reply subject is not, and this process may publish
//! anywhere: so it answers only below `_INBOX.<agent>.`, or a sidecar could write through it. Requests are handled one
//! after the other, each within a bound: joining changes shared state, and a renewal takes microseconds.

use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::connect::Link;
use agentbus_nats::grant::{ControlReply, ControlRequest, Grant, GroupGrant};
use agentbus_nats::names::Names;
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};
use async_nats::jetstream;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::grants::Grants;
use crate::keeper::Keeper;
use crate::registry::Registry;

/// Control-plane replicas share the requests.
const QUEUE_GROUP: &str = "control-plane";
/// Largest request: a group with all its parts fits many times.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest time for one request: the broker makes a consumer within milliseconds, and a sidecar waits 5 s for its answer.
const HANDLING_MAX: Duration = Duration::from_secs(4);

/// The responder.
pub struct Responder {
    /// The control plane's connection.
    pub link: Link,
    /// On the same connection.
    pub context: jetstream::Context,
    /// Names of the namespace.
    pub names: Names,
    /// Issues the answers.
    pub grants: Arc<Grants>,
    /// Makes their consumers.
    pub keeper: Arc<Keeper>,
    /// Remembers joined groups.
    pub registry: Registry,
}

impl Responder {
    /// Listens: when this returns, the broker knows. What comes before [`Self::run`] waits in the subscription.
    pub async fn listen(&self) -> Result<async_nats::Subscriber, Fault> {
        let all = subject::control(self.names.namespace(), "*", "*");
        let down = |why: String| Fault::new(Code::BrokerDown, format!("cannot listen for sidecars: {why}"));
        let listening = self.link.client.queue_subscribe(all, QUEUE_GROUP.to_owned()).await;
        let requests = listening.map_err(|error| down(error.to_string()))?;
        // The broker takes what a connection sends in order: an answer to this says that the subscription is in place.
        self.context.query_account().await.map_err(|error| down(error.to_string()))?;
        Ok(requests)
    }

    /// Answers until `stop`. The subscription outlives reconnects.
    pub async fn run(self, mut requests: async_nats::Subscriber, stop: CancellationToken) -> Result<(), Fault> {
        loop {
            let request = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                request = requests.next() => request,
            };
            let Some(request) = request else {
                return Err(Fault::new(Code::BrokerDown, "the subscription for sidecars' requests ended"));
            };
            self.respond(request).await;
        }
    }

    async fn respond(&self, request: async_nats::Message) {
        let mut tokens = request.subject.split('.').skip(2);
        let (Some(agent), Some(verb)) = (tokens.next(), tokens.next()) else { return };
        let Some(reply) = request.reply.as_ref().filter(|reply| may_answer(agent, reply)) else {
            tracing::warn!(
                agent,
                verb,
                reply = request.reply.as_deref(),
                "request not answered: its reply subject is not the agent's inbox"
            );
            return;
        };
        let handled = tokio::time::timeout(HANDLING_MAX, self.handle(agent, verb, &request.payload)).await;
        let late = || Fault::new(Code::BrokerDown, "the broker did not answer the control plane in time");
        let answer = match handled.unwrap_or_else(|_| Err(late())) {
            Ok(grant) => ControlReply::Grant(Box::new(grant)),
            Err(fault) => {
                tracing::info!(agent, verb, error = %fault, "request refused");
                ControlReply::refused(fault.code, fault.message)
            }
        };
        let sent = match serde_json::to_vec(&answer) {
            Ok(bytes) => self.link.client.publish(reply.clone(), bytes.into()).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::warn!(agent, verb, error, "answer not sent");
        }
    }

    async fn handle(&self, agent: &str, verb: &str, payload: &[u8]) -> Result<Grant, Fault> {
        let request = read(payload)?;
        match verb {
            "renew" => {}
            "subscribe" => {
                let wish = request.group.ok_or_else(|| Fault::new(Code::InvalidAddress, "`group` is missing"))?;
                self.join(agent, wish).await?;
            }
            other => {
                let why = format!("the control plane does not know the verb `{}`", other.escape_debug());
                return Err(Fault::new(Code::InvalidAddress, why));
            }
        }
        self.grants.issue(agent, &request.instance, &request.public_key)
    }

    /// The order matters: the consumers exist before anybody is told that they may be used.
    async fn join(&self, agent: &str, wish: GroupGrant) -> Result<(), Fault> {
        let group = self.grants.groups().decide(agent, wish)?;
        self.keeper.ensure(&group).await?;
        let joined = {
            let mut groups = self.grants.groups();
            groups.joined_now(agent, group);
            groups.joined(agent).to_vec()
        };
        self.registry.put_joined(agent, &joined).await
    }
}

/// Whether `reply` is below the agent's own inbox, and a plain subject.
fn may_answer(agent: &str, reply: &str) -> bool {
    let inside =
        reply.strip_prefix("_INBOX.").and_then(|rest| rest.strip_prefix(agent)).and_then(|rest| rest.strip_prefix('.'));
    inside.is_some_and(|rest| !rest.is_empty() && !rest.contains(['*', '>', ' ']))
}

fn read(payload: &[u8]) -> Result<ControlRequest, Fault> {
    if payload.len() > REQUEST_BYTES_MAX {
        let why = format!("the request has {} bytes; at most {REQUEST_BYTES_MAX} are read", payload.len());
        return Err(Fault::new(Code::TooLarge, why));
    }
    serde_json::from_slice(payload)
        .map_err(|error| Fault::new(Code::InvalidAddress, format!("unreadable request: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agents_own_inbox_is_answered() {
        let cases = [
            ("_INBOX.check.check-1.5", true),
            ("_INBOX.check.x", true),
            ("_INBOX.checker.x", false),
            ("_INBOX.check", false),
            ("_INBOX.check.", false),
            ("_INBOX.check.>", false),
            ("_INBOX.other.check.x", false),
            ("ab.default.n.other.topic.-.t", false),
            ("$JS.API.STREAM.DELETE.AB_default_EVENTS", false),
        ];
        for (reply, expected) in cases {
            assert_eq!(may_answer("check", reply), expected, "{reply}");
        }
    }

    #[test]
    fn junk_is_refused_and_bounded() {
        assert_eq!(read(b"junk").unwrap_err().code, Code::InvalidAddress);
        assert_eq!(read(&vec![b' '; REQUEST_BYTES_MAX + 1]).unwrap_err().code, Code::TooLarge);
        assert!(read(br#"{"public_key":"U","instance":"a"}"#).is_ok());
    }
}
