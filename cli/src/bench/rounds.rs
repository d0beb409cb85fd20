//! The measuring itself: round by round, both arms in each, every step bounded in time.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use agentbus_nats::identity::Layout;
use agentbus_nats::names::Names;
use agentbus_proto::Code;

use super::arms::{direct::Direct, settled, sidecar};
use super::events::Events;
use super::measure::{Latency, Rate};
use super::options::{Args, Arm, Counts, Step};
use super::procfs::{self, Meter};
use super::report::{Memory, Pair};
use super::setup::{Bus, NAMESPACE, Sidecar};
use crate::exit::fault;
use crate::{output, progress};

/// No step of a run of sensible size takes longer; one that does is stuck.
const STEP_MAX: Duration = Duration::from_secs(60);
/// A sidecar that has just started settles for a moment before its idle memory is read.
const IDLE_AFTER: Duration = Duration::from_millis(300);

const WRITER: &str = "writer";
const PUBLISH_TOPIC: &str = "bench.publish";
const DELIVER_TOPIC: &str = "bench.deliver";

/// Groups of the arms, each with a consumer of its own.
const fn deliver_group(arm: Arm) -> &'static str {
    match arm {
        Arm::Direct => "deliver-direct",
        Arm::Sidecar => "deliver-sidecar",
    }
}

const fn echo_group(arm: Arm) -> &'static str {
    match arm {
        Arm::Direct => "echo-direct",
        Arm::Sidecar => "echo-sidecar",
    }
}

const fn echo_topic(arm: Arm) -> &'static str {
    match arm {
        Arm::Direct => "bench.echo.direct",
        Arm::Sidecar => "bench.echo.sidecar",
    }
}

/// What the rounds gave, by arm.
#[derive(Default)]
pub struct Samples {
    /// Streaming publish.
    pub streaming: BTreeMap<Arm, Vec<Rate>>,
    /// Streaming publish of the direct arm without our headers.
    pub bare: Vec<Rate>,
    /// Unary publish, 64 in flight.
    pub unary_64: BTreeMap<Arm, Vec<Rate>>,
    /// Unary publish, one at a time.
    pub unary: BTreeMap<Arm, Vec<Latency>>,
    /// Deliver and ack.
    pub deliver: BTreeMap<Arm, Vec<Rate>>,
    /// End to end.
    pub echo: BTreeMap<Arm, Vec<Latency>>,
    /// End to end with a unary publish, sidecar arm.
    pub echo_unary: Vec<Latency>,
    /// Ask and reply, sidecar arm.
    pub ask: Vec<Latency>,
    /// Of the sidecars.
    pub memory: Memory,
}

/// Medians of both arms.
pub fn pair<T>(samples: &BTreeMap<Arm, Vec<T>>, median: fn(&[T]) -> Option<T>) -> Pair<T> {
    let of = |arm| samples.get(&arm).and_then(|rounds| median(rounds));
    Pair { direct: of(Arm::Direct), sidecar: of(Arm::Sidecar) }
}

/// The parties, and what they found so far.
pub struct Rounds<'a> {
    args: &'a Args,
    counts: Counts,
    bus: &'a Bus,
    direct: Direct,
    writer: Sidecar,
    reader: Sidecar,
    echo: Sidecar,
    samples: Samples,
}

