//! `agentbus env`: what curl, agents by hand and the plain nats CLI need to know, for `eval`.

use serde_json::json;

use crate::instance::Global;
use crate::{output, quote};

/// Print the variables for curl and the nats CLI
///
/// Use it as `eval "$(agentbus env)"`. Afterwards `curl -H "Authorization: Bearer $AGENTBUS_TOKEN" $AGENTBUS_URL/v1/…` talks to your
/// own sidecar, and the plain `nats` CLI (which reads NATS_URL and NATS_CREDS) looks at the streams.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eval \"$(agentbus env)\"\n  agentbus env --json | jq -r .AGENTBUS_URL")]
pub struct Args {}

/// Prints `export NAME=value` lines.
pub fn run(global: &Global, _args: &Args) -> anyhow::Result<()> {
    let instance = global.instance()?;
    let creds = instance.broker.creds.to_string_lossy().into_owned();
    let in_memory = instance.broker.in_memory();
    let mut pairs = vec![("AGENTBUS_URL", instance.me.url), ("AGENTBUS_TOKEN", instance.me.token)];
    if in_memory {
        output::say("the bus runs in memory: there is no broker, so NATS_URL and NATS_CREDS are not set");
    } else {
        pairs.extend([("NATS_URL", instance.broker.url), ("NATS_CREDS", creds)]);
    }
    if global.json {
        let object: serde_json::Map<_, _> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        return output::json(&object);
    }
    for (key, value) in pairs {
        output::line(format!("export {key}={}", quote::shell(&value)))?;
    }
    Ok(())
}
