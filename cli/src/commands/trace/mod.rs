//! `agentbus trace`: the story of a chain of events, as a waterfall.

mod bars;
mod waterfall;

use agentbus_control_plane::events::Chain;

use crate::control::encode;
use crate::instance::Global;
use crate::output::{self, Paint};
use crate::terminal;

/// Show the story of a chain of events: who handled what, when, how often, and how long it waited
///
/// Told from the streams alone. What they cannot know is left out: after a plain ack it is recorded nowhere when it was, unless
/// the event asked for a receipt, failed before, or led to another event.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus trace 0190f3c2-7c1e-7e3a-9d2b-3f1c5a7b9d10\n  agentbus trace order-17 --json | jq '.events[].groups[].state'"
)]
pub struct Args {
    /// Correlation id of the chain, or the id of any event in it
    #[arg(value_name = "CORRELATION_ID")]
    pub id: String,
}

/// Prints it.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let chain: Chain = global.teller()?.get(&format!("/v1/chains/{}", encode(&args.id))).await?;
    if global.json {
        return output::json(&chain);
    }
    for line in waterfall::lines(&chain, terminal::width(), Paint::stdout()) {
        output::line(line)?;
    }
    if !chain.complete {
        output::say(format!("not all of the stream was looked at: {} events of it were", chain.scanned));
    }
    Ok(())
}
