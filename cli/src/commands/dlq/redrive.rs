//! `agentbus dlq redrive`: sends dead letters again, a page at a time, and says what became of each.

use std::collections::BTreeSet;

use agentbus_control_plane::dead_letters::{LetterResult, Outcome, Report, Request, Target};
use agentbus_proto::Code;

use super::Which;
use crate::control::Api;
use crate::exit::{Silent, exit_code, fault};
use crate::instance::Global;
use crate::output::{self, printable};
use crate::progress::Progress;

/// Most letters named in one request.
const SEQS_MAX: usize = 1000;

/// Send dead letters again
///
/// By default only the group that failed gets the event again, from attempt 1. An event that was redriven three times and failed again is
/// refused without --force: repair the cause first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus dlq redrive 12\n  agentbus dlq redrive --group check --dry-run\n  agentbus dlq redrive --all --yes --rate 10"
)]
pub struct Args {
    /// Their numbers, from `dlq list`
    #[arg(value_name = "SEQ", value_parser = super::number, conflicts_with_all = ["all", "group", "class", "event_type", "cause"])]
    seqs: Vec<u64>,
    /// All that wait for a decision
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
    /// To the original address instead: every group there gets it again
    #[arg(long)]
    to_origin: bool,
    /// Override the loop guard and the note that it was redriven already, or that a redrive of it is unfinished
    #[arg(long)]
    force: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Most letters per second [default: 100]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Default)]
struct Tally {
    sent: usize,
    refused: usize,
    failed: usize,
    /// Why they failed.
    codes: BTreeSet<String>,
    stopped: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    if args.seqs.is_empty() && !args.all && args.which.is_empty() {
        return Err(fault(Code::BadConfig, "say which: numbers, --group, --class, --type, --cause or --all"));
    }
    let api = global.control()?;
    if !args.dry_run && !args.yes && !agreed(&api, args).await? {
        output::say("nothing was sent");
        return Err(Silent(1).into());
    }
    let mut results = Vec::new();
    let tally = walk(&api, args, args.dry_run, &mut |result| {
        if global.json {
            results.push(result.clone())
        } else {
            output::line(text(result))?
        }
        Ok(())
    })
    .await?;
    if global.json {
        output::json(&results)?;
    }
    summary(args, tally)
}

/// Asks before more than one is sent; how many is found by a dry run.
async fn agreed(api: &Api, args: &Args) -> anyhow::Result<bool> {
    if args.seqs.len() == 1 {
        return Ok(true);
    }
    let would = walk(api, args, true, &mut |_| Ok(())).await?.sent;
    if would <= 1 {
        return Ok(true);
    }
    let target = if args.to_origin { "their original addresses" } else { "the groups that failed" };
    Ok(output::confirm(&format!("send {would} dead letters again, to {target}?"), true)?)
}

async fn walk(
    api: &Api,
    args: &Args,
    dry_run: bool,
    each: &mut dyn FnMut(&LetterResult) -> anyhow::Result<()>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut progress = Progress::new(if dry_run { "looking through dead letters" } else { "redriving" });
    let mut left = args.seqs.clone();
    let mut request = Request {
        to: if args.to_origin { Target::Origin } else { Target::Group },
        force: args.force,
        dry_run,
        rate: if dry_run { Some(10_000) } else { args.rate },
        ..Request::default()
    };
    if left.is_empty() {
        // With force, those that were redriven already are meant too.
        request.filter = Some(args.which.filter(args.force));
    }
    loop {
        if !left.is_empty() {
            request.seqs = Some(left.drain(..left.len().min(SEQS_MAX)).collect());
        }
        let report: Report = api.post("/v1/dead-letters/redrive", &request).await?;
        progress.clear();
        for result in &report.letters {
            tally.count(&result.outcome);
            each(result)?;
        }
        let Tally { sent, refused, failed, .. } = &tally;
        progress.at(format!("{} so far", sent + refused + failed));
        if let Some(stopped) = report.stopped {
            tally.stopped = Some(stopped);
            return Ok(tally);
        }
        left.splice(0..0, report.left);
        match report.next {
            Some(next) => (request.after, request.until) = (next, report.until),
            None if left.is_empty() => return Ok(tally),
            None => {}
        }
    }
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Redriven { .. } | Outcome::WouldRedrive { .. } => self.sent += 1,
            Outcome::Refused { .. } => self.refused += 1,
            Outcome::Failed { code, .. } => {
                self.failed += 1;
                self.codes.insert(code.clone());
            }
        }
    }
}

fn text(result: &LetterResult) -> String {
    let what = match &result.outcome {
        Outcome::Redriven { new_stream, new_seq, redrive, recorded } => {
            let note =
                if *recorded { "" } else { " (the list will show it as unfinished: that could not be recorded)" };
            format!("redriven to {new_stream} seq {new_seq}, time {redrive}{note}")
        }
        Outcome::WouldRedrive { redrive } => format!("would be redriven, time {redrive}"),
        Outcome::Refused { message, .. } => format!("refused: {}", printable(message)),
        Outcome::Failed { code, message } => format!("failed: {code}: {}", printable(message)),
    };
    format!("{} {} {} {what}", result.seq, dash(&result.group), dash(&result.event_id))
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(text) }
}

fn summary(args: &Args, tally: Tally) -> anyhow::Result<()> {
    let Tally { sent, refused, failed, codes, stopped } = tally;
    if let Some(why) = stopped {
        return Err(fault(
            Code::BrokerDown,
            format!("stopped after {sent}: {why}; the rest is as it was, run the same again"),
        ));
    }
    if sent + refused + failed == 0 {
        output::say("no dead letter matches");
        return Ok(());
    }
    let verb = if args.dry_run { "would be redriven" } else { "redriven" };
    output::say(format!("{sent} {verb}, {refused} refused, {failed} failed"));
    match refused + failed {
        0 => Ok(()),
        _ if sent + refused == 0 => Err(Silent(common_exit(&codes)).into()),
        _ => Err(Silent(1).into()),
    }
}

/// The exit code of what they all failed with; 1 for a mixture.
fn common_exit(codes: &BTreeSet<String>) -> u8 {
    let codes: BTreeSet<u8> = codes.iter().map(|code| code.parse().map_or(1, exit_code)).collect();
    match codes.into_iter().collect::<Vec<_>>()[..] {
        [one] => one,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_for_all_is_the_exit_code() {
        let exit = |codes: &[&str]| common_exit(&codes.iter().map(|code| (*code).to_owned()).collect());
        assert_eq!(exit(&["UNKNOWN_DELIVERY"]), 69);
        assert_eq!(exit(&["UNKNOWN_DELIVERY", "BROKER_DOWN"]), 1);
        assert_eq!(exit(&["SOMETHING_NEW"]), 1);
    }
}
