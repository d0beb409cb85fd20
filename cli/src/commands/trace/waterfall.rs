//! A chain as lines for people: events in their order, below each the groups it is for, at the right when it was. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use agentbus_control_plane::events::{Chain, EventStatus, GroupStatus, State};
use serde_json::Value;

use super::bars::{DONE, EITHER, FAILED, PAUSE, QUEUE, Scale, WORK, time};
use crate::output::{Paint, count, printable};

/// Narrower is not readable.
const WIDTH_MIN: usize = 60;
/// Wider bars tell no more.
const WIDTH_MAX: usize = 160;
/// Steps of indentation shown.
const DEPTH_MAX: usize = 6;

/// The whole picture, `width` columns wide.
pub(super) fn lines(chain: &Chain, width: usize, paint: Paint) -> Vec<String> {
    let width = width.clamp(WIDTH_MIN, WIDTH_MAX);
    let left = (width * 11 / 20).min(60);
    let scale = scale(chain, width - left - 1);
    let mut lines = head(chain, &scale, left, paint);
    let depths = depths(&chain.events);
    for (number, (event, depth)) in chain.events.iter().zip(depths).enumerate() {
        let stored = time(Some(&event.stored_at)).unwrap_or(scale.from);
        let label = format!("{:>2} {}{}", number + 1, "  ".repeat(depth), name(&event.event));
        lines.push(join(&label, left, &scale.mark(stored), |text| paint.bold(text)));
        for group in &event.groups {
            let label = format!("   {}{}", "  ".repeat(depth + 1), says(group));
            let tint = |text: String| match group.state {
                State::Dead | State::Expired => paint.red(text),
                State::Retrying | State::Unknown => paint.yellow(text),
                State::Acked => paint.green(text),
                State::Accepted | State::Delivered => text,
            };
            lines.push(join(&label, left, &scale.bar(stored, group, paint), tint));
            let more = more(group).into_iter().map(|text| format!("   {}{text}", "  ".repeat(depth + 2)));
            lines.extend(more.map(|text| paint.dim(cut(&text, width))));
        }
    }
    lines.push(String::new());
    lines.extend(legend(width).into_iter().map(|line| paint.dim(line)));
    lines
}

/// What the signs mean, on as many lines as it takes.
fn legend(width: usize) -> Vec<String> {
    let meanings = [
        (QUEUE, "waits"),
        (WORK, "work"),
        (PAUSE, "until the next attempt"),
        (EITHER, "waits or works"),
        (DONE, "acked"),
        (FAILED, "failed"),
    ];
    let mut lines: Vec<String> = Vec::new();
    for meaning in meanings.map(|(sign, meaning)| format!("{sign} {meaning}")) {
        match lines.last_mut().filter(|line| line.chars().count() + 2 + meaning.chars().count() <= width) {
            Some(line) => line.push_str(&format!("  {meaning}")),
            None => lines.push(meaning),
        }
    }
    lines
}

fn head(chain: &Chain, scale: &Scale, left: usize, paint: Paint) -> Vec<String> {
    let events = count(chain.events.len() as u64, "event", "events");
    let title = format!("chain {}  {events}, {}", printable(&chain.correlation_id), human(scale.length()));
    let end = human(scale.length());
    let gap = scale.width.saturating_sub(1 + end.chars().count());
    vec![paint.bold(title), paint.dim(format!("{:left$} 0{}{end}", "", " ".repeat(gap)))]
}

/// From the first event to the last thing that is known, or to now while something is open.
fn scale(chain: &Chain, width: usize) -> Scale {
    let stored = || chain.events.iter().filter_map(|event| time(Some(&event.stored_at)));
    let groups = || chain.events.iter().flat_map(|event| &event.groups);
    let attempts = groups().flat_map(|group| &group.attempts);
    let ends = attempts.flat_map(|one| [time(one.handed.as_ref()), time(one.ended.as_ref())]).flatten();
    let open = groups().any(|group| matches!(group.state, State::Accepted | State::Delivered | State::Retrying));
    let now = time(Some(&chain.at)).filter(|_| open);
    let from = stored().min().unwrap_or(SystemTime::UNIX_EPOCH);
    let to = stored().chain(ends).chain(now).max().unwrap_or(from);
    Scale { from, to, width }
}

