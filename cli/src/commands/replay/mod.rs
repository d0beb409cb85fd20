//! `agentbus replay`: stored events once more: to look at, to one group, or into a sandbox namespace.

mod copies;
mod own;

use std::time::SystemTime;

use agentbus_runtime::bytesize::ByteSize;

use crate::history;
use crate::instance::Global;

/// Stored events once more: to look at, to one group, or into a sandbox namespace
///
/// Without --to-group and --into the events are printed, byte for byte as they are stored, and nobody else gets them. Copies
/// are new events: ids of their own, and `replay_of` names the original.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus replay 'notes.>' --since 1h\n  agentbus replay 'notes.>' '#ops' --from-seq 100 --to-seq 200 --json\n  agentbus replay 'notes.>' --since 10m --speed 10\n  agentbus replay 'notes.>' --since 1h --to-group readers --dry-run\n  agentbus replay 'notes.>' --into sandbox --yes"
)]
pub struct Args {
    /// Topics (* stands for one token, > at the end for the rest), @AGENT, '#CHANNEL'
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Begin with what was stored since then: 10m, 2h, or 2026-11-20T10:00:00Z [default: the oldest event]
    #[arg(long, value_name = "TIME", conflicts_with = "from_seq")]
    since: Option<String>,
    /// Begin at this number of the stream
    #[arg(long, value_name = "N")]
    from_seq: Option<u64>,
    /// End with what was stored until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// End at this number [default: the newest event there is]
    #[arg(long, value_name = "N")]
    to_seq: Option<u64>,
    /// 1 = with the original pauses, 10 = ten times as fast [default: without pauses]
    #[arg(long, value_name = "X", default_value_t = 0.0, hide_default_value = true)]
    speed: f32,
    /// To this group, and nobody else
    #[arg(long, value_name = "GROUP", conflicts_with = "into")]
    to_group: Option<String>,
    /// Into this namespace, to the same addresses there
    #[arg(long, value_name = "NAMESPACE")]
    into: Option<String>,
    /// Space for the namespace's streams if they are made [default: 64MiB]
    #[arg(long, value_name = "SIZE", requires = "into")]
    space: Option<ByteSize>,
    /// Most copies per second [default: 500]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; make the namespace's streams if it has none
    #[arg(long, short)]
    yes: bool,
}

/// Prints, or has copies made.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| history::since(text, now)).transpose();
    let (since, until) = (moment(&args.since)?, moment(&args.until)?);
    if args.to_group.is_none() && args.into.is_none() {
        return own::run(global, args, since.as_deref(), until.as_deref()).await;
    }
    copies::run(global, args, since, until).await
}
