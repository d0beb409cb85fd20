//! `agentbus publish`: sends an event, or one per line of stdin, through the sidecar like any agent does.
//!
//! The id is fixed before the first send, so that after an unknown outcome the very same event can be sent again.

pub(super) mod input;
mod later;

use agentbus_proto::event::v1::{DeliveryOptions, Event, Priority};
use agentbus_proto::json::PublishAnswerJson;
use agentbus_proto::sidecar::v1::PublishRequest;
use agentbus_proto::{Address, Code, Fault, duration};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::stream;
use tokio::io::BufReader;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::client::Client;
use crate::control::Api;
use crate::exit::{self, Silent, fault};
use crate::instance::Global;
use crate::output;

/// Lines on their way at once.
const LINES_IN_FLIGHT_MAX: usize = 256;

/// Send an event
///
/// Prints where it is stored. The answer comes when the broker has it on disk; after OUTCOME_UNKNOWN (exit code 124) sending again
/// with the same --id is safe.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus publish notes.created '{\"text\":\"hello\"}'\n  agentbus publish @reviewer 'have a look'\n  agentbus publish '#all' hello\n  echo hello | agentbus publish notes.created -\n  agentbus publish files.new @photo.jpg --type file.new.v1 --ttl 1h\n  agentbus publish reports.wanted now --cron '0 9 * * 1-5' --time-zone Europe/Berlin\n  cat events.ndjson | agentbus publish notes.created --lines\n  agentbus publish --legacy @message.json"
)]
pub struct Args {
    /// Address: a topic such as notes.created, @AGENT, @POOL, '#CHANNEL' or '#all'
    #[arg(required_unless_present = "legacy")]
    pub to: Option<String>,
    /// The data: text, - for stdin, @FILE for a file
    #[arg(allow_hyphen_values = true)]
    pub data: Option<String>,
    /// Send a message of the older format, which says everything itself: JSON, - for stdin, @FILE for a file
    #[arg(long, value_name = "MESSAGE", conflicts_with_all = [
        "to", "data", "lines", "event_type", "id", "ttl", "content_type", "attributes", "correlation_id", "priority",
        "key", "receipt", "park", "at", "after", "cron",
    ])]
    pub legacy: Option<String>,
    /// One event for each line of stdin
    #[arg(long, conflicts_with_all = ["data", "id"])]
    pub lines: bool,
    /// Event type [default: the topic]
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Id, to make sending again safe [default: a new one]
    #[arg(long)]
    pub id: Option<String>,
    /// Nobody is given it after this time: 30s, 1h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub ttl: Option<String>,
    /// Media type [default: application/json if the data is JSON, else text/plain or application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// A label; may be given several times
    #[arg(long = "attr", value_name = "KEY=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// Id of the first event of the chain it belongs to
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    /// Lane: handed out 8:4:1 where a group splits its lanes
    #[arg(long, value_enum)]
    pub priority: Option<Lane>,
    /// Events with the same key keep their order
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Have it written down who acks it, and when; `events show` tells
    #[arg(long)]
    pub receipt: bool,
    /// Store it even if nobody has declared the agent or pool; it is delivered once somebody does
    #[arg(long)]
    pub park: bool,
    /// Publish it later, or again and again.
    #[command(flatten)]
    pub later: later::Later,
}

/// Priority of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lane {
    /// Background work
    Low,
    /// The default
    Normal,
    /// Urgent work
    High,
}

/// Publishes and prints the answers.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    if let Some(message) = &args.legacy {
        return legacy(global, message).await;
    }
    let template = template(args)?;
    let mut client = if args.lines {
        return lines(global, args, template).await;
    } else {
        global.client().await?
    };
    let data = input::data(args.data.as_deref()).await?;
    let request = request(&template, args, data)?;
    if let Some(when) = args.later.when()? {
        return later::schedule(global, &mut client, request, when).await;
    }
    let id = request.event.as_ref().map(|event| event.id.clone()).unwrap_or_default();
    let answer = client.publish(request).await.map_err(Fault::from).map_err(|fault| resend_hint(fault, &id))?;
    print(global, &answer.into_inner().try_into()?)
}

/// Sends a message as it is: what it means is the sidecar's business.
async fn legacy(global: &Global, message: &str) -> anyhow::Result<()> {
    let message = input::data(Some(message)).await?;
    let door = global.door()?;
    print(global, &Api::sidecar(&door.url, &door.token).post_bytes("/v1/messages", message).await?)
}

fn resend_hint(mut fault: Fault, id: &str) -> Fault {
    if fault.code == Code::OutcomeUnknown {
        fault.message.push_str(&format!(" (--id {id})"));
    }
    fault
}

