//! `agentbus sidecar --stdio`: the sidecar program, started and led by a control plane.

/// Run a sidecar (started by `up`; you rarely call this yourself)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sidecar's own options.
    #[command(flatten)]
    pub sidecar: agentbus_sidecar::Args,
}

/// Runs until told to drain.
pub async fn run(args: Args) -> anyhow::Result<()> {
    agentbus_sidecar::stdio::run(args.sidecar).await
}
