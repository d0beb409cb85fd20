//! What `top` shows of a look and the one before it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use agentbus_control_plane::status::{GroupStatus, StreamStatus, SystemStatus};
use serde_json::{Value, json};

use crate::commands::agents;
use crate::commands::status::is_idle_own;
use crate::output::{Paint, printable};
use crate::{size, table};

/// Changes per second between two looks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Events stored, by stream; less than nothing when a stream was trimmed.
    pub streams: BTreeMap<String, f64>,
    /// Growth of the lag, by group.
    pub groups: BTreeMap<String, f64>,
}

impl Rates {
    /// Of what is in both looks.
    pub(super) fn between(before: &SystemStatus, now: &SystemStatus, apart: Duration) -> Self {
        let seconds = apart.as_secs_f64().max(0.001);
        let rate = |was: u64, is: u64| (is as f64 - was as f64) / seconds;
        let stream = |now: &StreamStatus| {
            let was = before.streams.iter().find(|one| one.name == now.name)?;
            Some((now.name.clone(), rate(was.messages, now.messages)))
        };
        let group = |now: &GroupStatus| {
            let was = before.groups.iter().find(|one| one.group == now.group)?;
            Some((now.group.clone(), rate(was.lag, now.lag)))
        };
        Self {
            streams: now.streams.iter().filter_map(stream).collect(),
            groups: now.groups.iter().filter_map(group).collect(),
        }
    }
}

/// The API's object, with the rates added.
pub(super) fn json(status: &SystemStatus, rates: &Rates) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(status)?;
    for (list, name, key, rates) in
        [("streams", "name", "events_per_second", &rates.streams), ("groups", "group", "lag_per_second", &rates.groups)]
    {
        for entry in value[list].as_array_mut().into_iter().flatten() {
            let rate = entry[name].as_str().and_then(|name| rates.get(name)).copied();
            entry[key] = json!(rate);
        }
    }
    Ok(value)
}

/// The screen.
pub(super) fn lines(status: &SystemStatus, rates: &Rates, paint: Paint) -> Vec<String> {
    let broker = &status.broker;
    let state = if broker.connected { paint.green("connected") } else { paint.red("not connected") };
    let mut lines = vec![format!("namespace {}, broker {} {state}", status.namespace, broker.url)];
    if let Some(problem) = &broker.problem {
        lines.push(paint.red(printable(problem)));
    }
    lines.push(String::new());
    let rows: Vec<_> = status.streams.iter().map(|one| stream(one, rates)).collect();
    lines.extend(table::render(&["STREAM", "EVENTS", "/S", "SIZE", "FULL"], &rows));
    lines.push(String::new());
    let shown = busiest(&status.groups, rates).into_iter().filter(|group| !is_idle_own(group));
    let rows: Vec<_> = shown.map(|one| group(one, rates)).collect();
    let header = ["GROUP", "LAG", "/S", "IN FLIGHT", "RETRYING", "DEAD", "LISTENING"];
    lines.extend(table::render(&header, &rows));
    lines.push(String::new());
    lines.extend(agents::lines(&status.agents, paint));
    lines
}

fn stream(stream: &StreamStatus, rates: &Rates) -> Vec<String> {
    let full = u64::try_from(stream.max_bytes).ok().filter(|max| *max > 0);
    let full = full.map_or_else(|| "-".to_owned(), |max| format!("{}%", stream.bytes.saturating_mul(100) / max));
    let rate = signed(rates.streams.get(&stream.name).copied());
    vec![stream.name.clone(), stream.messages.to_string(), rate, size::human(stream.bytes), full]
}

/// Those with the most to do first; then by name.
fn busiest<'a>(groups: &'a [GroupStatus], rates: &Rates) -> Vec<&'a GroupStatus> {
    let mut groups: Vec<&GroupStatus> = groups.iter().collect();
    let load = |group: &GroupStatus| group.lag + group.in_flight + group.retrying;
    let moves = |group: &GroupStatus| rates.groups.get(&group.group).is_some_and(|rate| *rate != 0.0);
    groups.sort_by_key(|group| (std::cmp::Reverse((load(group), moves(group))), group.group.clone()));
    groups
}

fn group(group: &GroupStatus, rates: &Rates) -> Vec<String> {
    let listening = match (&group.problem, group.waiting) {
        (Some(problem), _) => printable(problem),
        (None, 0) => "no".to_owned(),
        (None, _) => "yes".to_owned(),
    };
    let number = |number: u64| number.to_string();
    vec![
        group.group.clone(),
        number(group.lag),
        signed(rates.groups.get(&group.group).copied()),
        number(group.in_flight),
        number(group.retrying),
        number(group.dead_letters),
        listening,
    ]
}

/// `0`, `+12`, `-0.5`; `-` where it is not known.
fn signed(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate.abs() < 0.05 => "0".to_owned(),
        Some(rate) if rate.abs() < 10.0 => format!("{rate:+.1}"),
        Some(rate) => format!("{rate:+.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(messages: u64, lags: &[(&str, u64)]) -> SystemStatus {
        let group = |(name, lag): &(&str, u64)| GroupStatus { group: (*name).into(), lag: *lag, ..Default::default() };
        SystemStatus {
            namespace: "default".into(),
            streams: vec![StreamStatus { name: "S".into(), messages, bytes: 50, max_bytes: 100 }],
            groups: lags.iter().map(group).collect(),
            ..SystemStatus::default()
        }
    }

    #[test]
    fn rates_are_the_change_per_second() {
        let (before, now) = (look(10, &[("a", 100), ("old", 1)]), look(30, &[("a", 50), ("b", 7)]));
        let rates = Rates::between(&before, &now, Duration::from_secs(2));
        assert_eq!((rates.streams["S"], rates.groups["a"]), (10.0, -25.0));
        assert_eq!(rates.groups.len(), 1, "what is new has no rate yet");
        let lines = lines(&now, &rates, Paint::default());
        let row = |name: &str| {
            lines.iter().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(row("S "), ["S", "30", "+10", "50", "B", "50%"]);
        assert_eq!(row("a "), ["a", "50", "-25", "0", "0", "0", "no"]);
        assert_eq!(row("b "), ["b", "7", "-", "0", "0", "0", "no"]);
        let json = json(&now, &rates).unwrap();
        assert_eq!(json["groups"][0]["lag_per_second"], -25.0);
        assert_eq!(json["groups"][1]["lag_per_second"], Value::Null);
        assert_eq!(json["streams"][0]["events_per_second"], 10.0);
    }

    #[test]
    fn the_busiest_groups_come_first() {
        let now = look(0, &[("idle", 0), ("busy", 5), ("also-idle", 0)]);
        let names: Vec<&str> = busiest(&now.groups, &Rates::default()).iter().map(|one| one.group.as_str()).collect();
        assert_eq!(names, ["busy", "also-idle", "idle"]);
    }

    #[test]
    fn small_rates_are_not_rounded_away() {
        for (rate, text) in [(None, "-"), (Some(0.0), "0"), (Some(0.5), "+0.5"), (Some(-12.4), "-12")] {
            assert_eq!(signed(rate), text);
        }
    }
}
