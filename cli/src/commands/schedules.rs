//! `agentbus schedules`: events for later: look at them, end them. They are made with `agentbus publish --at|--after|--cron`.

use agentbus_proto::sidecar::v1::{CancelScheduleRequest, Cron, ListSchedulesRequest, ScheduleInfo};
use agentbus_proto::{Code, Fault};
use serde_json::{Value, json};

use crate::client::Client;
use crate::exit::{Silent, fault};
use crate::instance::Global;
use crate::{output, show, table};

/// Schedules asked for at once.
const PAGE_SIZE: u32 = 100;

/// Events for later: list, cancel
///
/// Make one with `agentbus publish TO DATA --at TIME | --after DURATION | --cron EXPRESSION`. The broker publishes them, whether
/// the control plane runs or not; each occurrence has an id of its own, ID.NUMBER.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus publish reports.wanted now --cron '0 9 * * 1-5' --time-zone Europe/Berlin\n  agentbus schedules list\n  agentbus schedules cancel 01a1f8fe-39a1-7556-9a5f-d1207fcbf46e"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the schedules of all agents
    List,
    /// End a schedule; what it has published already stays
    Cancel(CancelArgs),
}

#[derive(Debug, clap::Args)]
struct CancelArgs {
    /// Id as the list shows it; AGENT/ID where two agents have the same
    id: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Runs one of the two.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::List => list(global).await,
        Command::Cancel(args) => cancel(global, args).await,
    }
}

async fn list(global: &Global) -> anyhow::Result<()> {
    let mut client = global.client().await?;
    let schedules = all(&mut client).await?;
    if global.json {
        return output::json(&schedules.iter().map(object).collect::<Vec<_>>());
    }
    if schedules.is_empty() {
        output::say("no schedules; `agentbus publish --after 10m` makes one");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = schedules.iter().map(row).collect();
    for line in table::render(&["ID", "AGENT", "TO", "WHEN", "NEXT"], &rows) {
        output::line(line)?;
    }
    Ok(())
}

async fn all(client: &mut Client) -> Result<Vec<ScheduleInfo>, Fault> {
    let (mut schedules, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSchedulesRequest { page_token, page_size: PAGE_SIZE };
        let page = client.list_schedules(request).await.map_err(Fault::from)?.into_inner();
        schedules.extend(page.schedules);
        if page.next_page_token.is_empty() {
            return Ok(schedules);
        }
        page_token = page.next_page_token;
    }
}

fn row(schedule: &ScheduleInfo) -> Vec<String> {
    let event = schedule.event.clone().unwrap_or_default();
    let when = match &schedule.cron {
        None => "once".to_owned(),
        Some(Cron { expression, time_zone }) if time_zone.is_empty() => expression.clone(),
        Some(Cron { expression, time_zone }) => format!("{expression} ({time_zone})"),
    };
    let cells = [schedule.schedule_id.clone(), event.source.clone(), show::address(&event), when, next(schedule)];
    cells.map(|cell| output::printable(&cell)).into()
}

fn next(schedule: &ScheduleInfo) -> String {
    schedule.next.as_ref().map_or_else(|| "now".to_owned(), show::millis)
}

fn object(schedule: &ScheduleInfo) -> Value {
    let event = schedule.event.clone().unwrap_or_default();
    let mut object = json!({
        "id": schedule.schedule_id,
        "agent": event.source,
        "to": show::address(&event),
        "next": next(schedule),
        "event": agentbus_proto::json::event_to_json(&event),
    });
    if let Some(cron) = &schedule.cron {
        object["cron"] = json!(cron.expression);
        object["time_zone"] = json!(if cron.time_zone.is_empty() { "UTC" } else { &cron.time_zone });
    }
    object
}

async fn cancel(global: &Global, args: &CancelArgs) -> anyhow::Result<()> {
    if !args.yes && !output::confirm(&format!("end schedule {}?", args.id), true)? {
        output::say("nothing was ended");
        return Err(Silent(1).into());
    }
    let request = CancelScheduleRequest { schedule_id: args.id.clone() };
    let answer = global.client().await?.cancel_schedule(request).await.map_err(Fault::from)?.into_inner();
    if !answer.cancelled {
        let why = format!("there is no schedule `{}` (any more); see `agentbus schedules list`", args.id);
        return Err(fault(Code::UnknownDelivery, why));
    }
    if global.json {
        return output::json(&json!({"id": args.id, "cancelled": true}));
    }
    Ok(output::line(format!("{} cancelled", args.id))?)
}
