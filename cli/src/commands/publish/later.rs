//! `publish --at|--after|--cron`: the same event, stored to be published later.

use agentbus_proto::sidecar::v1::{Cron, PublishRequest, ScheduleRequest, schedule_request::When};
use agentbus_proto::{Code, Fault, duration, timestamp};
use serde_json::json;

use crate::client::Client;
use crate::exit::fault;
use crate::instance::Global;
use crate::{output, show};

/// When to publish; nothing = now.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Later {
    /// Publish it then, not now: 2026-11-20T10:00:00Z, 2026-11-20T11:00:00+01:00
    #[arg(long, value_name = "TIME", conflicts_with_all = ["after", "cron", "lines"])]
    pub at: Option<String>,
    /// Publish it after this time: 30s, 10m
    #[arg(long, value_name = "DURATION", conflicts_with_all = ["cron", "lines"])]
    pub after: Option<String>,
    /// Publish it again and again: minute hour day month weekday ('0 9 * * 1-5'), or six fields with seconds in front
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "lines")]
    pub cron: Option<String>,
    /// Time zone of --cron, as in Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub time_zone: Option<String>,
}

impl Later {
    /// What the sidecar is told; none = publish now.
    pub(super) fn when(&self) -> anyhow::Result<Option<When>> {
        let Self { at, after, cron, time_zone } = self;
        Ok(match (at, after, cron) {
            (Some(at), ..) => {
                let moment = timestamp::parse(at);
                let why = || format!("--at is `{}`; write it like 2026-11-20T10:00:00Z", at.escape_debug());
                Some(When::At(moment.ok_or_else(|| fault(Code::InvalidEvent, why()))?))
            }
            (_, Some(after), _) => {
                let wait = duration::parse(after);
                let wait = wait.map_err(|error| fault(Code::InvalidEvent, format!("--after: {error}")))?;
                Some(When::After(duration::to_proto(wait)))
            }
            (.., Some(cron)) => {
                let time_zone = time_zone.clone().unwrap_or_default();
                Some(When::Cron(Cron { expression: cron.clone(), time_zone }))
            }
            _ => None,
        })
    }
}

/// Stores it and says when it comes.
pub(super) async fn schedule(
    global: &Global,
    client: &mut Client,
    request: PublishRequest,
    when: When,
) -> anyhow::Result<()> {
    let PublishRequest { event, ttl, park, .. } = request;
    let request = ScheduleRequest { event, ttl, park, when: Some(when) };
    let answer = client.schedule(request).await.map_err(Fault::from)?.into_inner();
    let next = answer.next.as_ref().map(show::millis).unwrap_or_default();
    if global.json {
        return output::json_line(&json!({"id": answer.schedule_id, "next": next}));
    }
    Ok(output::line(format!("{} comes at {next}", answer.schedule_id))?)
}
