//! What was found: as text for people and as one JSON object. Pure.
//!
//! Ratios come first: rates of two runs on one machine differ by a tenth or more, their ratio by less.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::{Latency, Rate};
use super::options::{Arm, Counts};
use super::rounds::{Samples, pair};
use crate::{size, table};

/// The same figure of both arms; `None` where it was not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pair<T> {
    /// Raw async-nats.
    pub direct: Option<T>,
    /// Through the sidecar.
    pub sidecar: Option<T>,
}

/// Everything, medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Sidecar against direct.
    pub ratios: Ratios,
    /// Confirmed publish, pipelined.
    pub publish_streaming: Pair<Rate>,
    /// The direct arm once more, with no header but the id and the bare data as payload.
    pub publish_streaming_bare: Option<Rate>,
    /// Confirmed publish, 64 calls in flight.
    pub publish_unary_64: Pair<Rate>,
    /// Confirmed publish, one call at a time.
    pub publish_unary: Pair<Latency>,
    /// Receive, decode, ack.
    pub deliver: Pair<Rate>,
    /// From publish to received, one at a time; the sidecar arm publishes on an open stream.
    pub end_to_end: Pair<Latency>,
    /// The sidecar arm with a unary publish.
    pub end_to_end_unary: Option<Latency>,
    /// From an ask to its reply, one at a time: there and back.
    pub ask: Option<Latency>,
    /// Memory of the sidecar.
    pub memory: Memory,
    /// The sidecar behind the wall, with `--wall`.
    pub wall: Option<Wall>,
    /// What each arm sends.
    pub sends: Pair<String>,
    /// How it was measured.
    pub run: Run,
    /// What it was measured on.
    pub machine: Machine,
}

/// Sidecar ÷ direct for rates, sidecar − direct for latencies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// × direct.
    pub publish_streaming: Option<f64>,
    /// × direct.
    pub publish_unary_64: Option<f64>,
    /// × direct.
    pub deliver: Option<f64>,
    /// Added by the hop, microseconds.
    pub publish_unary_added: Option<Latency>,
    /// Added by both hops, microseconds.
    pub end_to_end_added: Option<Latency>,
    /// The same with a unary publish.
    pub end_to_end_unary_added: Option<Latency>,
}

/// The sidecar behind the wall, and against the sidecar without it: × for rates, + for latencies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Wall {
    /// Confirmed publish, pipelined.
    pub publish_streaming: Option<Rate>,
    /// × without the wall.
    pub publish_streaming_ratio: Option<f64>,
    /// Confirmed publish, 64 calls in flight.
    pub publish_unary_64: Option<Rate>,
    /// × without the wall.
    pub publish_unary_64_ratio: Option<f64>,
    /// Receive, decode, ack.
    pub deliver: Option<Rate>,
    /// × without the wall.
    pub deliver_ratio: Option<f64>,
    /// Confirmed publish, one call at a time.
    pub publish_unary: Option<Latency>,
    /// Added by the wall, microseconds.
    pub publish_unary_added: Option<Latency>,
    /// From publish to received, one at a time.
    pub end_to_end: Option<Latency>,
    /// Added by the wall, microseconds.
    pub end_to_end_added: Option<Latency>,
}

impl Wall {
    /// From the samples behind the wall and the figures without it.
    pub fn of(report: &Report, samples: &Samples) -> Self {
        let walled = |rates: &BTreeMap<Arm, Vec<Rate>>| pair(rates, Rate::median).sidecar;
        let late = |samples: &BTreeMap<Arm, Vec<Latency>>| pair(samples, Latency::median).sidecar;
        let ratio = |walled: Option<Rate>, plain: Pair<Rate>| Some(walled?.per_second / plain.sidecar?.per_second);
        let (publish_streaming, publish_unary_64) = (walled(&samples.streaming), walled(&samples.unary_64));
        let (deliver, publish_unary, end_to_end) =
            (walled(&samples.deliver), late(&samples.unary), late(&samples.echo));
        Self {
            publish_streaming,
            publish_streaming_ratio: ratio(publish_streaming, report.publish_streaming),
            publish_unary_64,
            publish_unary_64_ratio: ratio(publish_unary_64, report.publish_unary_64),
            deliver,
            deliver_ratio: ratio(deliver, report.deliver),
            publish_unary,
            publish_unary_added: added(publish_unary, report.publish_unary.sidecar),
            end_to_end,
            end_to_end_added: added(end_to_end, report.end_to_end.sidecar),
        }
    }

