//! `agentbus run-exec` (hidden): the agent process of an `exec` agent; runs the declared command once per event.

use agentbus_control_plane::runner::exec;
use agentbus_runtime::drain::Shutdown;
use agentbus_runtime::{launch, telemetry};
use anyhow::Context;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    exec: exec::Options,
}

/// Serves until a signal, then finishes what runs.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let telemetry =
        telemetry::init(telemetry::Options { service_name: "agentbus-exec".to_owned(), ..Default::default() })?;
    let launcher = launch::prefix().context("cannot find this program's own file")?;
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let result = exec::run(exec::Options { launcher, ..args.exec }, shutdown.token()).await;
    telemetry.shutdown().await;
    result
}
