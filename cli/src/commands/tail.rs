//! `agentbus tail`: looks at the event stream and takes nothing: no group, no ack, no trace left on the broker.
//!
//! An ordered consumer of its own, made and dropped with the command. It sees all events of the namespace, whoever they are for.

use std::time::{Duration, Instant};

use agentbus_nats::pattern;
use agentbus_proto::event::v1::Event;
use agentbus_proto::json::event_to_json;
use agentbus_proto::{Code, Fault};
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, pull};
use async_nats::jetstream::{Message, stream::Stream};
use futures_util::StreamExt;
use prost::Message as _;
use serde_json::json;

use crate::broker::{Access, Broker};
use crate::instance::Global;
use crate::output::{self, Paint};
use crate::{probe, show};

/// Errors of the stream in a row after which something is really wrong; each stands for several seconds of trying.
const ERRORS_MAX: u32 = 10;

/// How often it is looked whether the bus is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// `up` has a broker that died back within seconds.
const SILENT_MAX: Duration = Duration::from_secs(15);

/// Watch events go by without taking them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus tail\n  agentbus tail 'notes.>' --last 20\n  agentbus tail --last 100 --no-follow --json | jq .event.id"
)]
pub struct Args {
    /// Topics; * stands for one token, > at the end for the rest [default: everything]
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Begin with this many of the events that are there already
    #[arg(long, short = 'n', default_value_t = 0, value_name = "N")]
    pub last: u64,
    /// End after the events that are there already
    #[arg(long)]
    pub no_follow: bool,
}

/// Prints until Ctrl-C, or until the end with `--no-follow`.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let access = Access::find(global)?;
    let filters = if args.patterns.is_empty() {
        vec![format!("ab.{}.>", access.namespace)]
    } else {
        pattern::filters(&access.namespace, &args.patterns)?
    };
    let broker = access.connect("tail").await?;
    let (consumer, skip, count) = begin(&broker, filters, args.last).await?;
    if args.no_follow && count == 0 {
        return Ok(());
    }
    let mut stop = std::pin::pin!(agentbus_runtime::drain::signals()?);
    let mut messages = consumer.messages().await.map_err(|error| refused(&error))?;
    let (mut seen, mut errors) = (0_u64, 0);
    let paint = Paint::stdout();
    if !args.no_follow {
        let what = if args.patterns.is_empty() { "everything".to_owned() } else { args.patterns.join(" ") };
        output::say(format!("watching {what}; Ctrl-C ends"));
    }
    let mut gone = std::pin::pin!(gone(global, &access.url));
    loop {
        // A message that loses against the signal is one that nobody waits for.
        let message = tokio::select! {
            message = messages.next() => message,
            _ = &mut stop => return Ok(()),
            why = &mut gone => return Err(why.into()),
        };
        match message {
            None => return Err(Fault::new(Code::BrokerDown, "the event stream ended").into()),
            Some(Ok(message)) => {
                errors = 0;
                seen += 1;
                if seen > skip {
                    print(global, &message, paint)?;
                }
                if args.no_follow && seen >= count {
                    return Ok(());
                }
            }
            Some(Err(error)) => {
                errors += 1;
                if errors >= ERRORS_MAX {
                    return Err(refused(&error).into());
                }
                output::say(format!("interrupted, trying on: {error}"));
            }
        }
    }
}

/// Resolves when there is nothing to wait for any more: the bus has stopped, or its broker has been silent for 15 s. A broker that
/// is started again meanwhile is no reason; the consumer goes on by itself.
async fn gone(global: &Global, url: &str) -> Fault {
    // With NATS_URL there is no state folder to look at, and perhaps no single server to ask.
    let Ok(instance) = global.instance() else { return std::future::pending().await };
    let mut silent: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !global.instance().is_ok_and(|now| now.pid == instance.pid) {
            return Fault::new(Code::BrokerDown, "the bus has stopped; `agentbus up -d` starts it");
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

/// A consumer that begins at most `last` matching events before the end: (consumer, how many of its first events to skip, how many
/// there are now). The events are counted by the broker, over a stretch that grows until it holds enough.
async fn begin(
    broker: &Broker,
    filters: Vec<String>,
    last: u64,
) -> anyhow::Result<(Consumer<pull::OrderedConfig>, u64, u64)> {
    let name = broker.names.events();
    let stream = broker.jetstream.get_stream(&name).await.map_err(|error| refused(&error))?;
    let state = stream.cached_info().state.clone();
    if last == 0 {
        return Ok((consumer(&stream, filters, DeliverPolicy::New).await?, 0, 0));
    }
    let mut stretch = last;
    loop {
        let start = (state.last_sequence + 1).saturating_sub(stretch).max(state.first_sequence).max(1);
        let policy = DeliverPolicy::ByStartSequence { start_sequence: start };
        let consumer = consumer(&stream, filters.clone(), policy).await?;
        let count = consumer.cached_info().num_pending;
        if count >= last || start <= state.first_sequence.max(1) {
            return Ok((consumer, count.saturating_sub(last), count));
        }
        stretch = stretch.saturating_mul(8);
    }
}

async fn consumer(
    stream: &Stream,
    filter_subjects: Vec<String>,
    deliver_policy: DeliverPolicy,
) -> Result<Consumer<pull::OrderedConfig>, Fault> {
    let config = pull::OrderedConfig { filter_subjects, deliver_policy, ..Default::default() };
    stream.create_consumer(config).await.map_err(|error| refused(&error))
}

fn print(global: &Global, message: &Message, paint: Paint) -> anyhow::Result<()> {
    let (name, seq) = message.info().map(|info| (info.stream.to_owned(), info.stream_sequence)).unwrap_or_default();
    match Event::decode(message.payload.clone()) {
        Ok(event) if global.json => {
            output::json_line(&json!({"stream": name, "seq": seq, "event": event_to_json(&event)}))
        }
        Ok(event) => Ok(output::line(show::line(&event, paint))?),
        Err(error) if global.json => {
            output::json_line(&json!({"stream": name, "seq": seq, "undecodable": error.to_string()}))
        }
        Err(_) => {
            let text =
                format!("seq {seq} is no event: <{} bytes> {}", message.payload.len(), show::hex(&message.payload));
            Ok(output::line(paint.red(text))?)
        }
    }
}

fn refused(error: &dyn std::error::Error) -> Fault {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Fault::new(Code::BrokerDown, format!("cannot read the event stream: {error}{cause}"))
}
