//! What is measured on: a nats-server in a temporary folder, the topology, consumers, sidecar processes.
//!
//! The same parts as `up` uses: operator mode, scoped tokens, sidecars led over stdio. All of it ends with [`Bus::stop`], with the values
//! dropped, or with this process, whichever comes first.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_nats::bus::{Bus as _, JetStream};
use agentbus_nats::connect::{self, Identity};
use agentbus_nats::grant::{ControlReply, FromSidecar, Grant, GroupGrant, Policy, Start, ToSidecar};
use agentbus_nats::identity::{Authority, Layout, Recipient};
use agentbus_nats::names::Names;
use agentbus_nats::server::{self, ConfigOptions, OperatorMode, Server};
use agentbus_nats::topology::Sizes;
use agentbus_nats::{asks, consumers, plan, subject};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::launch;
use anyhow::Context;
use async_nats::jetstream;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::client::{self, Client};
use crate::{output, progress};

/// The namespace of the run.
pub const NAMESPACE: &str = "default";
/// Storage shared out to the streams; the events stream gets its largest size, 1 GiB.
const QUOTA_BYTES: i64 = 4 << 30;
/// The broker's default `max_payload` less the room for headers.
const EVENT_BYTES_MAX: usize = (1 << 20) - (16 << 10);
/// A sidecar is ready in a tenth of a second.
const SIDECAR_WAIT: Duration = Duration::from_secs(30);
/// How long the programs may take to end by themselves.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The broker and full-rights access to it.
pub struct Bus {
    /// JetStream.
    pub jetstream: jetstream::Context,
    /// Names of streams.
    pub names: Names,
    /// Version of nats-server.
    pub version: String,
    bus: Arc<JetStream>,
    authority: Authority,
    // Killed before its folder goes.
    server: Server,
    _folder: TempDir,
}

/// A running sidecar process. Killed when dropped.
pub struct Sidecar {
    /// An agent's connection to it.
    pub client: Client,
    /// Its process.
    pub pid: Option<u32>,
    child: Child,
    stdin: ChildStdin,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Bus {
    /// Starts one in this layout.
    pub async fn start(nats_server: Option<PathBuf>, layout: Layout) -> anyhow::Result<Self> {
        let options = server::Options::from_env(nats_server);
        let found = server::find_or_obtain(&options, &|line: &str| output::say(line));
        let binary = progress::during("getting a nats-server", found).await?;
        let folder =
            tempfile::Builder::new().prefix("agentbus-bench-").tempdir().context("cannot make a temporary folder")?;
        let authority = Authority::generate(NAMESPACE).laid_out(layout);
        let now = unix_now();
        let operator = OperatorMode::of(&authority, now)?;
        let config = ConfigOptions {
            store_dir: folder.path().join("store"),
            operator: Some(operator),
            ..ConfigOptions::default()
        };
        let server = Server::start(&binary.path, folder.path(), config, Some(launch::prefix()?)).await?;
        let bus = connect(&server, &authority).await?;
        let names = Names::new(NAMESPACE);
        plan::apply(&*bus, &names, &Sizes::within(QUOTA_BYTES)).await?;
        Ok(Self {
            jetstream: bus.context().clone(),
            bus,
            names,
            version: binary.version.to_string(),
            authority,
            server,
            _folder: folder,
        })
    }

    /// How its namespace lies on the broker.
    pub fn layout(&self) -> Layout {
        self.authority.layout()
    }

    /// Process id of nats-server.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Makes a group that reads this topic from now on.
    pub async fn group(&self, name: &str, topic: &str) -> anyhow::Result<GroupGrant> {
        let group = GroupGrant {
            name: name.to_owned(),
            patterns: vec![topic.to_owned()],
            types: Vec::new(),
            attributes: Default::default(),
            ordered: false,
            declared: true,
            policy: Policy::default(),
            ..GroupGrant::default()
        };
        consumers::ensure(&*self.bus, &self.names, &group).await?;
        Ok(group)
    }

    /// Empties the events stream, so that the next measurement starts on one of the same size.
    pub async fn clear(&self) -> anyhow::Result<()> {
        let stream = self.jetstream.get_stream(self.names.events()).await?;
        stream.purge().await.context("cannot empty the events stream")?;
        Ok(())
    }

    /// Starts a sidecar for this agent and connects to it.
    pub async fn sidecar(&self, agent: &str, groups: &[GroupGrant], publish: &[&str]) -> anyhow::Result<Sidecar> {
        let mut child = spawn_sidecar()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("a sidecar without stdin and stdout");
        };
        let mut stdout = BufReader::new(stdout).lines();
        let FromSidecar::Hello { public_key, .. } = hear(&mut stdout).await? else {
            anyhow::bail!("the sidecar did not say hello");
        };
        let token = format!("{:032x}", rand::random::<u128>());
        let start = Start {
            grant: self.grant(agent, &public_key, groups, publish)?,
            token: token.clone(),
            listen: "127.0.0.1:0".to_owned(),
            admin: "127.0.0.1:0".to_owned(),
            admin_token: None,
            unix: None,
            drain_ms: 1000,
            ..Start::default()
        };
        tell(&mut stdin, &ToSidecar::Start(Box::new(start))).await?;
        let url = match hear(&mut stdout).await? {
            FromSidecar::Ready { url, .. } => url,
            FromSidecar::Failed { code, message } => {
                return Err(Fault::new(code.parse().unwrap_or(Code::BadConfig), message).into());
            }
            FromSidecar::Hello { .. } | FromSidecar::Report(_) => {
                anyhow::bail!("the sidecar said something else than that it is ready")
            }
        };
        let client = client::connect(&url, &token).await?;
        Ok(Sidecar { client, pid: child.id(), child, stdin, _stdout: stdout })
    }