/// Feeds lines and prints answers at the same time; a refused line does not stop the others, the first refusal decides the exit code.
async fn lines(global: &Global, args: &Args, template: Event) -> anyhow::Result<()> {
    let mut client = global.client().await?;
    let (tx, rx) = mpsc::channel::<PublishRequest>(LINES_IN_FLIGHT_MAX);
    let requests = stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|request| (request, rx)) });
    let feed = async {
        let mut stdin = BufReader::new(tokio::io::stdin());
        let (mut number, mut bad) = (0, None);
        while let Some(line) = input::next_line(&mut stdin).await? {
            number += 1;
            let request = match request(&template, args, line) {
                Ok(request) => PublishRequest { r#ref: number, ..request },
                Err(error) => {
                    complain(global, number, &error);
                    bad.get_or_insert(error.context(format!("line {number} was not sent")));
                    continue;
                }
            };
            if tx.send(request).await.is_err() {
                break;
            }
        }
        drop(tx);
        anyhow::Ok(bad)
    };
    let answers = answers(&mut client, requests, global);
    // Both run to their end; the feed ends early when nobody takes its lines any more.
    let (fed, refused) = tokio::join!(feed, answers);
    let refused = refused?.map(anyhow::Error::from);
    match fed?.or(refused) {
        None => Ok(()),
        // Each line's problem has been printed; one more object would be one too many.
        Some(error) if global.json => Err(Silent(exit::code(&error)).into()),
        Some(error) => Err(error),
    }
}

/// Says what is wrong with a line: as text, or as a problem object with the line's number.
fn complain(global: &Global, number: u64, error: &anyhow::Error) {
    if global.json {
        let mut problem = exit::problem(error);
        problem["line"] = number.into();
        problem["detail"] = format!("line {number}: {}", problem["detail"].as_str().unwrap_or_default()).into();
        output::say_json(&problem);
    } else {
        output::say(format!("line {number}: {error:#}"));
    }
}

async fn answers(
    client: &mut Client,
    requests: impl futures_util::Stream<Item = PublishRequest> + Send + 'static,
    global: &Global,
) -> anyhow::Result<Option<Fault>> {
    let mut answers = client.publish_stream(requests).await.map_err(Fault::from)?.into_inner();
    let mut refused = None;
    while let Some(answer) = answers.message().await.map_err(Fault::from)? {
        let number = answer.r#ref;
        if let Some(failure) = answer.failure.clone() {
            let fault = Fault::from(failure);
            complain(global, number, &fault.clone().into());
            refused.get_or_insert_with(|| {
                Fault::new(fault.code, format!("line {number} was not stored: {}", fault.message))
            });
        } else {
            print(global, &answer.try_into()?)?;
        }
    }
    Ok(refused)
}

fn print(global: &Global, answer: &PublishAnswerJson) -> anyhow::Result<()> {
    if global.json {
        return output::json_line(answer);
    }
    let seq = answer.seq.map(|seq| format!(" seq {seq}")).unwrap_or_default();
    let place = if answer.stream.is_empty() { answer.stored.clone() } else { format!("{}{seq}", answer.stream) };
    let again = if answer.duplicate == Some(true) { " (stored before: nothing added)" } else { "" };
    Ok(output::line(format!("{} {place}{again}", answer.id))?)
}

/// Everything but id and data.
fn template(args: &Args) -> anyhow::Result<Event> {
    let to: Address = args.to.as_deref().unwrap_or_default().parse()?;
    if let Some(ttl) = &args.ttl {
        duration::parse(ttl).map_err(|error| fault(Code::InvalidEvent, format!("--ttl: {error}")))?;
    }
    let priority = match args.priority {
        None => Priority::Unspecified,
        Some(Lane::Low) => Priority::Low,
        Some(Lane::Normal) => Priority::Normal,
        Some(Lane::High) => Priority::High,
    };
    Ok(Event {
        to: Some(to.into()),
        r#type: args.event_type.clone().unwrap_or_default(),
        correlation_id: args.correlation_id.clone().unwrap_or_default(),
        priority: priority.into(),
        ordering_key: args.key.clone().unwrap_or_default(),
        attributes: args.attributes.iter().cloned().collect(),
        delivery: args.receipt.then(|| DeliveryOptions { receipt: true, ..DeliveryOptions::default() }),
        ..Event::default()
    })
}

fn request(template: &Event, args: &Args, data: Bytes) -> anyhow::Result<PublishRequest> {
    let ttl = args.ttl.as_deref().map(duration::parse).transpose()?.map(duration::to_proto);
    let content_type = match &args.content_type {
        Some(given) => {
            input::check(given, &data)?;
            given.clone()
        }
        None => input::guess(&data).to_owned(),
    };
    let id = args.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let event = Event { id, content_type, data, ..template.clone() };
    Ok(PublishRequest { event: Some(event), ttl, r#ref: 0, park: args.park })
}

pub(super) fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_pairs() {
        assert_eq!(attribute("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(attribute("a").is_err() && attribute("=b").is_err());
    }
}
