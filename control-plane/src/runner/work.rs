//! One event from its command's start to the verdict.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentbus_proto::event::v1::{Event, address::Kind};
use agentbus_proto::sidecar::v1::Delivery;
use agentbus_proto::{Address, timestamp};
use tokio_util::sync::CancellationToken;

use super::answer;
use super::client::Client;
use super::command::Command;
use super::options::{Options, Output};
use super::output::{self, Origin};
use super::publish;
use super::verdict::{self, Verdict};

/// What every command needs to know.
pub(super) struct Work {
    pub(super) client: Client,
    command: Command,
    events: bool,
}

impl Work {
    pub(super) fn new(options: &Options, client: Client) -> Self {
        let env =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let events = options.output == Output::Events;
        let command = Command {
            argv: options.command_json.0.iter().map(OsString::from).collect(),
            launcher: options.launcher.clone(),
            env: env.collect(),
            output: events,
            timeout: Duration::from_millis(options.timeout_ms),
        };
        Self { client, command, events }
    }

    /// One event from the command's start to its verdict.
    pub(super) async fn on(self: Arc<Self>, delivery: Delivery, stop: CancellationToken) -> Verdict {
        let origin = Origin::of(&delivery);
        let Some(event) = &delivery.event else { return verdict::reject("the delivery holds no event".to_owned()) };
        let mut command = self.command.clone();
        command.env.extend(variables(&delivery, event));
        let asked = event.reply_by.is_some();
        command.output |= asked;
        let mut ended = command.run(event.data.clone(), &stop).await;
        tracing::debug!(event = %event.id, ending = ?ended.ending, "command ended");
        let verdict = verdict::of_ending(&ended.ending, &ended.said);
        if asked && !self.events {
            return answer::of(verdict, Some(std::mem::take(&mut ended.stdout)));
        }
        let verdict = self.published(verdict, &ended.stdout, &origin, &delivery, &stop).await;
        if asked { answer::of(verdict, None) } else { verdict }
    }

    /// The verdict when the outputs, if there are to be any, are stored.
    async fn published(
        &self,
        verdict: Verdict,
        stdout: &[u8],
        origin: &Origin,
        delivery: &Delivery,
        stop: &CancellationToken,
    ) -> Verdict {
        if verdict != Verdict::Ack || !self.events {
            return verdict;
        }
        match output::read(stdout, origin, SystemTime::now()) {
            Ok(requests) => publish::all(&self.client, &requests, &delivery.traceparent, publish::PATIENCE, stop).await,
            Err(why) => verdict::reject(why),
        }
    }
}

/// What a command learns about its event beside the data.
fn variables(delivery: &Delivery, event: &Event) -> Vec<(String, String)> {
    let to = event.to.as_ref();
    let topic = match to.and_then(|to| to.kind.as_ref()) {
        Some(Kind::Topic(topic)) if event.r#type.is_empty() => topic,
        _ => &event.r#type,
    };
    let chain = if event.correlation_id.is_empty() { &event.id } else { &event.correlation_id };
    let to = to.and_then(|to| Address::try_from(to).ok()).map(|to| to.to_string()).unwrap_or_default();
    let all = [
        ("AGENTBUS_EVENT_ID", event.id.clone()),
        ("AGENTBUS_EVENT_TYPE", topic.clone()),
        ("AGENTBUS_EVENT_TO", to),
        ("AGENTBUS_ATTEMPT", delivery.attempt.to_string()),
        ("AGENTBUS_CORRELATION_ID", chain.clone()),
        ("AGENTBUS_REPLY_BY", event.reply_by.as_ref().and_then(timestamp::format).unwrap_or_default()),
        ("TRACEPARENT", delivery.traceparent.clone()),
        ("TRACESTATE", delivery.tracestate.clone()),
    ];
    // A zero byte would keep the command from starting; no valid event has one.
    all.into_iter()
        .filter(|(_, value)| !value.is_empty() && !value.contains('\0'))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_command_learns_about_its_event() {
        let to = Some(Address::Topic("notes.created".into()).into());
        let event = Event { id: "e-1".into(), to, ..Event::default() };
        let delivery = Delivery { attempt: 2, traceparent: "00-a-b-01".into(), ..Delivery::default() };
        let all: HashMap<String, String> = variables(&delivery, &event).into_iter().collect();
        for (key, wanted) in [
            ("AGENTBUS_EVENT_ID", "e-1"),
            ("AGENTBUS_EVENT_TYPE", "notes.created"),
            ("AGENTBUS_EVENT_TO", "notes.created"),
            ("AGENTBUS_ATTEMPT", "2"),
            ("AGENTBUS_CORRELATION_ID", "e-1"),
            ("TRACEPARENT", "00-a-b-01"),
        ] {
            assert_eq!(all.get(key).map(String::as_str), Some(wanted), "{key}");
        }
        assert_eq!(all.get("TRACESTATE"), None);
    }
}