impl<'a> Rounds<'a> {
    /// Makes the groups and starts the sidecars: one publishes, one delivers, one is the far end of the latency measurement.
    pub async fn prepare(args: &'a Args, bus: &'a Bus) -> anyhow::Result<Self> {
        let mut grants = Vec::new();
        for arm in [Arm::Direct, Arm::Sidecar] {
            grants.push((
                bus.group(deliver_group(arm), DELIVER_TOPIC).await?,
                bus.group(echo_group(arm), echo_topic(arm)).await?,
            ));
        }
        let Some((deliver, echo)) = grants.pop() else { anyhow::bail!("no groups") };
        let writer = bus.sidecar(WRITER, &[], &["bench.>"]).await?;
        let reader = bus.sidecar("reader", &[deliver], &[]).await?;
        let echo = bus.sidecar("echo", &[echo], &[]).await?;
        bus.say_served(WRITER).await?;
        tokio::time::sleep(IDLE_AFTER).await;
        let idle = reader.pid.and_then(procfs::memory);
        let memory = Memory {
            idle_bytes: idle.map(|memory| memory.resident),
            idle_private_bytes: idle.map(|memory| memory.private),
            ..Memory::default()
        };
        let samples = Samples { memory, ..Samples::default() };
        let direct = Direct::new(&bus.jetstream, &bus.names);
        Ok(Self { args, counts: args.counts(), bus, direct, writer, reader, echo, samples })
    }

    /// Measures everything that is wanted, once.
    pub async fn run(&mut self, round: u32) -> anyhow::Result<()> {
        let arms = self.args.arms(round);
        if self.args.wants(Step::Publish) {
            self.publish(&arms, round).await?;
        }
        if self.args.wants(Step::Deliver) {
            self.deliver(&arms, round).await?;
        }
        if self.args.wants(Step::Latency) {
            self.say(round, "latency");
            within("latency", self.latency(&arms)).await?;
            self.bus.clear().await?;
        }
        Ok(())
    }

    /// Ends the sidecars and gives what was found.
    pub async fn finish(self) -> anyhow::Result<Samples> {
        for sidecar in [self.writer, self.reader, self.echo] {
            sidecar.stop().await?;
        }
        Ok(self.samples)
    }

    fn say(&self, round: u32, what: &str) {
        let place = if self.bus.layout() == Layout::Wall { " behind the wall" } else { "" };
        output::say(format!("round {} of {}: {what}{place}", round + 1, self.args.rounds));
    }

    fn events(&self, topic: &str) -> anyhow::Result<Events> {
        Ok(Events::new(NAMESPACE, WRITER, topic, self.args.size)?)
    }

    async fn publish(&mut self, arms: &[Arm], round: u32) -> anyhow::Result<()> {
        for &arm in arms {
            self.say(round, &format!("publish, {}", arm.name()));
            within("publish", self.publish_arm(arm)).await?;
            self.bus.clear().await?;
        }
        if arms.contains(&Arm::Sidecar) {
            self.samples.memory.publish_peak_bytes = self.writer.pid.and_then(procfs::memory).map(|memory| memory.peak);
        }
        Ok(())
    }

    async fn publish_arm(&mut self, arm: Arm) -> anyhow::Result<()> {
        let Counts { streaming, unary_64, one_at_a_time } = self.counts;
        let mut events = self.events(PUBLISH_TOPIC)?;
        let latencies = match arm {
            Arm::Direct => self.direct.publish_unary(one_at_a_time, &mut events).await?,
            Arm::Sidecar => sidecar::publish_unary(&self.writer.client, one_at_a_time, &mut events).await?,
        };
        self.samples.unary.entry(arm).or_default().extend(Latency::of(latencies));
        let meter = self.meter(arm, &self.writer);
        let took = match arm {
            Arm::Direct => self.direct.publish_unary_64(unary_64, &mut events).await?,
            Arm::Sidecar => sidecar::publish_unary_64(&self.writer.client, unary_64, &mut events).await?,
        };
        self.samples.unary_64.entry(arm).or_default().push(Rate::of(unary_64, took, meter.stop()));
        let meter = self.meter(arm, &self.writer);
        let took = match arm {
            Arm::Direct => self.direct.publish_streaming(streaming, || events.raw()).await?,
            Arm::Sidecar => sidecar::publish_streaming(&self.writer.client, streaming, events).await?,
        };
        self.samples.streaming.entry(arm).or_default().push(Rate::of(streaming, took, meter.stop()));
        if arm == Arm::Direct { self.publish_bare().await } else { Ok(()) }
    }

