//! The process that is the bus: starts the parts in order, waits for a signal, stops them in the reverse order.
//!
//! Start: lock → project → keys → broker → control plane (streams, consumers, then sidecars and agents) → instance.json.
//! Stop: agents → sidecars → control plane → broker → instance.json → lock. A second signal ends at once; on Linux the kernel then kills
//! the children, as it does when this process is killed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentbus_control_plane::supervise::Local;
use agentbus_control_plane::{ControlPlane, Options, authority};
use agentbus_nats::bus::memory::URL;
use agentbus_nats::identity::Authority;
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault, timestamp};
use agentbus_runtime::leftovers;
use agentbus_runtime::state::{self, InstanceLock};
use agentbus_runtime::telemetry::{self, Telemetry};
use agentbus_runtime::trace::Tracer;
use agentbus_runtime::{drain, files, launch};
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::beside::{self, Beside};
use super::broker::{self, Broker};
use super::demo::Audit;
use super::project::Plan;
use super::{Args, keys, memory, summary, taken};
use crate::exit::fault;
use crate::instance::{self, Door, Global, Instance};
use crate::{output, programs, show};

/// Agents that are not there by then are shown as what they are; they are tried on.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// One sidecar, on a machine that may be busy starting others.
const ME_LIMIT: Duration = Duration::from_secs(30);
/// What agents and sidecars get to finish their work.
const STOP_GRACE: Duration = Duration::from_secs(25);

/// Everything that runs.
struct Bus {
    control: ControlPlane,
    /// None where the bus is in this process.
    broker: Option<Broker>,
    memory: Option<Local>,
    telemetry: Telemetry,
    instance: Instance,
    state: PathBuf,
    /// The namespace, on the broker of another bus. Let go before the folder: whoever then starts there finds it free.
    _held: Option<InstanceLock>,
    _lock: InstanceLock,
}

/// Runs the bus until a signal, or until the demo is done when that was asked for.
pub(super) async fn run(global: &Global, args: &Args, state: &Path) -> anyhow::Result<()> {
    if args.detached {
        rustix::process::setsid().context("cannot leave the terminal")?;
    }
    files::raise_open_max();
    let audit = args
        .demo
        .then(|| Audit::plan(args.input.as_deref(), args.report.as_deref(), state, args.exit_when_done))
        .transpose()?;
    let mut signal = std::pin::pin!(drain::signals()?);
    // Dropped half way, the parts kill what they have started.
    let bus = tokio::select! {
        bus = Box::pin(start(args, state)) => bus?,
        name = &mut signal => return Err(interrupted(name)),
    };
    let running = Box::pin(serve(global, args, &bus, audit));
    let result = tokio::select! {
        result = running => result,
        () = watch_broker(&bus) => Ok(()),
        name = &mut signal => {
            output::say(format!("{name}: stopping (a second one ends at once)"));
            Ok(())
        }
    };
    bus.stop().await;
    result
}

fn interrupted(signal: &str) -> anyhow::Error {
    fault(Code::Draining, format!("{signal} before the bus was ready; what was started is stopped"))
}

/// Shows the summary, runs the demo, then waits for ever.
async fn serve(global: &Global, args: &Args, bus: &Bus, audit: Option<Audit>) -> anyhow::Result<()> {
    if let Err(late) = bus.control.all_ready(READY_LIMIT).await {
        output::say(format!("not everything is ready: {late}"));
    }
    if args.detached {
        output::say(super::detach::READY);
    } else {
        let no_project = !args.demo && args.config.is_none() && bus.control.instances().borrow().is_empty();
        let hint = if no_project {
            "`agentbus init` writes a first agentbus.yaml; Ctrl-C stops everything"
        } else {
            "in another terminal: agentbus status; Ctrl-C here stops everything"
        };
        summary::print(global, &bus.instance, &bus.state, hint).await?;
    }
    if let Some(audit) = audit {
        audit.run(global, &bus.instance, bus.memory.as_ref().map(|local| &local.bus)).await?;
        if audit.once {
            return Ok(());
        }
    }
    std::future::pending().await
}

/// For ever: streams and consumers are looked after as soon as a restarted broker is back.
async fn watch_broker(bus: &Bus) {
    let Some(broker) = &bus.broker else { return std::future::pending().await };
    loop {
        broker.back.notified().await;
        bus.control.poke();
    }
}

