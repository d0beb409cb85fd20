//! One connection to the broker, and what it tells about itself.
//!
//! A refused publish looks like a time-out to the caller and only the connection's event says why; [`Link::violations`]
//! carries these events to whoever waits. [`Link::state`] gates publishing: requests sent into a dead connection would
//! leak their reply slots one by one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use agentbus_proto::{Code, Fault};
use async_nats::{Auth, AuthError, Client, ConnectOptions, Event, ServerAddr};
use nkeys::KeyPair;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::identity::{Credentials, Layout};
use crate::pull::slices::RoundTrip;

/// Longest wait between reconnect attempts: a broker that is back should be used within half a second.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(500);
/// A dead peer is noticed after two missed pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long the first connection may take before it counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Refusals remembered for slow readers; each is answered within a millisecond, so few are ever pending.
const VIOLATIONS_MAX: usize = 256;

/// How to reach the broker and as whom.
#[derive(Clone)]
pub struct Options {
    /// `nats://host:port`, one or more.
    pub servers: Vec<String>,
    /// Name shown in the broker's connection list.
    pub name: String,
    /// Inbox prefix; its own, so that nobody else may listen to the answers or have the broker speak there.
    pub inbox: String,
    /// How subjects are spelled where this connection is: a sidecar's account may lie behind the wall, and everybody else is
    /// where the streams are.
    pub layout: Layout,
    /// Who we are.
    pub identity: Identity,
}

impl Options {
    /// The client library's options, signed in with `sign`.
    fn client(&self, sign: impl Fn(&[u8]) -> Result<Auth, AuthError> + Send + Sync + 'static) -> ConnectOptions {
        ConnectOptions::with_auth_callback(move |nonce| std::future::ready(sign(&nonce)))
            .name(&self.name)
            .custom_inbox_prefix(&self.inbox)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
    }
}

/// A key pair and the newest token for it; a renewed token is used at the next connect.
#[derive(Clone)]
pub struct Identity {
    key: Arc<KeyPair>,
    token: Arc<RwLock<String>>,
}

impl Identity {
    /// A key pair born here, without a token yet.
    pub fn new_user() -> Self {
        Self { key: Arc::new(KeyPair::new_user()), token: Arc::default() }
    }

    /// From ready-made credentials.
    pub fn from_credentials(credentials: &Credentials) -> Result<Self, Fault> {
        let key = KeyPair::from_seed(&credentials.seed)
            .map_err(|error| Fault::new(Code::BadConfig, format!("the credentials hold no valid seed: {error}")))?;
        let identity = Self { key: Arc::new(key), token: Arc::default() };
        identity.renew(credentials.jwt.clone());
        Ok(identity)
    }

    /// Reads a `.creds` file's text.
    pub fn from_creds(text: &str) -> Result<Self, Fault> {
        let block = |name: &str| {
            let mut lines = text.lines().skip_while(|line| !line.contains(&format!("BEGIN {name}"))).skip(1);
            lines.next().map(|line| line.trim().to_owned())
        };
        match (block("NATS USER JWT"), block("USER NKEY SEED")) {
            (Some(jwt), Some(seed)) => Self::from_credentials(&Credentials { jwt, seed }),
            _ => Err(Fault::new(
                Code::BadConfig,
                "not a .creds file: it needs a NATS USER JWT and a USER NKEY SEED block",
            )),
        }
    }

    /// `U…`
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }

    /// Replaces the token.
    pub fn renew(&self, token: String) {
        if let Ok(mut slot) = self.token.write() {
            *slot = token;
        }
    }

    fn sign(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        auth.jwt = self.token.read().ok().map(|token| token.clone());
        auth.signature = Some(self.key.sign(nonce).map_err(AuthError::new)?);
        Ok(auth)
    }
}

/// State of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Connected; the number grows with every (re)connect, so that waiters can tell that answers may have been lost.
    Up(u64),
    /// Not connected, and why as far as known.
    Down(String),
}

/// A refused subject, as the broker named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `Publish` or `Subscription`.
    pub operation: String,
    /// The refused subject of the bus.
    pub subject: String,
}

/// The connection with its state and refusals. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    /// The NATS client.
    pub client: Client,
    state: watch::Receiver<State>,
    violations: broadcast::Sender<Violation>,
    options: Arc<Options>,
    subscriptions: Arc<AtomicU64>,
    /// What is known of the way to the broker.
    pub(crate) round_trip: RoundTrip,
}

