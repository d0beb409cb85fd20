//! `agentbus dlq show`: everything about one dead letter.

use std::time::SystemTime;

use agentbus_control_plane::dead_letters::{REDRIVES_MAX, Shown};
use agentbus_nats::{headers, schedule};
use agentbus_proto::event::v1::Event;
use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;

use crate::instance::Global;
use crate::output::{self, printable};
use crate::show;

/// Show one dead letter with its event
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus dlq show 12\n  agentbus dlq show 12 --json | jq .event")]
pub struct Args {
    /// Its number, from `dlq list`
    #[arg(value_parser = super::number)]
    seq: u64,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let shown: Shown = global.control()?.get(&format!("/v1/dead-letters/{}", args.seq)).await?;
    if global.json {
        return output::json(&shown);
    }
    for (name, value) in fields(&shown) {
        if !value.is_empty() {
            output::line(format!("{name:<13} {}", printable(&value)))?;
        }
    }
    output::line("")?;
    let payload = Bytes::from(STANDARD.decode(&shown.payload_base64)?);
    match Event::decode(event(&shown, &payload)).ok().filter(|_| shown.event.is_some()) {
        Some(event) => {
            for line in show::block(&event) {
                output::line(line)?;
            }
        }
        None => output::line(format!("no event: <{} bytes> {}", payload.len(), show::hex(&payload)))?,
    }
    let again = if shown.letter.redriven.is_some() { "send it once more" } else { "send it again" };
    let force = if shown.letter.redriven.is_some() || shown.letter.unfinished.is_some() || looped(&shown) {
        " --force"
    } else {
        ""
    };
    output::say(format!("{again}: agentbus dlq redrive {}{force}", args.seq));
    Ok(())
}

/// The encoded event under the id its group knew: one that a schedule fired has an id of its own, told by a header.
fn event(shown: &Shown, payload: &Bytes) -> Bytes {
    let mut carried = HeaderMap::new();
    for name in [headers::OCCURRENCE, headers::TTL] {
        if let Some(value) = shown.headers.get(name) {
            carried.insert(name, value.as_str());
        }
    }
    schedule::event(&carried, "", SystemTime::UNIX_EPOCH, payload)
}

/// The loop guard would refuse it.
fn looped(shown: &Shown) -> bool {
    shown.letter.redrives >= REDRIVES_MAX
}

fn fields(shown: &Shown) -> Vec<(&'static str, String)> {
    let letter = &shown.letter;
    let origin =
        letter.origin.as_ref().map(|origin| format!("{} seq {}", origin.stream, origin.seq)).unwrap_or_default();
    let redriven = letter.redriven.as_ref().map(|last| {
        let (at, times) = (show::moment(&last.at), output::count(last.count, "time", "times"));
        format!("{at}, {times}, to {}", last.to.as_str())
    });
    let redrives = if letter.redrives == 0 { String::new() } else { letter.redrives.to_string() };
    vec![
        ("dead letter", letter.seq.to_string()),
        ("group", letter.group.clone()),
        ("agent", letter.agent.clone()),
        ("class", letter.class.clone()),
        ("cause", letter.cause.clone()),
        ("attempts", letter.attempts.to_string()),
        ("first failure", show::moment(&letter.first_failure)),
        ("last failure", show::moment(&letter.last_failure)),
        ("stored at", origin),
        ("trace", shown.headers.get("traceparent").cloned().unwrap_or_default()),
        ("redriven", redriven.unwrap_or_default()),
        ("unfinished", letter.unfinished.as_deref().map(show::moment).unwrap_or_default()),
        ("came back", redrives),
    ]
}