async fn start(args: &Args, state: &Path) -> anyhow::Result<Bus> {
    let lock = InstanceLock::acquire(state).map_err(|error| match error {
        state::Error::Running { pid, .. } => taken(state, &pid),
        other => other.into(),
    })?;
    // The lock is ours, so whoever still carries this folder's mark belongs to a bus that was killed.
    let mark = leftovers::mark(state).with_context(|| format!("cannot mark `{}`", state.display()))?;
    match leftovers::end(&mark) {
        0 => {}
        ended => output::say(format!(
            "ended {} that a killed bus had left behind",
            output::count(ended as u64, "process", "processes")
        )),
    }
    // What an earlier, killed `up` left; it would look like ours.
    let _ = std::fs::remove_file(instance::file(state));
    let plan = Plan::load(args, state)?;
    for missing in programs::missing(&plan.project, &plan.folder) {
        output::say(format!("warning: {missing}"));
    }
    let telemetry = telemetry(args)?;
    let Ground { authority, broker, memory, described, sizes, held } = ground(args, &plan, telemetry.tracer()).await?;
    if memory.is_some() {
        output::say(memory::WARNING);
    }
    let token = token();
    let namespace = plan.project.namespace.clone();
    let project = plan.folder.clone();
    let servers = if memory.is_some() { vec![] } else { vec![described.url.clone()] };
    let options = Options { servers, sizes, ..options(args, plan, authority, token.clone())? };
    let control = match memory.clone() {
        Some(local) => ControlPlane::start_local(options, local).await?,
        None => ControlPlane::start(options).await?,
    };
    let me = me(&control).await?;
    let instance = Instance {
        pid: std::process::id(),
        start_ticks: instance::start_ticks(std::process::id()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: show::millis(&timestamp::from_system(std::time::SystemTime::now())),
        namespace,
        project,
        broker: described,
        control: Door { url: control.api_url().to_owned(), token },
        me,
    };
    state::write_private(&instance::file(state), &serde_json::to_vec_pretty(&instance)?)?;
    Ok(Bus { control, broker, memory, telemetry, instance, state: state.to_owned(), _held: held, _lock: lock })
}

/// What a bus stands on: a broker of its own, that of another bus, or the memory of this process.
struct Ground {
    authority: Authority,
    broker: Option<Broker>,
    memory: Option<Local>,
    /// As it is written down.
    described: instance::Broker,
    sizes: Sizes,
    /// The right to the namespace, on the broker of another bus.
    held: Option<InstanceLock>,
}

async fn ground(args: &Args, plan: &Plan, tracer: Tracer) -> anyhow::Result<Ground> {
    let (state, namespace, layout) = (&plan.state, &plan.project.namespace, plan.project.layout());
    let in_memory = plan.in_memory(args)?;
    if let Some(folder) = &args.beside {
        let Beside { broker, authority, sizes, lock } = beside::reach(folder, namespace, layout).await?;
        let described = instance::Broker { creds: person(state, &authority)?, layout, ..broker };
        return Ok(Ground { authority, broker: None, memory: None, described, sizes, held: Some(lock) });
    }
    keys::check(state, namespace)?;
    let authority = authority::load_or_create(state, namespace).map_err(Fault::from)?.laid_out(layout);
    let creds = person(state, &authority)?;
    if in_memory {
        let (url, version) = (URL.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let (program, creds) = (PathBuf::new(), PathBuf::new());
        let described = instance::Broker { url, version, program, creds, keys: None, layout };
        let sizes = Sizes::within(memory::QUOTA_BYTES);
        let memory = Some(memory::local(tracer));
        return Ok(Ground { authority, broker: None, memory, described, sizes, held: None });
    }
    let binary = broker::obtain(args.nats_server.clone()).await?;
    let broker = broker::start(binary, state, args.port, &authority).await?;
    let (url, version, program) = (broker.url.clone(), broker.version.clone(), broker.program.clone());
    let described = instance::Broker { url, version, program, creds, keys: None, layout };
    Ok(Ground { authority, sizes: broker.sizes, broker: Some(broker), memory: None, described, held: None })
}

/// All that does not depend on what the bus stands on.
fn options(args: &Args, plan: Plan, authority: Authority, api_token: String) -> anyhow::Result<Options> {
    Ok(Options {
        project: plan.project,
        project_dir: plan.folder,
        state_dir: plan.state,
        servers: vec![],
        authority: Arc::new(authority),
        sizes: Sizes::default(),
        event_bytes_max: broker::EVENT_BYTES_MAX,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        api_token,
        executable: launch::own_program().context("cannot find this program's own file")?,
        otlp: args.otlp.clone(),
        person: true,
        spawn: true,
    })
}

/// The person's sidecar comes first: every command needs it.
async fn me(control: &ControlPlane) -> anyhow::Result<Door> {
    let mut changes = control.instances();
    let ready = async {
        loop {
            if let Some(door) = control.me() {
                return Some(Door { url: door.url, token: door.token });
            }
            changes.changed().await.ok()?;
        }
    };
    let late = || {
        let why = "your own sidecar did not start; see logs/me.sidecar.log in the state folder";
        fault(Code::ControlPlaneDown, why)
    };
    tokio::time::timeout(ME_LIMIT, ready).await.ok().flatten().ok_or_else(late)
}

impl Bus {
    /// In order, so that whoever still works has what it needs.
    async fn stop(self) {
        output::say("stopping agents, then their sidecars");
        self.control.stop(STOP_GRACE).await;
        if let Some(broker) = self.broker {
            output::say("stopping nats-server");
            broker.stop().await;
        }
        self.telemetry.shutdown().await;
        let _ = std::fs::remove_file(instance::file(&self.state));
        output::say("stopped; nothing is left running");
    }
}

/// The person's credentials, new at each start: the seed is not worth keeping.
fn person(state: &Path, authority: &Authority) -> anyhow::Result<PathBuf> {
    let folder = state.join("creds");
    state::create_private(&folder)?;
    let file = folder.join("me.creds");
    let credentials = authority.person(broker::unix_now())?;
    state::write_private(&file, credentials.file().as_bytes())?;
    Ok(file)
}

/// Logs only what needs attention, unless AGENTBUS_LOG asks for more: this is a person's terminal.
fn telemetry(args: &Args) -> anyhow::Result<Telemetry> {
    if std::env::var_os(telemetry::LOG_VARIABLE).is_none_or(|filter| filter.is_empty()) {
        // The first subscriber stays; `init` then only sets up the traces.
        let quiet = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_writer(std::io::stderr);
        let _ = quiet.try_init();
    }
    let options = telemetry::Options {
        service_name: "agentbus-control-plane".to_owned(),
        otlp: args.otlp.clone(),
        ..Default::default()
    };
    telemetry::init(options).map_err(|error| fault(Code::BadConfig, format!("{error:#}")))
}

fn token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