    /// Stands in for the control plane, which an asker asks once a second whether somebody serves the address.
    pub async fn say_served(&self, asker: &str) -> anyhow::Result<()> {
        let mut questions = self.bus.subscribe(&subject::control(NAMESPACE, asker, asks::RESOLVE), None).await?;
        let served = asks::Resolved { served: true, why: String::new() };
        let answer = serde_json::to_vec(&ControlReply::Answer(serde_json::to_value(served)?))?;
        let bus = Arc::clone(&self.bus);
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let Some(reply) = question.reply else { continue };
                // Unanswered, the asker goes on without.
                let _ = bus.send_note(&reply, None, answer.clone().into()).await;
            }
        });
        Ok(())
    }

    fn grant(&self, agent: &str, public_key: &str, groups: &[GroupGrant], publish: &[&str]) -> anyhow::Result<Grant> {
        let to = Recipient { agent, instance: agent, public_key };
        let publish = publish.iter().map(|&pattern| pattern.to_owned()).collect();
        let signed = self.authority.grant(to, groups.to_vec(), publish, unix_now())?;
        Ok(Grant { servers: vec![self.server.url()], event_bytes_max: EVENT_BYTES_MAX, ..signed })
    }

    /// Ends the server and removes its folder.
    pub async fn stop(self) -> anyhow::Result<()> {
        Ok(self.server.stop(STOP_GRACE).await?)
    }
}

impl Sidecar {
    /// Asks it to drain and waits for its end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        tell(&mut self.stdin, &ToSidecar::Drain {}).await?;
        // Killed when dropped, if it takes too long.
        let _ = tokio::time::timeout(STOP_GRACE, self.child.wait()).await;
        Ok(())
    }
}

async fn connect(server: &Server, authority: &Authority) -> anyhow::Result<Arc<JetStream>> {
    let credentials = authority.control_plane(unix_now())?;
    let options = connect::Options {
        servers: vec![server.url()],
        name: "agentbus bench".to_owned(),
        inbox: subject::inbox("bench"),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials)?,
    };
    Ok(JetStream::connect(options).await?)
}

fn spawn_sidecar() -> anyhow::Result<Child> {
    let own = launch::own_program().context("cannot find this program's own file")?;
    let mut argv = launch::prefix()?.into_iter();
    let mut command = Command::new(argv.next().unwrap_or_else(|| own.clone().into()));
    command.args(argv).arg(own).args(["sidecar", "--stdio"]);
    command.env("AGENTBUS_LOG", "warn").env_remove("AGENTBUS_OTLP").env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("cannot start a sidecar")
}

async fn hear(stdout: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<FromSidecar> {
    let line = tokio::time::timeout(SIDECAR_WAIT, stdout.next_line()).await.context("the sidecar says nothing")??;
    let line = line.context("the sidecar ended before it was ready")?;
    serde_json::from_str(&line).with_context(|| format!("unexpected words from the sidecar: {line}"))
}

async fn tell(stdin: &mut ChildStdin, line: &ToSidecar) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    stdin.write_all(text.as_bytes()).await?;
    Ok(stdin.flush().await?)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
