//! `agentbus tail`: looks at the event stream and takes nothing: no group, no ack, no trace left on the broker.
//!
//! Page by page, each from where the last one ended: whatever happens in between, nothing is left out or shown twice. It sees
//! all events of the namespace, whoever they are for.

use std::time::{Duration, Instant, SystemTime};

use agentbus_control_plane::events::{ListQuery, Listed};
use agentbus_nats::pattern;
use agentbus_proto::event::v1::Event;
use agentbus_proto::json::{EventJson, content};
use agentbus_proto::{Code, Fault};
use serde_json::json;

use crate::broker::Access;
use crate::filter::{self, Filter};
use crate::history::{self, History};
use crate::instance::Global;
use crate::output::{self, Paint};
use crate::{probe, show};

/// Errors in a row after which something is really wrong.
const ERRORS_MAX: u32 = 20;
/// Between two tries.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// How long a page waits for its first event, in milliseconds.
const WAIT_MS: u64 = 20_000;
/// Events of a page.
const PAGE: usize = 500;

/// How often it is looked whether the bus is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// `up` has a broker that died back within seconds.
const SILENT_MAX: Duration = Duration::from_secs(15);

/// Watch events go by without taking them
///
/// On a terminal, events of one chain (correlation id) have one colour.
#[derive(Debug, clap::Args)]
#[command(
    after_help = format!("{}\n\nExamples:\n  agentbus tail\n  agentbus tail 'notes.>' --last 20\n  agentbus tail --since 10m --where 'source = check AND data.ok = false'\n  agentbus tail --last 100 --no-follow --json | jq .event.id", filter::HELP)
)]
pub struct Args {
    /// Topics (* stands for one token, > at the end for the rest), @AGENT, '#CHANNEL' [default: everything]
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Begin with this many of the events that are there already; they are counted before --where
    #[arg(long, short = 'n', default_value_t = 0, value_name = "N")]
    pub last: u64,
    /// Begin with what was stored since then: 10m, 2h, or 2026-11-20T10:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    pub since: Option<String>,
    /// Only events for which this holds, see below
    #[arg(long = "where", value_name = "FILTER")]
    pub filter: Option<String>,
    /// End after the events that are there already
    #[arg(long)]
    pub no_follow: bool,
}

/// Prints until Ctrl-C, or until the end with `--no-follow`.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let wanted = args.filter.as_deref().map(Filter::parse).transpose()?;
    let url = Access::find(global)?.url;
    let history = History::find(global, "tail").await?;
    let mut query = begin(args)?;
    let mut stop = std::pin::pin!(agentbus_runtime::drain::signals()?);
    if !args.no_follow {
        let what = if args.patterns.is_empty() { "everything".to_owned() } else { args.patterns.join(" ") };
        output::say(format!("watching {what}; Ctrl-C ends"));
    }
    let mut gone = std::pin::pin!(gone(global, &url));
    let (paint, mut errors) = (Paint::stdout(), 0);
    loop {
        // A page that loses against the signal is one that nobody waits for.
        let page = tokio::select! {
            page = history.list(&query) => page,
            _ = &mut stop => return Ok(()),
            why = &mut gone => return Err(why.into()),
        };
        match page {
            Ok(page) => {
                errors = 0;
                for event in &page.events {
                    if wanted.as_ref().is_none_or(|filter| filter.matches(&event.event)) {
                        print(global, event, paint)?;
                    }
                }
                if args.no_follow && !page.more {
                    return Ok(());
                }
                query = ListQuery { from_seq: Some(page.next), since: None, last: None, ..query };
            }
            Err(fault) if !fault.code.retryable() || errors >= ERRORS_MAX => return Err(fault.into()),
            Err(fault) => {
                errors += 1;
                tracing::debug!(%fault, "no page");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

fn begin(args: &Args) -> anyhow::Result<ListQuery> {
    if !args.patterns.is_empty() {
        // Here already, so that a fault is told at once and in the words of the command.
        pattern::simplify(&args.patterns)?;
    }
    Ok(ListQuery {
        since: args.since.as_deref().map(|since| history::since(since, SystemTime::now())).transpose()?,
        last: usize::try_from(args.last).ok().filter(|last| *last > 0),
        pattern: args.patterns.join(","),
        limit: Some(PAGE),
        wait_ms: if args.no_follow { 0 } else { WAIT_MS },
        ..ListQuery::default()
    })
}

/// Resolves when there is nothing to wait for any more: the bus has stopped, or its broker has been silent for 15 s. A broker that
/// is started again meanwhile is no reason: reading goes on where it was.
async fn gone(global: &Global, url: &str) -> Fault {
    // With NATS_URL there is no state folder to look at, and perhaps no single server to ask.
    let Ok(instance) = global.instance() else { return std::future::pending().await };
    let mut silent: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !global.instance().is_ok_and(|now| now.pid == instance.pid) {
            return Fault::new(Code::BrokerDown, "the bus has stopped; `agentbus up -d` starts it");
        }
        if !url.starts_with("nats://") {
            continue;
        }
        match (probe::greets(url).await, silent) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                output::say("the broker answers again");
                silent = None;
            }
            (Err(why), None) => {
                output::say(format!("{why}; waiting for it"));
                silent = Some(Instant::now());
            }
            (Err(why), Some(since)) if since.elapsed() > SILENT_MAX => return Fault::new(Code::BrokerDown, why),
            (Err(_), Some(_)) => {}
        }
    }
}

/// One stored event as a line.
pub fn print(global: &Global, stored: &Listed, paint: Paint) -> anyhow::Result<()> {
    let Listed { stream, seq, stored_at, undecodable, payload_base64, .. } = stored;
    if global.json {
        return output::json_line(&match stored.event.is_null() {
            false => json!({"stream": stream, "seq": seq, "stored_at": stored_at, "event": stored.event}),
            true => json!({"stream": stream, "seq": seq, "stored_at": stored_at, "undecodable": undecodable}),
        });
    }
    let event = serde_json::from_value::<EventJson>(stored.event.clone()).ok();
    if let Some(event) = event.and_then(|json| Event::try_from(json).ok()) {
        return Ok(output::line(show::line(&event, paint))?);
    }
    let payload = content::from_base64(payload_base64).unwrap_or_default();
    let text = format!("seq {seq} is no event: <{} bytes> {}", payload.len(), show::hex(&payload));
    Ok(output::line(paint.red(text))?)
}
