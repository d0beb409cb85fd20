//! The sidecar alone, for images. `agentbus sidecar` is the same.

use clap::Parser;

#[derive(Parser)]
#[command(name = "agentbus-sidecar", version, about = "The sidecar of one agent")]
struct Cli {
    #[command(flatten)]
    args: agentbus_sidecar::Args,
}

// One thread: the localhost hop is faster on it and idle memory lower than with a worker pool.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    agentbus_runtime::secrecy::keep()?;
    agentbus_sidecar::stdio::run(Cli::parse().args).await
}
