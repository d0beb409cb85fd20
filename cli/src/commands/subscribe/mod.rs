//! `agentbus subscribe`: takes events like an agent does, prints each, then acks it.
//!
//! Printed first, acked afterwards: when the reader of our stdout goes away, what it did not get is delivered again.

mod past;
mod session;

use std::time::SystemTime;

use agentbus_proto::sidecar::v1::Delivery;

use crate::filter;
use crate::history;
use crate::instance::Global;
use crate::output::{self, Paint};
use crate::show;

use session::{Ended, Session};

/// Most deliveries unsettled at once, by default: a person reads; ten keep the pipe full.
const CREDIT_DEFAULT: u32 = 10;
/// Take events and print them, one line each (acks them)
///
/// Without a pattern: what is sent to you (@me) and to everybody (#all).
/// Starts at the end of the stream the first time; a group goes on where it was the next time. Members of one group share its events.
/// To look without taking, use `agentbus tail`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = format!("{}\n\nExamples:\n  agentbus subscribe 'notes.>'\n  agentbus subscribe '#engineering'\n  agentbus subscribe notes.created --group readers --max 10 --json\n  agentbus subscribe 'notes.>' --since 10m --where 'data.ok = false'", filter::HELP)
)]
pub struct Args {
    /// Topics (* stands for one token, > at the end for the rest) and '#CHANNEL's [default: what is sent to you]
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Group to take part in [default: one of your own for these patterns]
    #[arg(long)]
    pub group: Option<String>,
    /// Only events of these types; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// One event at a time, in the order in which they were stored
    #[arg(long, conflicts_with_all = ["by_key", "split_lanes"])]
    pub ordered: bool,
    /// In order within each ordering key
    #[arg(long, conflicts_with = "split_lanes")]
    pub by_key: bool,
    /// Weigh high, normal and low priority 8:4:1
    #[arg(long)]
    pub split_lanes: bool,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,
    /// Most events on hand at once
    #[arg(long, default_value_t = CREDIT_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub credit: u32,
    /// Only print events for which this holds, see below; the others are taken all the same, and acked
    #[arg(long = "where", value_name = "FILTER")]
    pub filter: Option<String>,
    /// First print what was stored since then: 10m, 2h, or 2026-11-20T10:00:00Z. That only looks; what the group had still to
    /// get of it is not printed twice
    #[arg(long, value_name = "TIME", requires = "patterns")]
    pub since: Option<String>,
    /// Answer "not now" instead of ack: it is retried, then a dead letter
    #[arg(long, conflicts_with = "reject")]
    pub nack: bool,
    /// Answer "never" instead of ack: it becomes a dead letter at once
    #[arg(long)]
    pub reject: bool,
    /// The reason given with --nack or --reject
    #[arg(long, default_value = "on the command line", value_name = "TEXT")]
    pub reason: String,
}

/// Takes events until `--max` or Ctrl-C; outlives a sidecar that is replaced.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let own = || if args.patterns.is_empty() { String::new() } else { own_group(&args.patterns) };
    let group = args.group.clone().unwrap_or_else(own);
    let mut stop = std::pin::pin!(agentbus_runtime::drain::signals()?);
    let mut session = Session::new(global, args)?;
    let past = args.since.as_deref().map(|since| history::since(since, SystemTime::now())).transpose()?;
    let mut answers = session.open(&group).await?;
    output::say(match (args.patterns.join(" "), group.as_str()) {
        (_, "") => "waiting for what is sent to you; Ctrl-C ends".to_owned(),
        (patterns, _) if patterns.is_empty() => format!("waiting for what group {group} reads; Ctrl-C ends"),
        (patterns, _) => format!("waiting for {patterns} as group {group}; Ctrl-C ends"),
    });
    if let Some(since) = past
        && session.look_back(since).await?
    {
        return session.finish(answers).await;
    }
    loop {
        match session.serve(&mut answers, stop.as_mut()).await {
            Ok(()) => return session.finish(answers).await,
            Err(Ended::For(error)) => return Err(error),
            Err(Ended::ForNow(why)) => output::say(format!("{why}; what was not acked comes again; connecting again")),
        }
        answers = session.again(&group).await?;
    }
}

/// A delivery as a line: the event, and what is special about this delivery.
pub fn text(delivery: &Delivery, paint: Paint) -> String {
    let event = delivery.event.clone().unwrap_or_default();
    let mut line = show::line(&event, paint);
    if delivery.attempt > 1 {
        let failure = output::printable(&delivery.last_failure);
        let because = if failure.is_empty() { String::new() } else { format!(": {failure}") };
        line.push_str(&paint.yellow(format!(" (attempt {} of {}{because})", delivery.attempt, delivery.max_attempts)));
    }
    line
}

/// A group for a person who named none: the same patterns go on where they were.
pub fn own_group(patterns: &[String]) -> String {
    let mut sorted: Vec<&str> = patterns.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    // FNV-1a: no secret, only a short name.
    let hash =
        sorted.join(" ").bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    format!("me-{hash:08x}")
}

#[cfg(test)]
mod tests {
    use agentbus_proto::event::v1::Event;

    use super::*;

    #[test]
    fn the_same_patterns_are_the_same_group() {
        let group = |patterns: &[&str]| own_group(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(group(&["a", "b"]), group(&["b", "a", "a"]));
        assert_ne!(group(&["a"]), group(&["b"]));
        assert_eq!(group(&["a"]).len(), "me-".len() + 8);
    }

    #[test]
    fn a_retry_says_so() {
        let delivery = Delivery {
            event: Some(Event::default()),
            attempt: 2,
            max_attempts: 4,
            last_failure: "exit 1".into(),
            ..Delivery::default()
        };
        assert!(text(&delivery, Paint::default()).ends_with(" (attempt 2 of 4: exit 1)"));
    }
}
