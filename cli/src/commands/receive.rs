//! `agentbus receive`: one long poll, as curl does it with `POST /v1/receive`.

use agentbus_proto::json::DeliveryJson;
use agentbus_proto::{Code, Fault, duration};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::subscribe::own_group;
use crate::control::Api;
use crate::exit::fault;
use crate::instance::Global;
use crate::output;

/// Wait for events once, without settling them
///
/// Prints what came, at most --max; nothing is an empty answer, not an error. With patterns it subscribes first. What is not settled
/// (with --ack, or with curl and the delivery id) is delivered again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus receive 'notes.>' --max 5 --wait 20s --json")]
pub struct Args {
    /// Topics and '#CHANNEL's to subscribe first [default: what is sent to you, and what is subscribed already]
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Only events of this group; with patterns it is subscribed as [default: one of your own for these patterns]
    #[arg(long)]
    pub group: Option<String>,
    /// Most events
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max: u32,
    /// Longest wait for the first one
    #[arg(long, default_value = "20s", value_name = "DURATION", allow_hyphen_values = true)]
    pub wait: String,
    /// Ack what was printed
    #[arg(long)]
    pub ack: bool,
    /// Print messages of the older format in the place of events
    #[arg(long)]
    pub legacy: bool,
}

/// The sidecar speaks to callers of its API; here, patterns do it.
fn hint(mut fault: Fault) -> Fault {
    fault.message =
        fault.message.replace("POST /v1/subscriptions first", "name its patterns, too: receive PATTERN --group");
    fault
}

#[derive(Deserialize, Serialize)]
struct Answer<D> {
    deliveries: Vec<D>,
}

/// A delivery with a message of the older format.
#[derive(Deserialize, Serialize)]
struct Handed {
    delivery_id: String,
    attempt: u32,
    max_attempts: u32,
    message: Value,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Asks once and prints.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let wait = duration::parse(&args.wait).map_err(|error| fault(Code::InvalidEvent, format!("--wait: {error}")))?;
    let door = global.door()?;
    // The sidecar answers in time; a little longer is only for a machine that swaps.
    let api = Api::sidecar(&door.url, &door.token).with_limit(wait + std::time::Duration::from_secs(30));
    let group = args.group.clone().or_else(|| (!args.patterns.is_empty()).then(|| own_group(&args.patterns)));
    if !args.patterns.is_empty() {
        let _: Value = api.post("/v1/subscriptions", &json!({"patterns": args.patterns, "group": group})).await?;
    }
    let mut request = json!({"max": args.max, "wait": args.wait});
    if let Some(group) = &group {
        // What other groups of the same sidecar hold belongs to others.
        request["group"] = json!(group);
    }
    if args.legacy {
        let answer: Answer<Handed> = api.post("/v1/receive?format=message", &request).await.map_err(hint)?;
        let line = |one: &Handed| {
            (one.delivery_id.clone(), one.attempt, one.max_attempts, output::escaped(&one.message.to_string()))
        };
        return finish(global, args, &api, &answer, line).await;
    }
    let answer: Answer<DeliveryJson> = api.post("/v1/receive", &request).await.map_err(hint)?;
    let line = |one: &DeliveryJson| {
        // What was read as JSON can be written.
        let event = output::json_text(&one.event).unwrap_or_default();
        (one.delivery_id.clone(), one.attempt, one.max_attempts, event)
    };
    finish(global, args, &api, &answer, line).await
}

/// Prints, then acks if that is wanted. `line`: id, attempt, most attempts and what it holds.
async fn finish<D: Serialize>(
    global: &Global,
    args: &Args,
    api: &Api,
    answer: &Answer<D>,
    line: impl Fn(&D) -> (String, u32, u32, String),
) -> anyhow::Result<()> {
    if global.json {
        output::json(answer)?;
    } else {
        for (id, attempt, most, held) in answer.deliveries.iter().map(&line) {
            output::line(format!("{id} attempt {attempt} of {most} {held}"))?;
        }
        if answer.deliveries.is_empty() {
            output::say(format!("nothing within {}", args.wait));
        }
    }
    if args.ack {
        for (id, ..) in answer.deliveries.iter().map(line) {
            let _: Value = api.post(&format!("/v1/deliveries/{id}/ack"), &json!({})).await?;
        }
    }
    Ok(())
}