impl Link {
    /// Connects, or says within 5 s why not.
    pub async fn connect(options: Options) -> Result<Self, Fault> {
        let (state_tx, state) = watch::channel(State::Down("connecting".to_owned()));
        let (violations, _) = broadcast::channel(VIOLATIONS_MAX);
        let signer = options.identity.clone();
        let events = violations.clone();
        let (state_tx, layout) = (Arc::new(state_tx), options.layout);
        let connect = options.client(move |nonce| signer.sign(nonce));
        let connect = connect.reconnect_delay_callback(reconnect_delay).event_callback(move |event| {
            on_event(&event, layout, &state_tx, &events);
            async {}
        });
        let client =
            connect.connect(&options.servers).await.map_err(|error| unreachable_broker(&options.servers, &error))?;
        let link = Self {
            client,
            state,
            violations,
            options: Arc::new(options),
            subscriptions: Arc::new(AtomicU64::new(1)),
            round_trip: RoundTrip::default(),
        };
        link.up(CONNECT_TIMEOUT).await?;
        Ok(link)
    }

    /// The connection state, to watch.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether it is connected now.
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Number of the current connection; 0 while there is none.
    pub fn generation(&self) -> u64 {
        match *self.state.borrow() {
            State::Up(generation) => generation,
            State::Down(_) => 0,
        }
    }

    /// Waits until connected, `within` at most; `BROKER_DOWN` otherwise.
    pub async fn up(&self, within: Duration) -> Result<u64, Fault> {
        if let generation @ 1.. = self.generation() {
            return Ok(generation);
        }
        let mut state = self.state.clone();
        let up = state.wait_for(|state| matches!(state, State::Up(_)));
        let reached = tokio::time::timeout(within, up).await.is_ok_and(|reached| reached.is_ok());
        if reached { Ok(self.generation()) } else { Err(self.down()) }
    }

    /// Waits until there is another connection than number `generation`: answers to that one will not come any more.
    pub async fn reconnected(&self, generation: u64) {
        let mut state = self.state.clone();
        // An error means that the connection's owner is gone, and with it everybody who waits.
        drop(state.wait_for(|state| matches!(state, State::Up(now) if *now != generation)).await);
    }

    /// The fault for "not connected".
    pub fn down(&self) -> Fault {
        let why = match &*self.state.borrow() {
            State::Down(why) => why.clone(),
            State::Up(_) => "no answer".to_owned(),
        };
        Fault::new(Code::BrokerDown, format!("the broker cannot be reached ({why}); it is tried again all the time"))
            .with_retry_after(Duration::from_secs(1))
    }

    /// Refusals from now on.
    pub fn violations(&self) -> broadcast::Receiver<Violation> {
        self.violations.subscribe()
    }

    /// A fresh subject below this connection's inbox.
    pub fn new_inbox(&self) -> String {
        format!("{}.{:x}", self.options.inbox, self.subscriptions.fetch_add(1, Ordering::Relaxed))
    }

    /// Another connection as the same user, for `purpose`, that is not made again: what was handed to it and not written when
    /// it breaks goes nowhere. The token is cancelled then. Its refusals are told with the others.
    pub(crate) async fn once(&self, purpose: &str) -> Result<(Client, CancellationToken), Fault> {
        let (signer, used) = (self.options.identity.clone(), AtomicBool::new(false));
        let sign = move |nonce: &[u8]| match used.swap(true, Ordering::Relaxed) {
            false => signer.sign(nonce),
            // The library connects again and would write what is left; this ends it.
            true => Err(AuthError::new("this connection is made once")),
        };
        let (broken, violations, layout) = (CancellationToken::new(), self.violations.clone(), self.layout());
        let cancelled = broken.clone();
        // Begins anywhere among the given ones, so that they share the connections.
        let mut given = self.options.servers.clone();
        let first = rand::random_range(0..given.len().max(1));
        given.rotate_left(first);
        let servers = &with_told(given, &self.client.server_info().connect_urls);
        let connect = self.options.client(sign).name(format!("{}, {purpose}", self.options.name));
        let connect = connect.retain_servers_order().max_reconnects(servers.len());
        let connect = connect.reconnect_delay_callback(|_| Duration::ZERO);
        let connect = connect.event_callback(move |event| {
            match &event {
                Event::Disconnected | Event::Closed => cancelled.cancel(),
                Event::ServerError(error) => tell_error(&error.to_string(), layout, &violations),
                _ => {}
            }
            async {}
        });
        let client = connect.connect(servers).await.map_err(|error| unreachable_broker(servers, &error))?;
        Ok((client, broken))
    }

    /// How subjects are spelled on this connection; what is not an inbox goes through [`Layout::spell`].
    pub fn layout(&self) -> Layout {
        self.options.layout
    }

    /// The identity in use.
    pub fn identity(&self) -> &Identity {
        &self.options.identity
    }

    /// Takes a new token into use: what was written is flushed first, then the connection is made anew.
    pub async fn renew(&self, token: String) -> Result<(), Fault> {
        self.options.identity.renew(token);
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, self.client.flush()).await;
        let before = self.generation();
        self.client.force_reconnect().await.map_err(|_| self.down())?;
        tokio::time::timeout(CONNECT_TIMEOUT, self.reconnected(before)).await.map_err(|_| self.down())
    }
}