    fn rows(&self) -> Vec<[String; 2]> {
        let times = |name: &str, rate: Option<Rate>, ratio: Option<f64>| {
            Some([name.to_owned(), format!("{:.2} x  ({:.0} /s)", ratio?, rate?.per_second)])
        };
        let rows = [
            times("publish, streaming", self.publish_streaming, self.publish_streaming_ratio),
            times("publish, unary, 64 in flight", self.publish_unary_64, self.publish_unary_64_ratio),
            plus("publish, unary, one at a time", self.publish_unary_added),
            times("deliver and ack", self.deliver, self.deliver_ratio),
            plus("end to end, publish stream", self.end_to_end_added),
        ];
        rows.into_iter().flatten().collect()
    }
}

/// Resident bytes of a sidecar process. `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Ready, nothing done yet.
    pub idle_bytes: Option<u64>,
    /// What of that is not program text, which all sidecars share.
    pub idle_private_bytes: Option<u64>,
    /// The most while publishing.
    pub publish_peak_bytes: Option<u64>,
    /// The most while delivering.
    pub deliver_peak_bytes: Option<u64>,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Rounds the medians are of.
    pub rounds: u32,
    /// Data bytes per event.
    pub data_bytes: u32,
    /// Payload bytes stored per event, the same in both arms.
    pub stored_bytes: usize,
    /// Events per measurement.
    pub counts: Counts,
    /// In all.
    pub seconds: f64,
}

/// What it was measured on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Logical processors.
    pub cores: usize,
    /// Their name.
    pub processor: Option<String>,
    /// Operating system and architecture.
    pub system: String,
    /// Version of nats-server.
    pub nats_server: String,
    /// Our version.
    pub agentbus: String,
    /// `release` or `debug`.
    pub build: &'static str,
}

impl Ratios {
    /// From the figures.
    pub fn of(report: &Report) -> Self {
        let rate = |pair: &Pair<Rate>| Some(pair.sidecar?.per_second / pair.direct?.per_second);
        Self {
            publish_streaming: rate(&report.publish_streaming),
            publish_unary_64: rate(&report.publish_unary_64),
            deliver: rate(&report.deliver),
            publish_unary_added: added(report.publish_unary.sidecar, report.publish_unary.direct),
            end_to_end_added: added(report.end_to_end.sidecar, report.end_to_end.direct),
            end_to_end_unary_added: added(report.end_to_end_unary, report.end_to_end.direct),
        }
    }
}

fn plus(name: &str, added: Option<Latency>) -> Option<[String; 2]> {
    added.map(|added| [name.to_owned(), format!("p50 {:+.0} us, p99 {:+.0} us", added.p50_us, added.p99_us)])
}

fn added(sidecar: Option<Latency>, direct: Option<Latency>) -> Option<Latency> {
    let (sidecar, direct) = (sidecar?, direct?);
    Some(Latency { p50_us: sidecar.p50_us - direct.p50_us, p99_us: sidecar.p99_us - direct.p99_us })
}

impl Report {
    /// The lines for people.
    pub fn text(&self) -> String {
        let mut lines = vec!["sidecar against direct".to_owned()];
        lines.extend(indented(self.ratio_rows()));
        if let Some(wall) = &self.wall {
            lines.extend([String::new(), "sidecar behind the wall against sidecar without it".to_owned()]);
            lines.extend(indented(wall.rows()));
        }
        for (title, block) in [
            ("figures", self.figures()),
            ("CPU, seconds per million events", self.cpu()),
            ("memory of a sidecar", self.memory_rows()),
        ] {
            lines.extend([String::new(), title.to_owned()]);
            lines.extend(block);
        }
        lines.push(String::new());
        lines.extend(self.facts());
        if self.machine.build == "debug" {
            lines.push(String::new());
            lines.push("WARNING: THIS IS A DEBUG BUILD. These figures mean nothing; measure with `cargo run --release -- bench`.".to_owned());
        }
        lines.join("\n")
    }

    fn ratio_rows(&self) -> Vec<[String; 2]> {
        let times = |name: &str, ratio: Option<f64>| ratio.map(|ratio| [name.to_owned(), format!("{ratio:.2} x")]);
        let ratios = &self.ratios;
        let rows = [
            times("publish, streaming", ratios.publish_streaming),
            times("publish, unary, 64 in flight", ratios.publish_unary_64),
            plus("publish, unary, one at a time", ratios.publish_unary_added),
            times("deliver and ack", ratios.deliver),
            plus("end to end, publish stream", ratios.end_to_end_added),
            plus("end to end, unary publish", ratios.end_to_end_unary_added),
        ];
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        if rows.is_empty() { vec![["ratios need both arms".to_owned(), String::new()]] } else { rows }
    }

