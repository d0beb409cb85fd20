//! `agentbus control-plane`: the control plane alone, beside a broker that somebody else runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentbus_control_plane::args::ApiToken;
use agentbus_control_plane::spec::{NAMESPACE_DEFAULT, Project};
use agentbus_control_plane::{ControlPlane, Options, authority};
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::bytesize::ByteSize;
use agentbus_runtime::{drain, launch, state, telemetry};
use anyhow::Context;

use crate::exit::fault;
use crate::instance::{self, Global};
use crate::output;

/// Largest event when the broker allows more, in bytes.
const EVENT_BYTES_MAX: usize = (1 << 20) - (16 << 10);
const STOP_GRACE: Duration = Duration::from_secs(25);

/// Run only the control plane, on a broker that runs elsewhere
///
/// The broker must trust the keys in `<state folder>/keys` (they are made when missing): `agentbus auth bootstrap` prints what its
/// operator has to install. `agentbus up` does all of this by itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Broker; several with commas
    #[arg(long, value_name = "URL", env = "NATS_URL", value_delimiter = ',', required = true)]
    server: Vec<String>,
    /// Project file
    #[arg(long, value_name = "FILE", env = "AGENTBUS_CONFIG")]
    config: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4200", env = "AGENTBUS_LISTEN")]
    listen: SocketAddr,
    #[command(flatten)]
    api_token: ApiToken,
    /// Space for all streams together
    #[arg(long, value_name = "SIZE", default_value = "2GiB", env = "AGENTBUS_QUOTA")]
    quota: ByteSize,
    /// Copies of each stream
    #[arg(long, value_name = "N", default_value_t = 1, env = "AGENTBUS_REPLICAS")]
    replicas: usize,
    /// Start the declared agents on this machine, too
    #[arg(long)]
    spawn: bool,
    /// Send traces to this OTLP endpoint
    #[arg(long, value_name = "URL", env = "AGENTBUS_OTLP")]
    otlp: Option<String>,
}

/// Runs until a signal.
pub async fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    // Its keys are good for every agent.
    instance::for_person()?;
    let Some(state_dir) = global.dir.clone() else {
        return Err(fault(Code::BadConfig, "name the state folder with --dir: the keys lie there"));
    };
    let signal = drain::signals()?;
    state::create_private(&state_dir)?;
    let service_name = "agentbus-control-plane".to_owned();
    let telemetry =
        telemetry::init(telemetry::Options { service_name, otlp: args.otlp.clone(), ..Default::default() })?;
    let control = ControlPlane::start(options(args, state_dir)?).await?;
    output::say(format!("control plane: {}", control.api_url()));
    let name = signal.await;
    output::say(format!("{name}: stopping"));
    control.stop(STOP_GRACE).await;
    telemetry.shutdown().await;
    Ok(())
}

fn options(args: Args, state_dir: PathBuf) -> anyhow::Result<Options> {
    let project = match &args.config {
        Some(file) => Project::load(file).map_err(Fault::from)?,
        None => Project::empty(NAMESPACE_DEFAULT),
    };
    let project_dir = match args.config.as_deref().and_then(std::path::Path::parent) {
        Some(folder) if !folder.as_os_str().is_empty() => std::path::absolute(folder)?,
        _ => instance::current_dir()?,
    };
    let authority = authority::load_or_create(&state_dir, &project.namespace).map_err(Fault::from)?;
    let authority = authority.laid_out(project.layout());
    let quota = i64::try_from(args.quota.0).map_err(|_| fault(Code::BadConfig, "--quota is too large"))?;
    Ok(Options {
        project,
        project_dir,
        state_dir,
        servers: args.server,
        authority: Arc::new(authority),
        sizes: Sizes { replicas: args.replicas, ..Sizes::within(quota) },
        event_bytes_max: EVENT_BYTES_MAX,
        listen: args.listen,
        api_token: args.api_token.read()?,
        executable: launch::own_program().context("cannot find this program's own file")?,
        otlp: args.otlp,
        person: false,
        spawn: args.spawn,
    })
}
