//! `agentbus events show`: an event, and where it is for every group that it is for.

use agentbus_control_plane::events::{Attempt, EventStatus, GroupStatus, Shown, State};
use agentbus_proto::event::v1::Event;
use agentbus_proto::json::EventJson;

use crate::control::encode;
use crate::instance::Global;
use crate::output::{self, Paint, printable};
use crate::show;

/// Show one event and where it is: waiting, delivered (to whom), acked, retrying, dead or expired, for every group
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentbus events show 0190f3c2-7c1e-7e3a-9d2b-3f1c5a7b9d10\n  agentbus events show order-17 --json | jq '.events[0].groups[] | {group, state}'"
)]
pub struct Args {
    /// Id of the event
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let shown: Shown = global.teller()?.get(&format!("/v1/events/{}", encode(&args.id))).await?;
    if global.json {
        return output::json(&shown);
    }
    let paint = Paint::stdout();
    for (number, status) in shown.events.iter().enumerate() {
        if number > 0 {
            output::line("")?;
        }
        for line in lines(status, paint) {
            output::line(line)?;
        }
    }
    if let Some(chain) = shown.events.first().and_then(|status| status.event["correlation_id"].as_str()) {
        output::say(format!("the whole chain: agentbus trace {}", printable(chain)));
    }
    Ok(())
}

/// One event with its groups.
fn lines(status: &EventStatus, paint: Paint) -> Vec<String> {
    let event =
        serde_json::from_value::<EventJson>(status.event.clone()).ok().and_then(|json| Event::try_from(json).ok());
    let mut lines = event.as_ref().map(show::block).unwrap_or_default();
    lines.push(format!("{:<13} {} seq {}, {}", "stored", status.stream, status.seq, status.stored_at));
    lines.push(String::new());
    if status.groups.is_empty() {
        lines.push("no group reads it".to_owned());
    }
    for group in &status.groups {
        lines.push(headline(group, paint));
        lines.extend(details(group).into_iter().map(|text| format!("  {text}")));
    }
    lines
}

fn headline(group: &GroupStatus, paint: Paint) -> String {
    let word = group.state.as_str();
    let word = match group.state {
        State::Acked => paint.green(word),
        State::Dead | State::Expired => paint.red(word),
        State::Retrying | State::Unknown => paint.yellow(word),
        State::Accepted | State::Delivered => paint.bold(word),
    };
    let who = if group.instance.is_empty() { &group.agent } else { &group.instance };
    let mut text = format!("group {}: {word}", printable(&group.group));
    if !who.is_empty() {
        let how = if group.state == State::Delivered { "to" } else { "by" };
        text.push_str(&format!(" {how} {}", printable(who)));
    }
    if group.attempt > 0 {
        text.push_str(&format!(", attempt {}", group.attempt));
    }
    if let Some(since) = &group.since {
        text.push_str(&format!(", since {since}"));
    }
    text
}

fn details(group: &GroupStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(due) = &group.due {
        lines.push(format!("due {due}"));
    }
    if let Some(letter) = group.dead_letter {
        let again = match &group.redriven {
            Some(redriven) => format!("redriven {} to the {}", redriven.at, redriven.to.as_str()),
            None => format!("look at it: agentbus dlq show {letter}"),
        };
        lines.push(format!("dead letter {letter}, {}; {again}", printable(&group.class)));
    }
    if group.attempts.is_empty() && !group.reason.is_empty() {
        lines.push(format!("reason: {}", printable(&group.reason)));
    }
    lines.extend(group.attempts.iter().map(attempt));
    if let Some(wait) = group.queue_wait_ms {
        lines.push(format!("waited {wait} ms in the queue"));
    }
    if !group.note.is_empty() {
        lines.push(printable(&group.note));
    }
    lines
}

fn attempt(one: &Attempt) -> String {
    let by = if one.agent.is_empty() { String::new() } else { format!(" by {}", one.agent) };
    let from = one.handed.as_ref().map(|handed| format!(", handed out {handed}")).unwrap_or_default();
    let to = one.ended.as_ref().map(|ended| format!(", ended {ended}")).unwrap_or_default();
    let why = if one.reason.is_empty() { String::new() } else { format!(": {}", one.reason) };
    printable(&format!("attempt {} {}{by}{from}{to}{why}", one.attempt, one.outcome))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_word_of_an_agent_controls_the_terminal() {
        let evil = "\u{1b}[2J\n";
        let status: EventStatus = serde_json::from_value(json!({
            "event": {"id": evil, "to": evil, "source": evil, "type": evil, "data": evil}, "stream": "S", "seq": 7,
            "stored_at": "2026-11-20T10:00:00.000Z",
            "groups": [{"group": evil, "state": "dead", "attempt": 1, "agent": evil, "instance": evil, "class": evil,
                "dead_letter": 3, "note": evil, "reason": evil, "attempts": [{"attempt": 1, "agent": evil,
                "handed": evil, "ended": evil, "outcome": evil, "reason": evil}]}],
        }))
        .unwrap();
        let told = lines(&status, Paint::default());
        assert!(!told.iter().any(|line| line.contains(char::is_control)), "{told:?}");
        assert!(told.iter().any(|line| line.contains("\\u{1b}[2J")));
    }

    #[test]
    fn everything_known_of_a_group_is_told() {
        let status: EventStatus = serde_json::from_value(json!({
            "event": {"id": "e-1", "to": "notes.created", "source": "me", "content_type": "text/plain", "data": "hi"},
            "stream": "S", "seq": 7, "stored_at": "2026-11-20T10:00:00.000Z",
            "groups": [
                {"group": "check", "state": "retrying", "attempt": 2, "agent": "check", "due": "2026-11-20T10:00:05.000Z", "reason": "boom",
                 "attempts": [{"attempt": 1, "agent": "check", "ended": "2026-11-20T10:00:01.000Z", "outcome": "failed", "reason": "boom"}]},
                {"group": "work", "state": "delivered", "attempt": 1, "agent": "work", "instance": "work-2", "since": "2026-11-20T10:00:01.000Z",
                 "queue_wait_ms": 4, "attempts": []},
                {"group": "old", "state": "dead", "attempt": 4, "agent": "old", "class": "EXHAUSTED", "dead_letter": 3, "attempts": []},
            ],
        }))
        .unwrap();
        let told = lines(&status, Paint::default()).join("\n");
        let wanted = "\
id            e-1
to            notes.created
source        me
content type  text/plain
data          hi
stored        S seq 7, 2026-11-20T10:00:00.000Z

group check: retrying by check, attempt 2
  due 2026-11-20T10:00:05.000Z
  attempt 1 failed by check, ended 2026-11-20T10:00:01.000Z: boom
group work: delivered to work-2, attempt 1, since 2026-11-20T10:00:01.000Z
  waited 4 ms in the queue
group old: dead by old, attempt 4
  dead letter 3, EXHAUSTED; look at it: agentbus dlq show 3";
        assert_eq!(told, wanted, "\n{told}");
    }
}