/// The servers we were given, then those of their cluster that the broker told of (`host:port`), each once.
fn with_told(given: Vec<String>, told: &[String]) -> Vec<String> {
    let place = |server: &str| server.parse().ok().map(|server: ServerAddr| (server.host().to_owned(), server.port()));
    let mut servers = given;
    for server in told {
        let new = place(server);
        if new.is_some() && servers.iter().all(|known| place(known) != new) {
            servers.push(server.clone());
        }
    }
    servers
}

/// 0, then growing to half a second, with jitter so that sidecars do not return in step.
pub(crate) fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let base = RECONNECT_DELAY_MAX.min(Duration::from_millis(20 * attempts as u64));
    base.mul_f64(rand::random_range(0.5..1.0))
}

fn on_event(event: &Event, layout: Layout, state: &watch::Sender<State>, violations: &broadcast::Sender<Violation>) {
    // Survives `Down`, which carries no number.
    static GENERATION: AtomicU64 = AtomicU64::new(0);
    match event {
        Event::Connected => {
            let generation = GENERATION.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(generation, "broker connected");
            state.send_replace(State::Up(generation));
        }
        Event::Disconnected => {
            tracing::warn!("broker disconnected");
            state.send_replace(State::Down("disconnected".to_owned()));
        }
        Event::Closed => drop(state.send_replace(State::Down("closed".to_owned()))),
        Event::ServerError(error) => tell_error(&error.to_string(), layout, violations),
        Event::ClientError(error) => {
            let text = error.to_string();
            tracing::debug!(error = %text, "cannot connect to the broker");
            state.send_if_modified(|state| match state {
                State::Down(why) if *why != text => {
                    why.clone_from(&text);
                    true
                }
                _ => false,
            });
        }
        other => tracing::debug!(event = %other, "broker connection"),
    }
}

fn tell_error(text: &str, layout: Layout, violations: &broadcast::Sender<Violation>) {
    match violation(text, layout) {
        Some(violation) => {
            tracing::warn!(operation = %violation.operation, subject = %violation.subject, "refused by the broker");
            // Nobody waiting is fine.
            let _ = violations.send(violation);
        }
        None => tracing::warn!(error = %text, "broker reported an error"),
    }
}

/// Reads `Permissions Violation for Publish to "subject"`; the subject as it is on the bus.
fn violation(text: &str, layout: Layout) -> Option<Violation> {
    let rest =
        text.split("ermissions Violation for ").nth(1).or_else(|| text.split("ermissions violation for ").nth(1))?;
    let (operation, rest) = rest.split_once(" to ")?;
    let subject = rest.split('"').nth(1)?;
    Some(Violation { operation: operation.to_owned(), subject: layout.read(subject).to_owned() })
}

fn unreachable_broker(servers: &[String], error: &async_nats::ConnectError) -> Fault {
    let servers = servers.join(", ");
    let code = match error.kind() {
        async_nats::ConnectErrorKind::AuthorizationViolation | async_nats::ConnectErrorKind::Authentication => {
            Code::Unauthenticated
        }
        _ => Code::BrokerDown,
    };
    let what = error.to_string();
    // Some kinds repeat their cause in their own text.
    let cause = std::error::Error::source(error).map(ToString::to_string).filter(|cause| !what.contains(cause));
    let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
    Fault::new(code, format!("cannot connect to the broker at {servers}: {what}{cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_from_the_servers_words() {
        let text = r#"server error: Permissions Violation for Publish to "ab.default.n.other.topic.-.a""#;
        let expected = Violation { operation: "Publish".into(), subject: "ab.default.n.other.topic.-.a".into() };
        assert_eq!(violation(text, Layout::Plain), Some(expected.clone()));
        let text = text.replace("ab.default", "$JS.ACK.bus.ab.default");
        assert_eq!(violation(&text, Layout::Wall), Some(expected));
        assert_eq!(violation("nats: maximum payload exceeded", Layout::Plain), None);
    }

    #[test]
    fn servers_that_the_broker_told_of_come_after_the_given_ones_and_once() {
        let given = ["nats://a:4222", "b"].map(str::to_owned);
        let told = ["b:4222", "c:4222", "a:4222", "c:4222", "a:4223", ":x"].map(str::to_owned);
        assert_eq!(with_told(given.to_vec(), &told), ["nats://a:4222", "b", "c:4222", "a:4223"]);
        assert_eq!(with_told(given.to_vec(), &[]), given);
    }

    #[test]
    fn creds_files_are_read_and_junk_is_refused() {
        let key = KeyPair::new_user();
        let credentials = Credentials { jwt: "a.b.c".into(), seed: key.seed().unwrap() };
        assert_eq!(Identity::from_creds(&credentials.file()).unwrap().public_key(), key.public_key());
        assert!(Identity::from_creds("hello").is_err());
    }

    #[test]
    fn reconnects_soon_and_never_waits_long() {
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        assert!((2..100).all(|attempt| reconnect_delay(attempt) <= RECONNECT_DELAY_MAX));
    }
}