    async fn publish_bare(&mut self) -> anyhow::Result<()> {
        let mut events = self.events(PUBLISH_TOPIC)?;
        let meter = Meter::start(None, self.bus.pid());
        let took = self.direct.publish_streaming(self.counts.streaming, || events.bare()).await?;
        self.samples.bare.push(Rate::of(self.counts.streaming, took, meter.stop()));
        Ok(())
    }

    /// Both arms read the same events, each with a consumer of its own.
    async fn deliver(&mut self, arms: &[Arm], round: u32) -> anyhow::Result<()> {
        let mut events = self.events(DELIVER_TOPIC)?;
        within("prefill", self.direct.publish_streaming(self.counts.streaming, || events.raw())).await?;
        for &arm in arms {
            self.say(round, &format!("deliver, {}", arm.name()));
            within("deliver", self.deliver_arm(arm)).await?;
        }
        if arms.contains(&Arm::Sidecar) {
            self.samples.memory.deliver_peak_bytes = self.reader.pid.and_then(procfs::memory).map(|memory| memory.peak);
        }
        self.bus.clear().await
    }

    async fn deliver_arm(&mut self, arm: Arm) -> anyhow::Result<()> {
        let (count, group) = (self.counts.streaming, deliver_group(arm));
        let meter = self.meter(arm, &self.reader);
        let took = match arm {
            Arm::Direct => self.direct.deliver(group, count).await?,
            Arm::Sidecar => {
                let (jetstream, names): (_, &Names) = (&self.bus.jetstream, &self.bus.names);
                sidecar::deliver(&self.reader.client, jetstream, names, group, count).await?
            }
        };
        self.samples.deliver.entry(arm).or_default().push(Rate::of(count, took, meter.stop()));
        Ok(())
    }

    /// Event by event in turns: waking an idle processor is most of it, and how long that takes changes from second to second.
    async fn latency(&mut self, arms: &[Arm]) -> anyhow::Result<()> {
        let (mut to_direct, mut to_sidecar) =
            (self.events(echo_topic(Arm::Direct))?, self.events(echo_topic(Arm::Sidecar))?);
        let mut direct = self.direct.echo(echo_group(Arm::Direct)).await?;
        let mut hop = sidecar::Echo::open(&self.writer.client, &self.echo.client, echo_group(Arm::Sidecar)).await?;
        let mut took: BTreeMap<Arm, Vec<Duration>> = BTreeMap::new();
        let (mut unary, mut asks) = (Vec::new(), Vec::new());
        for _ in 0..self.counts.one_at_a_time {
            for &arm in arms {
                let samples = took.entry(arm).or_default();
                match arm {
                    Arm::Direct => samples.push(direct.round(&mut to_direct).await?),
                    Arm::Sidecar => {
                        samples.push(hop.round(&mut to_sidecar).await?);
                        unary.push(hop.round_unary(&mut to_sidecar).await?);
                        asks.push(hop.round_ask(&mut to_sidecar).await?);
                    }
                }
            }
        }
        // Closed before its last ack has arrived, a stream leaves that event to be delivered again in the next round.
        for &arm in arms {
            settled(&self.bus.jetstream, &self.bus.names, echo_group(arm)).await?;
        }
        for (arm, samples) in took {
            self.samples.echo.entry(arm).or_default().extend(Latency::of(samples));
        }
        self.samples.echo_unary.extend(Latency::of(unary));
        self.samples.ask.extend(Latency::of(asks));
        Ok(())
    }

    fn meter(&self, arm: Arm, sidecar: &Sidecar) -> Meter {
        Meter::start(sidecar.pid.filter(|_| arm == Arm::Sidecar), self.bus.pid())
    }
}

async fn within<T>(what: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let start = Instant::now();
    // Boxed: these futures hold whole streams.
    let bounded = tokio::time::timeout(STEP_MAX, Box::pin(step));
    progress::during(what, bounded).await.unwrap_or_else(|_| {
        let why = format!(
            "`{what}` is not done after {:.0?}; try fewer --events, and stop what else runs here",
            start.elapsed()
        );
        Err(fault(Code::BrokerDown, why))
    })
}
