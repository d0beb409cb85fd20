//! To a group or into a sandbox: the control plane copies, part by part; this asks for the parts and counts.

use std::collections::BTreeMap;

use agentbus_control_plane::replay::{Report, Request, Skipped};
use agentbus_proto::Code;
use serde::Serialize;

use super::Args;
use crate::control::Api;
use crate::exit::{Silent, fault};
use crate::instance::Global;
use crate::output;
use crate::progress::Progress;

/// What a whole run came to.
#[derive(Debug, Default, Serialize)]
struct Tally {
    run: String,
    dry_run: bool,
    created: bool,
    copied: u64,
    skipped: BTreeMap<Skipped, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    /// Where to go on after it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

pub(super) async fn run(
    global: &Global,
    args: &Args,
    since: Option<String>,
    until: Option<String>,
) -> anyhow::Result<()> {
    let api = global.control()?;
    let request = Request {
        patterns: args.patterns.clone(),
        from_seq: args.from_seq,
        since,
        to_seq: args.to_seq,
        until,
        to_group: args.to_group.clone(),
        into: args.into.clone(),
        create: args.yes,
        space_bytes: args.space.map(|space| space.0),
        speed: f64::from(args.speed),
        rate: args.rate,
        dry_run: args.dry_run,
        ..Request::default()
    };
    if !args.dry_run && !args.yes && !agreed(&api, &request).await? {
        output::say("nothing was copied");
        return Err(Silent(1).into());
    }
    let tally = walk(&api, request).await?;
    if global.json {
        output::json(&tally)?;
    } else {
        output::line(text(args, &tally))?;
    }
    match tally.stopped {
        None => Ok(()),
        Some(why) => {
            let from = tally.next.map(|next| format!("; go on with --from-seq {next}")).unwrap_or_default();
            Err(fault(Code::BrokerDown, format!("stopped after {}: {why}{from}", tally.copied)))
        }
    }
}

/// Asks first; how many is found by a dry run.
async fn agreed(api: &Api, request: &Request) -> anyhow::Result<bool> {
    let would = walk(api, Request { dry_run: true, ..request.clone() }).await?.copied;
    let place = match (&request.to_group, &request.into) {
        (Some(group), _) => format!("to group `{group}`"),
        (_, Some(into)) => format!("into namespace `{into}`"),
        _ => String::new(),
    };
    Ok(output::confirm(&format!("copy {} {place}?", output::count(would, "event", "events")), true)?)
}

async fn walk(api: &Api, mut request: Request) -> anyhow::Result<Tally> {
    let mut tally = Tally { dry_run: request.dry_run, ..Tally::default() };
    let what = if request.dry_run { "counting events" } else { "copying" };
    let mut progress = Progress::new(what);
    loop {
        // A part with its original pauses takes as long as it took.
        let report: Report = progress.during(api.post("/v1/replay", &request)).await?;
        tally.run.clone_from(&report.run);
        tally.created |= report.created;
        tally.copied += report.copied;
        for (why, count) in report.skipped {
            *tally.skipped.entry(why).or_default() += count;
        }
        progress.at(format!("{} so far", output::count(tally.copied, "event", "events")));
        if report.stopped.is_some() || report.next.is_none() {
            (tally.stopped, tally.next) = (report.stopped, report.next);
            return Ok(tally);
        }
        (request.from_seq, request.to_seq) = (report.next, Some(report.to_seq));
        (request.run, request.clock) = (Some(report.run), report.clock);
    }
}

fn text(args: &Args, tally: &Tally) -> String {
    let verb = if tally.dry_run { "would be copied" } else { "copied" };
    let events = output::count(tally.copied, "event", "events");
    let place = match (&args.to_group, &args.into) {
        (Some(group), _) => format!("to group {group}"),
        (_, into) => format!("into namespace {}", into.as_deref().unwrap_or_default()),
    };
    let skipped: Vec<String> = tally.skipped.iter().map(|(why, count)| format!("{count} {}", why.as_str())).collect();
    let skipped = if skipped.is_empty() { String::new() } else { format!("; left out: {}", skipped.join(", ")) };
    let made = if tally.created { "; its streams were made" } else { "" };
    format!("{events} {verb} {place}{skipped}{made}")
}
