//! To oneself: the person's sidecar reads, this prints.

use agentbus_proto::json::event_to_json;
use agentbus_proto::sidecar::v1::{ReplayRequest, ReplayResponse, replay_request::From};
use agentbus_proto::{Code, Fault, timestamp};
use serde_json::json;

use super::Args;
use crate::exit::fault;
use crate::instance::Global;
use crate::output::{self, Paint};
use crate::show;

pub(super) async fn run(global: &Global, args: &Args, since: Option<&str>, until: Option<&str>) -> anyhow::Result<()> {
    if args.dry_run || args.rate.is_some() || args.yes {
        return Err(fault(Code::BadConfig, "--dry-run, --rate and --yes go with --to-group or --into"));
    }
    let seq = args.from_seq.map(From::Seq);
    let request = ReplayRequest {
        patterns: args.patterns.clone(),
        from: seq.or_else(|| since.and_then(timestamp::parse).map(From::Time)),
        to_seq: args.to_seq.unwrap_or_default(),
        to_time: until.and_then(timestamp::parse),
        speed: args.speed,
    };
    let mut client = global.client().await?;
    let mut events = client.replay(request).await.map_err(Fault::from)?.into_inner();
    let mut stop = std::pin::pin!(agentbus_runtime::drain::signals()?);
    let (paint, mut count) = (Paint::stdout(), 0_u64);
    loop {
        let next = tokio::select! {
            next = events.message() => next.map_err(Fault::from)?,
            _ = &mut stop => return Ok(()),
        };
        let Some(found) = next else { break };
        count += 1;
        print(global, &found, paint)?;
    }
    if count == 0 {
        output::say("no stored event matches");
    }
    Ok(())
}

fn print(global: &Global, found: &ReplayResponse, paint: Paint) -> anyhow::Result<()> {
    let event = found.event.clone().unwrap_or_default();
    if global.json {
        let stored = found.stored.as_ref().map(show::millis).unwrap_or_default();
        let (stream, seq) = (&found.stream, found.seq);
        return output::json_line(
            &json!({"stream": stream, "seq": seq, "stored_at": stored, "event": event_to_json(&event)}),
        );
    }
    let seq = paint.dim(format!("#{}", found.seq));
    Ok(output::line(format!("{seq} {}", show::line(&event, paint)))?)
}
