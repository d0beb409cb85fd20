//! Answers sidecars on `abc.<ns>.<agent>.<verb>`: `renew` for a new token, `subscribe` to join a group, and what other
//! parts have registered ([`Verb`]).
//!
//! The agent token of the subject is authenticated by the broker. The reply subject is not, and this process may publish
//! anywhere: so it answers only where [`Layout::may_answer`] says, or a sidecar could write through it.
//!
//! Requests are taken from the subscription at once, so nothing piles up there. Those of one agent are handled one after
//! the other, each within a bound, and one that asks too much hears `RATE_LIMITED`; it holds up nobody else. Joining
//! changes shared state: that is done by one at a time, while renewals, which take microseconds, go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::budget;
use agentbus_nats::bus::{Bus, Note, Subscription};
use agentbus_nats::grant::{ControlReply, ControlRequest, GroupGrant};
use agentbus_nats::identity::Layout;
use agentbus_nats::names::Names;
use agentbus_nats::subject;
use agentbus_proto::{Code, Fault};
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::grants::Grants;
use crate::keeper::Keeper;
use crate::registry::Registry;
use crate::turns::{Turns, WAITING_MAX};

/// Control-plane replicas share the requests.
const QUEUE_GROUP: &str = "control-plane";
/// Largest request: a group with all its parts fits many times.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest time for one request, its wait for others included: the broker makes a consumer within milliseconds, and a
/// sidecar waits 5 s for its answer.
const HANDLING_MAX: Duration = Duration::from_secs(4);

/// What other parts answer to sidecars, each a verb of its own.
#[async_trait]
pub trait Verb: Send + Sync {
    /// The answer to `agent`, whose name the broker has checked; `request` is the JSON it sent. Must end within 4 s.
    async fn answer(&self, agent: &str, request: &[u8]) -> Result<serde_json::Value, Fault>;

    /// Answered at once, beside what the agent has asked before: for what ends without waiting for anything.
    fn out_of_turn(&self) -> bool {
        false
    }
}

/// The verbs beside `renew` and `subscribe`, by name.
pub type Verbs = BTreeMap<&'static str, Arc<dyn Verb>>;

/// The responder.
pub struct Responder {
    /// The control plane's connection.
    pub bus: Arc<dyn Bus>,
    /// Names of the namespace.
    pub names: Names,
    /// How it lies on the broker.
    pub layout: Layout,
    /// Issues the answers.
    pub grants: Arc<Grants>,
    /// Makes their consumers.
    pub keeper: Arc<Keeper>,
    /// Remembers joined groups.
    pub registry: Registry,
    /// Everything else that sidecars may ask.
    pub verbs: Verbs,
}

impl Responder {
    /// Listens: when this returns, the broker knows. What comes before [`Self::run`] waits in the subscription.
    pub async fn listen(&self) -> Result<Subscription, Fault> {
        let all = subject::control(self.names.namespace(), "*", "*");
        let requests = self.bus.subscribe(&all, Some(QUEUE_GROUP)).await?;
        // Behind this the subscription is in place.
        self.bus.round_trip().await?;
        Ok(requests)
    }

    /// Answers until `stop`. The subscription outlives reconnects.
    pub async fn run(self, mut requests: Subscription, stop: CancellationToken) -> Result<(), Fault> {
        let desk = Arc::new(Desk { responder: self, turns: Arc::default(), joining: Mutex::default() });
        // Dropped with this future: at the end nobody waits for an answer any more.
        let mut under_way = JoinSet::new();
        loop {
            let request = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(_) = under_way.join_next() => continue,
                request = requests.next() => request,
            };
            let Some(request) = request else {
                return Err(Fault::new(Code::BrokerDown, "the subscription for sidecars' requests ended"));
            };
            desk.accept(request, &mut under_way).await;
        }
    }
}

/// A request that may be answered.
struct Asked {
    agent: String,
    verb: String,
    reply: async_nats::Subject,
    payload: bytes::Bytes,
}

/// The responder at work.
struct Desk {
    responder: Responder,
    turns: Arc<Turns>,
    /// Held while a group is joined.
    joining: Mutex<()>,
}

