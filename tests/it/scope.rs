//! What the broker itself refuses, tried with plain NATS connections that hold an agent's own credentials, in both layouts of a
//! namespace.

/// Each of these is a test of both layouts.
macro_rules! in_both {
    ($($test:ident),* $(,)?) => {
        mod plain {
            $(#[tokio::test]
            async fn $test() {
                Box::pin(super::$test(agentbus_nats::identity::Layout::Plain)).await;
            })*
        }

        mod wall {
            $(#[tokio::test]
            async fn $test() {
                Box::pin(super::$test(agentbus_nats::identity::Layout::Wall)).await;
            })*
        }
    };
}

mod addresses;
mod grants;
mod person;
mod reach;
mod renewal;
mod replies;
mod tokens;

use std::collections::BTreeSet;
use std::time::Duration;

use agentbus_nats::connect::{self, Identity, Link, Violation};
use agentbus_nats::identity::Layout;
use agentbus_nats::subject;
use agentbus_tests::Broker;
use agentbus_tests::wait::PATIENCE;
use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

/// Agent `a` with group `ga` and the topics `notes.>` and `Mixed.Case`; agent `b` with group `gb`.
struct World {
    broker: Broker,
    a: Caller,
}

/// A connection and its refusals.
struct Caller {
    link: Link,
    violations: Receiver<Violation>,
}

impl World {
    async fn start(layout: Layout) -> Self {
        let broker = Broker::start_in(layout).await;
        for group in ["ga", "gb"] {
            broker.group(group, &["notes.>"]).await;
        }
        let a = Caller::agent(&broker, "a", &["ga"], &["notes.>", "Mixed.Case"]).await;
        Self { broker, a }
    }
}

impl Caller {
    /// Connects as this agent would, with what the control plane would give it.
    async fn agent(broker: &Broker, agent: &str, groups: &[&str], publish: &[&str]) -> Self {
        let identity = Identity::new_user();
        let groups: Vec<_> = groups.iter().map(|name| agentbus_tests::broker::group(name, &["notes.>"])).collect();
        let grant = broker.grant(agent, agent, &identity.public_key(), &groups, publish);
        identity.renew(grant.jwt);
        Self::connect(broker, identity, subject::inbox(agent), grant.layout).await
    }

    async fn connect(broker: &Broker, identity: Identity, inbox: String, layout: Layout) -> Self {
        let (servers, name) = (vec![broker.url()], "plain".to_owned());
        let options = connect::Options { servers, name, inbox, layout, identity };
        let link = Link::connect(options).await.expect("connects");
        let violations = link.violations();
        Self { link, violations }
    }

    /// A subject of the bus as this connection spells it.
    fn spell(&self, subject: &str) -> String {
        self.link.layout().spell(subject).into_owned()
    }

    /// Publishes and sees the broker refuse it, however the subject is spelled.
    async fn refused(&mut self, subject: &str, payload: &str) {
        for spelled in BTreeSet::from([subject.to_owned(), self.spell(subject)]) {
            let payload = Bytes::copy_from_slice(payload.as_bytes());
            self.link.client.publish(spelled, payload).await.expect("sent");
            self.expect("Publish", subject).await;
        }
    }

    /// Subscribes and sees the broker refuse it, however the subject is spelled.
    async fn deaf(&mut self, subject: &str) {
        for spelled in BTreeSet::from([subject.to_owned(), self.spell(subject)]) {
            let _subscription = self.link.client.subscribe(spelled).await.expect("sent");
            self.expect("Subscription", subject).await;
        }
    }

    /// Asks a consumer of the events stream for one message, to be sent to `inbox`.
    async fn pull_one(&self, consumer: &str, inbox: &str) {
        let next = self.spell(&format!("$JS.API.CONSUMER.MSG.NEXT.AB_default_EVENTS.{consumer}"));
        self.link.client.publish_with_reply(next, inbox.to_owned(), r#"{"batch":1}"#.into()).await.expect("sent");
    }

    async fn expect(&mut self, operation: &str, subject: &str) {
        let violation = timeout(Duration::from_secs(2), self.violations.recv()).await;
        let violation = violation.unwrap_or_else(|_| panic!("`{subject}` is not refused")).expect("events");
        assert_eq!((violation.operation.as_str(), violation.subject.as_str()), (operation, subject));
    }

    /// Sends a request and gives the answer's text; refused ones time out.
    async fn ask(&self, subject: &str, payload: &str) -> String {
        let request = self.link.client.request(self.spell(subject), Bytes::copy_from_slice(payload.as_bytes()));
        let message = timeout(PATIENCE, request).await.expect("in time").unwrap_or_else(|e| panic!("{subject}: {e}"));
        String::from_utf8_lossy(&message.payload).into_owned()
    }

    /// Publishes, and makes sure that the broker has seen it and said nothing.
    async fn allowed(&mut self, subject: &str, payload: &str) {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.link.client.publish(self.spell(subject), payload).await.expect("sent");
        self.quiet(subject).await;
    }

    /// Nothing that was sent so far is refused. Any request is a round trip; the refusals come before its answer, and
    /// reach us through another task a moment later.
    async fn quiet(&mut self, what: &str) {
        round_trip(&self.link).await;
        if let Ok(violation) = timeout(Duration::from_millis(100), self.violations.recv()).await {
            panic!("{what}: {violation:?}");
        }
    }
}

/// Waits until the broker has read everything this connection wrote: subscriptions are in force then. A flush only
/// writes.
async fn round_trip(link: &Link) {
    // Nobody serves it; the broker says so, or refuses, or one of our own hears it: each way it has read what was before.
    let nobody = format!("abc.{}.a.round-trip", agentbus_tests::broker::NAMESPACE);
    let nobody = link.layout().spell(&nobody).into_owned();
    let _ = timeout(Duration::from_secs(1), link.client.request(nobody, Bytes::new())).await;
}