    fn figures(&self) -> Vec<String> {
        let rates = [
            ("publish, streaming, /s", self.publish_streaming),
            ("  without our headers, /s", Pair { direct: self.publish_streaming_bare, sidecar: None }),
            ("publish, unary, 64 in flight, /s", self.publish_unary_64),
            ("deliver and ack, /s", self.deliver),
        ];
        let latencies = [
            ("publish, unary, p50 / p99 us", self.publish_unary),
            ("end to end, publish stream, p50 / p99 us", self.end_to_end),
            ("end to end, unary publish, p50 / p99 us", Pair { direct: None, sidecar: self.end_to_end_unary }),
            ("ask and reply, p50 / p99 us", Pair { direct: None, sidecar: self.ask }),
        ];
        let mut rows = rows(rates.map(|(name, pair)| (name, pair.map(|rate| format!("{:.0}", rate.per_second)))));
        rows.extend(self::rows(
            latencies.map(|(name, pair)| {
                (name, pair.map(|latency| format!("{:.0} / {:.0}", latency.p50_us, latency.p99_us)))
            }),
        ));
        tabular(&["", "direct", "sidecar"], rows)
    }

    fn cpu(&self) -> Vec<String> {
        let measured = [
            ("publish, streaming", self.publish_streaming),
            ("publish, unary, 64 in flight", self.publish_unary_64),
            ("deliver and ack", self.deliver),
        ];
        let mut rows = Vec::new();
        for (name, pair) in measured {
            for (arm, rate) in [("direct", pair.direct), ("sidecar", pair.sidecar)] {
                let Some(Rate { cpu_s_per_million: cpu, .. }) = rate else { continue };
                let cell = |seconds: Option<f64>| seconds.map_or_else(unavailable, |seconds| format!("{seconds:.2}"));
                let sidecar = if arm == "direct" { "-".to_owned() } else { cell(cpu.sidecar) };
                rows.push(vec![format!("{name}, {arm}"), cell(cpu.agent), sidecar, cell(cpu.server)]);
            }
        }
        tabular(&["", "agent", "sidecar", "server"], rows)
    }

    fn memory_rows(&self) -> Vec<String> {
        let cell = |bytes: Option<u64>| bytes.map_or_else(unavailable, size::human);
        indented(vec![
            ["idle".to_owned(), cell(self.memory.idle_bytes)],
            ["idle, without shared text".to_owned(), cell(self.memory.idle_private_bytes)],
            ["peak, publishing".to_owned(), cell(self.memory.publish_peak_bytes)],
            ["peak, delivering".to_owned(), cell(self.memory.deliver_peak_bytes)],
        ])
    }

    fn facts(&self) -> Vec<String> {
        let (machine, run, counts) = (&self.machine, &self.run, &self.run.counts);
        let processor = machine.processor.as_deref().unwrap_or("unknown processor");
        let sends = |arm: &str, text: &Option<String>| text.as_ref().map(|text| format!("{arm}: {text}"));
        let mut lines: Vec<String> = [sends("direct", &self.sends.direct), sends("sidecar", &self.sends.sidecar)]
            .into_iter()
            .flatten()
            .collect();
        lines.push(format!(
            "medians of {} round(s), arms in turns on one nats-server {} (one node, file storage); {} / {} / {} events streaming / 64 in flight / one at a time",
            run.rounds, machine.nats_server, counts.streaming, counts.unary_64, counts.one_at_a_time
        ));
        lines.push(format!(
            "{} B of data, {} B stored per event; {} cores ({processor}), {}; agentbus {}, {} build; {:.0} s in all",
            run.data_bytes,
            run.stored_bytes,
            machine.cores,
            machine.system,
            machine.agentbus,
            machine.build,
            run.seconds
        ));
        lines
    }
}

impl<T: Copy> Pair<T> {
    fn map<U>(self, to: impl Fn(T) -> U) -> Pair<U> {
        Pair { direct: self.direct.map(&to), sidecar: self.sidecar.map(&to) }
    }
}

/// What was not measured at all has no row.
fn rows<const N: usize>(pairs: [(&str, Pair<String>); N]) -> Vec<Vec<String>> {
    let measured = pairs.into_iter().filter(|(_, pair)| pair.direct.is_some() || pair.sidecar.is_some());
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    measured.map(|(name, pair)| vec![name.to_owned(), cell(pair.direct), cell(pair.sidecar)]).collect()
}

