//! `agentbus decode`: an event's bytes as text. Made for `nats stream view --translate "agentbus decode"`.

use std::io::Read;
use std::path::PathBuf;

use agentbus_proto::Code;
use agentbus_proto::event::v1::Event;
use agentbus_proto::json::EventJson;
use anyhow::Context;
use prost::Message;
use serde_json::{Value, json};

use crate::exit::fault;
use crate::instance::Global;
use crate::output;
use crate::show;

/// Most bytes read: far above the largest event.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Show a protobuf event as text
///
/// Reads one encoded `agentbus.event.v1.Event` from FILE or stdin.
///
/// What is no event is shown as hex, with exit code 65; JSON (the facts of the audit stream) is passed through.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  nats stream view AB_default_EVENTS --translate \"agentbus decode\"")]
pub struct Args {
    /// File to read [default: stdin]
    pub file: Option<PathBuf>,
}

/// Prints the event.
pub fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let input = read(args)?;
    match decode(&input) {
        Ok(event) if global.json => output::json(&EventJson::from(&event)),
        Ok(event) => {
            for line in show::block(&event) {
                output::line(line)?;
            }
            Ok(())
        }
        Err(_) if serde_json::from_slice::<Value>(&input).is_ok_and(|value| value.is_object()) => {
            Ok(output::bytes(output::escaped(&String::from_utf8_lossy(&input)).as_bytes())?)
        }
        Err(why) => {
            if global.json {
                let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                output::json(&json!({"hex": hex}))?;
            } else {
                output::line(format!("<{} bytes> {}", input.len(), show::hex(&input)))?;
            }
            Err(fault(Code::InvalidEvent, format!("not an agentbus event: {why}; shown as hex")))
        }
    }
}

fn read(args: &Args) -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    match &args.file {
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| fault(Code::InvalidEvent, format!("cannot read `{}`: {error}", path.display())))?;
            file.take(INPUT_BYTES_MAX)
                .read_to_end(&mut input)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
        }
        None => {
            std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut input).context("cannot read stdin")?;
        }
    }
    Ok(input)
}

/// Any bytes that happen to parse are not yet an event: it must name itself and where it goes.
fn decode(input: &[u8]) -> Result<Event, String> {
    let event = Event::decode(input).map_err(|error| error.to_string())?;
    if event.id.is_empty() && event.to.is_none() {
        return Err("it has neither an id nor an address".to_owned());
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_are_events() {
        let event = Event { id: "x".into(), ..Event::default() };
        assert_eq!(decode(&event.encode_to_vec()), Ok(event));
        for bad in [&b""[..], b"hello", b"\xff\xff", b"{\"a\":1}"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }
}
