//! `agentbus bench`: what the sidecar costs against a plain NATS client, on this machine, now.
//!
//! `options` says what is measured → `setup` starts a nats-server and sidecars of its own → `rounds` lets both `arms` send the same
//! `events` in turns, while `procfs` looks at the processes → `measure` makes medians → `report` prints them. Nothing of a running bus is
//! touched, and nothing is left behind.

mod arms;
mod events;
mod measure;
mod options;
mod procfs;
mod report;
mod rounds;
mod setup;

use std::time::Instant;

use agentbus_nats::identity::Layout;
use agentbus_proto::Code;
use agentbus_runtime::drain;

pub use options::Args;

use crate::exit::{Silent, fault};
use crate::instance::Global;
use crate::output;
use events::Events;
use measure::{Latency, Rate};
use options::Choice;
use report::{Machine, Pair, Ratios, Report, Run, Wall};
use rounds::{Rounds, Samples, pair};
use setup::Bus;

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Measures and prints. Ctrl-C ends it and what it started.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    args.check()?;
    let start = Instant::now();
    let mut stop = std::pin::pin!(drain::signals()?);
    if cfg!(debug_assertions) {
        output::say("WARNING: this is a debug build; its figures mean nothing");
    }
    // A start that is given up drops what it has, which ends it.
    let (bus, walled) = tokio::select! {
        both = Box::pin(buses(args)) => both?,
        _ = &mut stop => return Err(Silent(INTERRUPTED).into()),
    };
    let measured = tokio::select! {
        measured = Box::pin(measure(args, &bus, walled.as_ref())) => measured,
        _ = &mut stop => Err(Silent(INTERRUPTED).into()),
    };
    let version = bus.version.clone();
    for bus in [Some(bus), walled].into_iter().flatten() {
        bus.stop().await?;
    }
    let (samples, walled) = measured?;
    let report = report(args, samples, walled, version, start)?;
    if global.json { output::json(&report) } else { Ok(output::line(report.text())?) }
}

/// What is measured on, and where it is wanted the same with a wall.
async fn buses(args: &Args) -> anyhow::Result<(Bus, Option<Bus>)> {
    let bus = Bus::start(args.nats_server.clone(), Layout::Plain).await?;
    let walled = if args.wall { Some(Bus::start(args.nats_server.clone(), Layout::Wall).await?) } else { None };
    Ok((bus, walled))
}

/// In turns: a round on the one, a round on the other.
async fn measure(args: &Args, bus: &Bus, walled: Option<&Bus>) -> anyhow::Result<(Samples, Option<Samples>)> {
    let mut rounds = Rounds::prepare(args, bus).await?;
    let behind = args.behind_the_wall();
    let mut walled = match walled {
        Some(bus) => Some(Rounds::prepare(&behind, bus).await?),
        None => None,
    };
    for round in 0..args.rounds {
        rounds.run(round).await?;
        if let Some(walled) = &mut walled {
            walled.run(round).await?;
        }
    }
    let walled = match walled {
        Some(walled) => Some(walled.finish().await?),
        None => None,
    };
    Ok((rounds.finish().await?, walled))
}

fn report(
    args: &Args,
    samples: Samples,
    walled: Option<Samples>,
    nats_server: String,
    start: Instant,
) -> anyhow::Result<Report> {
    let stored_bytes = Events::new(setup::NAMESPACE, "writer", "bench.publish", args.size)?.raw().payload.len();
    let mut report = Report {
        ratios: Ratios::default(),
        publish_streaming: pair(&samples.streaming, Rate::median),
        publish_streaming_bare: Rate::median(&samples.bare),
        publish_unary_64: pair(&samples.unary_64, Rate::median),
        publish_unary: pair(&samples.unary, Latency::median),
        deliver: pair(&samples.deliver, Rate::median),
        end_to_end: pair(&samples.echo, Latency::median),
        end_to_end_unary: Latency::median(&samples.echo_unary),
        ask: Latency::median(&samples.ask),
        memory: samples.memory,
        wall: None,
        sends: sends(args.arm),
        run: Run {
            rounds: args.rounds,
            data_bytes: args.size,
            stored_bytes,
            counts: args.counts(),
            seconds: start.elapsed().as_secs_f64(),
        },
        machine: machine(nats_server)?,
    };
    report.ratios = Ratios::of(&report);
    report.wall = walled.map(|samples| Wall::of(&report, &samples));
    Ok(report)
}

/// In words, so that nobody has to guess what was compared.
fn sends(choice: Choice) -> Pair<String> {
    let direct = "async-nats with full rights; the bytes and headers the sidecar would store, message ids included; publish window 4096, \
                  pull batch 5000, plain acks, events decoded";
    let sidecar = "generated gRPC client over TCP, one sidecar process per agent with its own scoped token; events with ids, publish \
                   window 8192, credit 10000, events decoded, acks and replies on the stream";
    let text = |arm, text: &str| (choice == Choice::Both || choice == arm).then(|| text.to_owned());
    Pair { direct: text(Choice::Direct, direct), sidecar: text(Choice::Sidecar, sidecar) }
}

fn machine(nats_server: String) -> anyhow::Result<Machine> {
    let cores = std::thread::available_parallelism().map_err(|error| fault(Code::BadConfig, error.to_string()))?.get();
    Ok(Machine {
        cores,
        processor: procfs::processor(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        nats_server,
        agentbus: env!("CARGO_PKG_VERSION").to_owned(),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