fn tabular(header: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    table::render(header, &rows).into_iter().map(|line| format!("  {line}")).collect()
}

fn indented(rows: Vec<[String; 2]>) -> Vec<String> {
    let width = rows.iter().map(|[name, _]| name.len()).max().unwrap_or(0);
    rows.into_iter().map(|[name, value]| format!("  {name:width$}  {value}").trim_end().to_owned()).collect()
}

fn unavailable() -> String {
    "unavailable".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Cpu;

    fn report(build: &'static str) -> Report {
        let rate = |per_second| {
            Some(Rate { per_second, cpu_s_per_million: Cpu { agent: Some(1.0), sidecar: Some(2.0), server: None } })
        };
        let latency = |p50_us, p99_us| Some(Latency { p50_us, p99_us });
        let counts = Counts { streaming: 100_000, unary_64: 20_000, one_at_a_time: 2_000 };
        let mut report = Report {
            ratios: Ratios::default(),
            publish_streaming: Pair { direct: rate(100_000.0), sidecar: rate(90_000.0) },
            publish_streaming_bare: None,
            publish_unary_64: Pair::default(),
            publish_unary: Pair::default(),
            deliver: Pair { direct: None, sidecar: rate(7.0) },
            end_to_end: Pair { direct: latency(180.0, 400.0), sidecar: latency(260.0, 550.0) },
            end_to_end_unary: None,
            ask: latency(400.0, 900.0),
            memory: Memory { idle_bytes: Some(5 << 20), ..Memory::default() },
            wall: None,
            sends: Pair { direct: Some("bytes".to_owned()), sidecar: None },
            run: Run { rounds: 3, data_bytes: 256, stored_bytes: 400, counts, seconds: 20.0 },
            machine: Machine {
                cores: 2,
                processor: None,
                system: "linux x86_64".to_owned(),
                nats_server: "2.15.2".to_owned(),
                agentbus: "0.1.0".to_owned(),
                build,
            },
        };
        report.ratios = Ratios::of(&report);
        report
    }

    #[test]
    fn ratios_come_first_and_need_both_arms() {
        let report = report("release");
        assert_eq!(report.ratios.publish_streaming, Some(0.9));
        assert_eq!(report.ratios.deliver, None);
        assert_eq!(report.ratios.end_to_end_added, Some(Latency { p50_us: 80.0, p99_us: 150.0 }));
        let text = report.text();
        let lines: Vec<&str> = text.lines().take(3).collect();
        assert_eq!(
            lines,
            [
                "sidecar against direct",
                "  publish, streaming          0.90 x",
                "  end to end, publish stream  p50 +80 us, p99 +150 us"
            ]
        );
        assert!(text.contains("ask and reply, p50 / p99 us               -          400 / 900"), "{text}");
        assert!(!text.contains("DEBUG"), "{text}");
    }

    #[test]
    fn the_walls_price_is_against_the_sidecar_without_it() {
        let plain = report("release");
        let rate =
            |per_second| Rate { per_second, cpu_s_per_million: Cpu { agent: None, sidecar: None, server: None } };
        let samples = Samples {
            streaming: [(Arm::Sidecar, vec![rate(36_000.0)])].into(),
            echo: [(Arm::Sidecar, vec![Latency { p50_us: 300.0, p99_us: 600.0 }])].into(),
            ..Samples::default()
        };
        let text = Report { wall: Some(Wall::of(&plain, &samples)), ..plain }.text();
        assert!(text.contains("publish, streaming          0.40 x  (36000 /s)"), "{text}");
        assert!(text.contains("end to end, publish stream  p50 +40 us, p99 +50 us"), "{text}");
    }

    #[test]
    fn what_the_system_does_not_tell_reads_unavailable() {
        let text = report("release").text();
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        assert!(text.contains("peak, publishing unavailable") && text.contains("idle 5.00 MiB"), "{text}");
    }

    #[test]
    fn a_debug_build_is_told_loudly() {
        assert!(report("debug").text().ends_with("measure with `cargo run --release -- bench`."));
    }

    #[test]
    fn json_has_the_ratios_first() {
        let text = serde_json::to_string(&report("release")).unwrap();
        assert!(text.starts_with(r#"{"ratios":{"publish_streaming":0.9,"#), "{text}");
    }
}