impl Desk {
    /// Refuses at once what must not wait or be kept; everything else gets its turn in a task of its own, of which there
    /// are at most `WAITING_MAX` per agent.
    async fn accept(self: &Arc<Self>, request: Note, under_way: &mut JoinSet<()>) {
        let Some(asked) = asked(request, self.responder.layout) else { return };
        if asked.payload.len() > REQUEST_BYTES_MAX {
            let length = asked.payload.len();
            let why = format!("the request has {length} bytes; at most {REQUEST_BYTES_MAX} are read");
            return self.answer(&asked, Err(Fault::new(Code::TooLarge, why))).await;
        }
        let Some(place) = self.turns.place(&asked.agent) else {
            let why = format!("agent `{}` has {WAITING_MAX} requests under way; ask again later", asked.agent);
            return self.answer(&asked, Err(Fault::new(Code::RateLimited, why))).await;
        };
        let desk = Arc::clone(self);
        under_way.spawn(async move {
            let handled = async {
                let verb = desk.responder.verbs.get(asked.verb.as_str());
                let _turn = match verb.is_some_and(|verb| verb.out_of_turn()) {
                    true => None,
                    false => Some(place.turn().await),
                };
                desk.handle(&asked.agent, &asked.verb, &asked.payload).await
            };
            let late = || Fault::new(Code::BrokerDown, "the broker did not answer the control plane in time");
            let handled = tokio::time::timeout(HANDLING_MAX, handled).await.unwrap_or_else(|_| Err(late()));
            desk.answer(&asked, handled).await;
        });
    }

    async fn answer(&self, asked: &Asked, handled: Result<ControlReply, Fault>) {
        let Asked { agent, verb, reply, .. } = asked;
        let answer = match handled {
            Ok(reply) => reply,
            Err(fault) => {
                // A flood of requests must not become one of lines.
                match fault.code {
                    Code::RateLimited => tracing::debug!(agent, verb, error = %fault, "request refused"),
                    _ => tracing::info!(agent, verb, error = %fault, "request refused"),
                }
                ControlReply::refused(fault.code, fault.message)
            }
        };
        let bus = &self.responder.bus;
        let sent = match serde_json::to_vec(&answer) {
            Ok(bytes) => bus.send_note(reply, None, bytes.into()).await.map_err(|fault| fault.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::warn!(agent, verb, error, "answer not sent");
        }
    }

    async fn handle(&self, agent: &str, verb: &str, payload: &[u8]) -> Result<ControlReply, Fault> {
        if let Some(other) = self.responder.verbs.get(verb) {
            return other.answer(agent, payload).await.map(ControlReply::Answer);
        }
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
        let grant = self.responder.grants.issue(agent, &request.instance, &request.public_key)?;
        Ok(ControlReply::Grant(Box::new(grant)))
    }

    /// The order matters: the consumers exist before anybody is told that they may be used.
    async fn join(&self, agent: &str, wish: GroupGrant) -> Result<(), Fault> {
        let _alone = self.joining.lock().await;
        let Responder { grants, keeper, registry, .. } = &self.responder;
        let group = grants.groups().decide(agent, wish)?;
        budget::join(&*self.responder.bus, &self.responder.names, &group).await?;
        keeper.ensure(&group).await?;
        let joined = {
            let mut groups = grants.groups();
            groups.joined_now(agent, group);
            groups.joined(agent).to_vec()
        };
        registry.put_joined(agent, &joined).await
    }
}

/// A request with an address that may be answered; others are dropped with a word in the log.
fn asked(request: Note, layout: Layout) -> Option<Asked> {
    let mut tokens = request.subject.split('.').skip(2);
    let (agent, verb) = (tokens.next()?.to_owned(), tokens.next()?.to_owned());
    match request.reply {
        Some(reply) if layout.may_answer(&agent, &reply) => {
            Some(Asked { agent, verb, reply, payload: request.payload })
        }
        reply => {
            let reply = reply.as_deref();
            tracing::warn!(agent, verb, reply, "request not answered: its reply subject is not the agent's inbox");
            None
        }
    }
}

fn read(payload: &[u8]) -> Result<ControlRequest, Fault> {
    serde_json::from_slice(payload)
        .map_err(|error| Fault::new(Code::InvalidAddress, format!("unreadable request: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_refused() {
        assert_eq!(read(b"junk").unwrap_err().code, Code::InvalidAddress);
        assert!(read(br#"{"public_key":"U","instance":"a"}"#).is_ok());
    }
}
