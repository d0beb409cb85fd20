//! A nats-server of its own for a test: operator mode, the topology applied, groups made on request.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::{Bus, JetStream};
use agentbus_nats::connect::{self, Identity, Link};
use agentbus_nats::consumers::GroupState;
use agentbus_nats::grant::{Grant, GroupGrant, Policy};
use agentbus_nats::identity::{Authority, Layout, Recipient};
use agentbus_nats::names::Names;
use agentbus_nats::server::{self, ConfigOptions, OperatorMode, Server};
use agentbus_nats::topology::Sizes;
use agentbus_nats::{consumers, plan};
use agentbus_proto::Fault;
use async_nats::jetstream::{self, consumer, message::StreamMessage};
use tempfile::TempDir;

use crate::wait::until;

/// Namespace of the tests.
pub const NAMESPACE: &str = "default";
/// Event limit that goes with the default `max_payload` of 1 MiB.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024 - 16 * 1024;

/// A running broker with full-rights access for the test itself.
pub struct Broker {
    /// The process; `kill9` and `restart` are for tests of outages.
    pub server: Server,
    /// Keys of the installation.
    pub authority: Authority,
    /// Full-rights connection.
    pub link: Link,
    /// Full-rights bus, on the same connection.
    pub bus: Arc<dyn Bus>,
    /// Full-rights JetStream.
    pub context: jetstream::Context,
    /// Asset names.
    pub names: Names,
    /// Folder that goes with the test.
    pub dir: TempDir,
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Broker {
    /// Starts one with default sizes.
    pub async fn start() -> Self {
        Self::start_in(Layout::Plain).await
    }

    /// Starts one whose sidecars are behind the wall.
    pub async fn start_walled() -> Self {
        Self::start_in(Layout::Wall).await
    }

    /// Starts one in this layout.
    pub async fn start_in(layout: Layout) -> Self {
        Self::start_of(layout, Sizes::within(256 * 1024 * 1024)).await
    }

    /// Starts one whose streams have these sizes.
    pub async fn start_with(sizes: Sizes) -> Self {
        Self::start_of(Layout::Plain, sizes).await
    }

    /// Starts one in this layout whose streams have these sizes.
    pub async fn start_of(layout: Layout, sizes: Sizes) -> Self {
        let dir = tempfile::Builder::new().prefix("agentbus-test-").tempdir().expect("temporary folder");
        let authority = Authority::generate(NAMESPACE).laid_out(layout);
        let server = start_server(dir.path(), &authority).await;
        let (link, context) = connect(&server, &authority).await;
        let names = Names::new(NAMESPACE);
        let bus: Arc<dyn Bus> = JetStream::on(link.clone()).await.expect("the bus is reached");
        plan::apply(&*bus, &names, &sizes).await.expect("topology applies");
        Self { server, authority, link, bus, context, names, dir }
    }

    /// `nats://…`
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// A group with its consumers made.
    pub async fn group(&self, name: &str, patterns: &[&str]) -> GroupGrant {
        self.group_with(group(name, patterns)).await
    }

    /// Makes the consumers of this group.
    pub async fn group_with(&self, group: GroupGrant) -> GroupGrant {
        consumers::ensure(&*self.bus, &self.names, &group).await.expect("consumers are made");
        group
    }

    /// A grant for a sidecar with this public key.
    pub fn grant(
        &self,
        agent: &str,
        instance: &str,
        public_key: &str,
        groups: &[GroupGrant],
        publish: &[&str],
    ) -> Grant {
        let to = Recipient { agent, instance, public_key };
        let publish = publish.iter().map(|pattern| (*pattern).to_owned()).collect();
        let signed = self.authority.grant(to, groups.to_vec(), publish, now()).expect("grant is signed");
        Grant { servers: vec![self.url()], event_bytes_max: EVENT_BYTES_MAX, ..signed }
    }

    /// A full-rights bus in another namespace of the installation; the broker must know its accounts.
    pub async fn elsewhere(&self, namespace: &str) -> Arc<dyn Bus> {
        let authority = self.authority.of_namespace(namespace).expect("keys");
        control_plane(&[self.url()], &authority).await.expect("the broker knows the namespace")
    }

    /// Messages in a stream.
    pub async fn count(&self, stream: &str) -> u64 {
        let mut stream = self.context.get_stream(stream).await.expect("stream exists");
        stream.info().await.expect("stream info").state.messages
    }

    /// One stored message.
    pub async fn message(&self, stream: &str, seq: u64) -> jetstream::message::StreamMessage {
        let stream = self.context.get_stream(stream).await.expect("stream exists");
        stream.get_raw_message(seq).await.expect("message exists")
    }

    /// State of a group's two consumers.
    pub async fn state(&self, group: &str) -> GroupState {
        let groups = [group.to_owned()];
        consumers::states(&*self.bus, &self.names, &groups).await.expect("consumers exist").remove(0)
    }

    /// Waits until a group has read everything and nothing of it is unsettled or waiting for a retry.
    pub async fn settled(&self, group: &str) {
        until("settled group", || async {
            let state = self.state(group).await;
            if (state.lag, state.in_flight, state.retrying) == (0, 0, 0) { Ok(()) } else { Err(state) }
        })
        .await;
    }

    /// All messages of a stream, oldest first.
    pub async fn messages(&self, stream: &str) -> Vec<StreamMessage> {
        let handle = self.context.get_stream(stream).await.expect("stream exists");
        let state = &handle.cached_info().state;
        let mut messages = Vec::new();
        for seq in state.first_sequence.max(1)..=state.last_sequence {
            // Gaps are messages that are gone.
            messages.extend(handle.get_raw_message(seq).await.ok());
        }
        messages
    }

    /// Waits until there are this many dead letters.
    pub async fn dead_letters(&self, count: usize) -> Vec<StreamMessage> {
        until("dead letters", || async {
            let letters = self.messages(&self.names.dead_letters()).await;
            if letters.len() >= count { Ok(letters) } else { Err(letters.len()) }
        })
        .await
    }

    /// Stores a message with the test's own rights, around every check of a sidecar.
    pub async fn store(&self, subject: &str, payload: impl Into<bytes::Bytes>) -> u64 {
        let stored = self.context.publish(subject.to_owned(), payload.into()).await.expect("sent");
        stored.await.expect("stored").sequence
    }

    /// Shortens the wait after which the broker delivers to somebody else, for tests of what happens then. Not below
    /// 4 s: sidecars extend every 3 s.
    pub async fn ack_wait(&self, group: &str, wait: Duration) {
        for (stream, name) in
            [(self.names.events(), Names::consumer(group)), (self.names.retry(), Names::retry_consumer(group))]
        {
            let consumer: consumer::PullConsumer =
                self.context.get_consumer_from_stream(&name, &stream).await.expect("consumer exists");
            let config = consumer::pull::Config {
                ack_wait: wait,
                ..consumer::FromConsumer::try_from_consumer_config(consumer.cached_info().config.clone())
                    .expect("a pull consumer")
            };
            self.context.create_consumer_on_stream(config, &stream).await.expect("updated");
        }
    }

    /// Kills the server without warning and starts it again on the same port and store.
    pub async fn crash(&mut self) {
        self.server.kill9().await.expect("killed");
        self.server.restart().await.expect("restarted");
    }
}

/// A group with a quick retry policy, so that tests are quick.
pub fn group(name: &str, patterns: &[&str]) -> GroupGrant {
    let policy = Policy { initial_ms: 200, max_ms: 1000, jitter: 0.0, ..Policy::default() };
    GroupGrant {
        name: name.to_owned(),
        patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        types: vec![],
        attributes: BTreeMap::new(),
        ordered: false,
        declared: true,
        policy,
        ..GroupGrant::default()
    }
}

async fn start_server(dir: &Path, authority: &Authority) -> Server {
    let binary = server::find_or_obtain(&server::Options::from_env(None), &|line: &str| eprintln!("{line}")).await;
    let config = ConfigOptions {
        store_dir: dir.join("store"),
        operator: Some(OperatorMode::of(authority, now()).expect("account tokens")),
        ..ConfigOptions::default()
    };
    // Through the launcher, so that a test run which is killed leaves no server behind.
    let launcher = [crate::binary::agentbus().as_os_str(), "launch".as_ref(), "--".as_ref()].map(Into::into).into();
    Server::start(&binary.expect("a nats-server").path, dir, config, Some(launcher)).await.expect("nats-server starts")
}

/// A full-rights bus in the namespace of these keys.
pub async fn control_plane(servers: &[String], authority: &Authority) -> Result<Arc<dyn Bus>, Fault> {
    let credentials = authority.control_plane(now()).expect("control-plane token");
    let options = connect::Options {
        servers: servers.to_vec(),
        name: "test".to_owned(),
        inbox: "_INBOX.test".to_owned(),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials).expect("credentials"),
    };
    Ok(JetStream::connect(options).await?)
}

async fn connect(server: &Server, authority: &Authority) -> (Link, jetstream::Context) {
    let credentials = authority.control_plane(now()).expect("control-plane token");
    let link = Link::connect(connect::Options {
        servers: vec![server.url()],
        name: "test".to_owned(),
        inbox: "_INBOX.test".to_owned(),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials).expect("credentials"),
    })
    .await
    .expect("the broker answers");
    let mut context = jetstream::new(link.client.clone());
    context.set_timeout(Duration::from_secs(10));
    (link, context)
}