/// How far each event is from the beginning of the chain, by what caused it.
fn depths(events: &[EventStatus]) -> Vec<usize> {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut depths = Vec::with_capacity(events.len());
    for event in events {
        let text = |key: &str| event.event[key].as_str().unwrap_or_default();
        let depth = known.get(text("causation_id")).map_or(0, |cause| cause + 1).min(DEPTH_MAX);
        known.entry(text("id")).or_insert(depth);
        depths.push(depth);
    }
    depths
}

fn name(event: &Value) -> String {
    let text = |key: &str| printable(event[key].as_str().unwrap_or_default());
    if let Some(why) = event["undecodable"].as_str() {
        return format!("no event: {}", printable(why));
    }
    let (to, kind) = (text("to"), text("type"));
    let kind = if kind.is_empty() || kind == to { String::new() } else { format!(" [{kind}]") };
    let replay = if event["replay_of"].is_string() { " (replay)" } else { "" };
    format!("{to}{kind} from {}{replay}", text("source"))
}

/// The group's line: who, and what became of it.
fn says(group: &GroupStatus) -> String {
    let mut text = format!("{} {}", printable(&group.group), group.state.as_str());
    if !group.agent.is_empty() && group.agent != group.group {
        text.push_str(&format!(" by {}", printable(&group.agent)));
    }
    if group.attempt > 1 {
        text.push_str(&format!(", attempt {}", group.attempt));
    }
    text
}

/// How long agents had it, all tries together.
fn work(group: &GroupStatus) -> Option<Duration> {
    let tries = group.attempts.iter().filter_map(|one| {
        let (handed, ended) = (time(one.handed.as_ref())?, time(one.ended.as_ref())?);
        ended.duration_since(handed).ok()
    });
    tries.reduce(|sum, one| sum + one)
}

/// What does not fit into the line: failures, the next attempt, how sure it is.
fn more(group: &GroupStatus) -> Vec<String> {
    let waited = group.queue_wait_ms.map(|ms| format!("waited {}", human(Duration::from_millis(ms))));
    let worked = work(group).map(|work| format!("worked {}", human(work)));
    let times: Vec<String> = waited.into_iter().chain(worked).collect();
    let failed = group.attempts.iter().filter(|one| !one.reason.is_empty());
    let mut lines = if times.is_empty() { Vec::new() } else { vec![times.join(", ")] };
    lines.extend(failed.map(|one| printable(&format!("attempt {} {}: {}", one.attempt, one.outcome, one.reason))));
    if let Some(letter) = group.dead_letter {
        let again = if group.redriven.is_some() { ", redriven" } else { "" };
        lines.push(format!("dead letter {letter} {}{again}", printable(&group.class)));
    }
    if let Some(due) = &group.due {
        lines.push(format!("attempt {} is due {due}", group.attempt));
    }
    if !group.note.is_empty() {
        lines.push(printable(&group.note));
    }
    lines
}

