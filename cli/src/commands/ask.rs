//! `agentbus ask`: an event that wants a reply, through the sidecar like any agent's, and the reply on stdout.

use std::io::{self, IsTerminal};

use agentbus_proto::event::v1::Event;
use agentbus_proto::json::content::JSON;
use agentbus_proto::json::{AnswerJson, EventJson};
use agentbus_proto::sidecar::v1::AskRequest;
use agentbus_proto::{Address, Code, Fault, duration};
use tonic::Request;

use super::publish::input;
use crate::exit::fault;
use crate::instance::Global;
use crate::output;

/// Send an event and wait for its reply
///
/// Prints the data of the reply. Ends with 69 at once when nobody serves the address, with 124 when no final reply came in time,
/// with 1 when the agent replied that it cannot do it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus ask @reviewer 'is this fine?'\n  agentbus ask @reviewer @draft.md --timeout 2m --stream\n  echo '{\"n\":1}' | agentbus ask sums.wanted - --json"
)]
pub struct Args {
    /// Address: @agent, @pool, or a topic such as sums.wanted
    pub to: String,
    /// The data: text, - for stdin, @FILE for a file
    #[arg(allow_hyphen_values = true)]
    pub data: Option<String>,
    /// Longest wait for the final reply, at most 1h
    #[arg(long, default_value = "30s", value_name = "DURATION", allow_hyphen_values = true)]
    pub timeout: String,
    /// Print each piece of the reply as it comes; with --json one line for each
    #[arg(long)]
    pub stream: bool,
    /// Event type [default: the topic]
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Id; asking again with the same one within 60 s gets the same reply [default: a new one]
    #[arg(long)]
    pub id: Option<String>,
    /// Media type [default: application/json if the data is JSON, else text/plain or application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// A label; may be given several times
    #[arg(long = "attr", value_name = "KEY=VALUE", value_parser = super::publish::attribute)]
    pub attributes: Vec<(String, String)>,
    /// Id of the first event of the chain it belongs to
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
}

/// Asks and prints.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let mut request = Request::new(request(args).await?);
    if let Some(parent) = std::env::var("TRACEPARENT").ok().and_then(|parent| parent.parse().ok()) {
        request.metadata_mut().insert("traceparent", parent);
    }
    let mut client = global.client().await?;
    let mut replies = client.ask(request).await.map_err(Fault::from)?.into_inner();
    let mut heard: Vec<Event> = Vec::new();
    // The stream ends behind the final reply; a reply that says no is also the stream's error.
    while let Some(answer) = replies.message().await.map_err(Fault::from)? {
        let event = answer.reply.unwrap_or_default();
        if event.reply.as_ref().is_some_and(|reply| reply.index == 0) && !heard.is_empty() {
            heard.clear();
            if args.stream {
                output::say("the answer begins anew: whoever gave it had to be replaced, or to try again");
            }
        }
        if args.stream {
            piece(global, &event, answer.r#final)?;
        }
        heard.push(event);
    }
    if heard.is_empty() {
        return Err(fault(Code::OutcomeUnknown, "the sidecar ended the stream without a reply"));
    }
    if args.stream { Ok(()) } else { whole(global, heard) }
}

async fn request(args: &Args) -> anyhow::Result<AskRequest> {
    let to: Address = args.to.parse()?;
    let timeout =
        duration::parse(&args.timeout).map_err(|error| fault(Code::InvalidEvent, format!("--timeout: {error}")))?;
    let data = input::data(args.data.as_deref()).await?;
    let content_type = match &args.content_type {
        Some(given) => {
            input::check(given, &data)?;
            given.clone()
        }
        None => input::guess(&data).to_owned(),
    };
    let event = Event {
        id: args.id.clone().unwrap_or_default(),
        to: Some(to.into()),
        r#type: args.event_type.clone().unwrap_or_default(),
        correlation_id: args.correlation_id.clone().unwrap_or_default(),
        attributes: args.attributes.iter().cloned().collect(),
        content_type,
        data,
        ..Event::default()
    };
    Ok(AskRequest { event: Some(event), timeout: Some(duration::to_proto(timeout)) })
}

fn piece(global: &Global, event: &Event, last: bool) -> anyhow::Result<()> {
    if global.json {
        return output::json_line(&AnswerJson { reply: EventJson::from(event), r#final: last, before: Vec::new() });
    }
    Ok(output::bytes(&for_reader(printed(event, last), io::stdout().is_terminal()))?)
}

/// What is printed of one piece: JSON on a line of its own, anything else as it is, and a line end behind the last.
fn printed(event: &Event, last: bool) -> Vec<u8> {
    let mut data = event.data.to_vec();
    let json = event.content_type.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case(JSON));
    let text = json || event.content_type.starts_with("text/");
    if (json || last && text) && !data.ends_with(b"\n") {
        data.push(b'\n');
    }
    data
}

/// A program gets the reply byte for byte; a terminal must not be controlled by it.
fn for_reader(data: Vec<u8>, terminal: bool) -> Vec<u8> {
    if terminal { output::printable_lines(&String::from_utf8_lossy(&data)).into_bytes() } else { data }
}

fn whole(global: &Global, mut heard: Vec<Event>) -> anyhow::Result<()> {
    if !global.json {
        let count = heard.len();
        let data = heard.iter().enumerate().flat_map(|(at, event)| printed(event, at + 1 == count));
        return Ok(output::bytes(&for_reader(data.collect(), io::stdout().is_terminal()))?);
    }
    let Some(last) = heard.pop() else { return Ok(()) };
    let before = heard.iter().map(EventJson::from).collect();
    output::json_line(&AnswerJson { reply: EventJson::from(&last), r#final: true, before })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_controls_no_terminal_and_reaches_a_program_whole() {
        let evil = b"red\x1b[2J\n\xff".to_vec();
        assert_eq!(for_reader(evil.clone(), false), evil);
        assert_eq!(for_reader(evil, true), "red\\u{1b}[2J\n\u{fffd}".as_bytes());
    }

    #[test]
    fn pieces_of_text_are_joined_and_json_has_lines() {
        let check = |content_type: &str, data: &'static str, last: bool, wanted: &str| {
            let event = Event { content_type: content_type.into(), data: data.into(), ..Event::default() };
            assert_eq!(printed(&event, last), wanted.as_bytes(), "{content_type} {data}");
        };
        check("text/plain", "wo", false, "wo");
        check("text/plain", "rd", true, "rd\n");
        check("text/plain", "line\n", true, "line\n");
        check("application/json", "{}", false, "{}\n");
        check("application/octet-stream", "\u{1}", true, "\u{1}");
        check("", "", true, "");
    }
}
