//! `agentbus sidecar --stdio`: the sidecar program, started and led by a control plane.

pub use agentbus_sidecar::Args;

/// Runs until told to drain.
pub async fn run(args: Args) -> anyhow::Result<()> {
    agentbus_sidecar::stdio::run(args).await
}