fn join(label: &str, left: usize, bar: &str, tint: impl Fn(String) -> String) -> String {
    let label = cut(label, left);
    let pad = " ".repeat(left - label.chars().count() + 1);
    let line = format!("{}{}{bar}", tint(label), pad);
    line.trim_end().to_owned()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// `12 ms`, `1.24 s`, `3m 12s`.
fn human(length: Duration) -> String {
    match length.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.2} s", length.as_secs_f64()),
        _ => format!("{}m {:02}s", length.as_secs() / 60, length.as_secs() % 60),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain() -> Chain {
        let at = |ms: u32| format!("2026-11-20T10:00:{:02}.{:03}Z", ms / 1000, ms % 1000);
        serde_json::from_value(json!({
            "correlation_id": "order-17", "at": at(9000), "complete": true, "scanned": 3,
            "events": [
                {"event": {"id": "a", "to": "order.placed", "type": "order.placed", "source": "shop"},
                 "seq": 1, "stored_at": at(0), "groups": [
                    {"group": "check", "state": "acked", "attempt": 2, "agent": "check", "queue_wait_ms": 500, "attempts": [
                        {"attempt": 1, "agent": "check", "handed": at(500), "ended": at(1000), "outcome": "failed", "reason": "no stock data"},
                        {"attempt": 2, "agent": "check", "handed": at(3000), "ended": at(4000), "outcome": "acked"}]},
                    {"group": "audit", "state": "acked", "attempt": 0, "note": "who and when is not recorded", "attempts": []}]},
                {"event": {"id": "b", "to": "order.checked", "type": "order.checked.v1", "source": "check", "causation_id": "a"},
                 "seq": 2, "stored_at": at(4000), "groups": [
                    {"group": "billing", "state": "dead", "attempt": 2, "agent": "bill", "class": "EXHAUSTED", "dead_letter": 7, "attempts": [
                        {"attempt": 1, "agent": "", "ended": at(5000), "outcome": "failed"},
                        {"attempt": 2, "agent": "bill", "ended": at(8000), "outcome": "failed", "reason": "card\u{1b}[2Jdeclined"}]}]},
            ],
        }))
        .unwrap()
    }

    const PICTURE: &str = "\
chain order-17  2 events, 8.00 s
                                             0                            8.00 s
 1 order.placed from shop                    ◆
     check acked, attempt 2                  ░░██✗········████✓
       waited 500 ms, worked 1.50 s
       attempt 1 failed: no stock data
     audit acked
       who and when is not recorded
 2   order.checked [order.checked.v1] from …                  ◆
       billing dead by bill, attempt 2                        ▒▒▒▒✗▒▒▒▒▒▒▒▒▒▒▒▒✗
         attempt 2 failed: card\\u{1b}[2Jdeclined
         dead letter 7 EXHAUSTED

░ waits  █ work  · until the next attempt  ▒ waits or works  ✓ acked  ✗ failed";

    #[test]
    fn a_chain_is_a_picture_of_eighty_columns() {
        let drawn = lines(&chain(), 80, Paint::default());
        assert!(drawn.iter().all(|line| line.chars().count() <= 80), "{}", drawn.join("\n"));
        assert_eq!(drawn.join("\n"), PICTURE, "\n{}", drawn.join("\n"));
    }

    #[test]
    fn no_word_of_an_agent_controls_the_terminal() {
        let evil = "\u{1b}[2J\n";
        let mut chain = chain();
        chain.correlation_id = evil.into();
        for event in &mut chain.events {
            event.event = json!({"id": evil, "to": evil, "type": evil, "source": evil});
            for group in &mut event.groups {
                let words = [&mut group.group, &mut group.agent, &mut group.class, &mut group.note, &mut group.reason];
                words.into_iter().for_each(|word| *word = evil.into());
                for one in &mut group.attempts {
                    (one.outcome, one.reason, one.agent) = (evil.into(), evil.into(), evil.into());
                }
            }
        }
        let drawn = lines(&chain, 160, Paint::default());
        assert!(!drawn.iter().any(|line| line.contains(char::is_control)), "{drawn:?}");
    }

    #[test]
    fn any_width_and_any_chain_is_drawn() {
        for width in [0, 1, 60, 79, 81, 500] {
            for chain in [chain(), Chain::default()] {
                let drawn = lines(&chain, width, Paint::default());
                assert!(drawn.iter().all(|line| line.chars().count() <= width.clamp(WIDTH_MIN, WIDTH_MAX)), "{width}");
            }
        }
    }

    #[test]
    fn open_ends_reach_until_now() {
        let mut chain = chain();
        chain.events[1].groups[0].state = State::Retrying;
        chain.at = "2026-11-20T10:00:20.000Z".into();
        assert_eq!(scale(&chain, 40).length(), Duration::from_secs(20));
    }

    #[test]
    fn lengths_are_short() {
        let said = [0, 999, 1240, 59_999, 192_000].map(|ms| human(Duration::from_millis(ms)));
        assert_eq!(said, ["0 ms", "999 ms", "1.24 s", "60.00 s", "3m 12s"]);
    }
}
