//! What is measured: the command line, and the counts that follow from it.

use std::path::PathBuf;

use agentbus_proto::Code;
use clap::ValueEnum;
use serde::Serialize;

use crate::exit::fault;

/// Events of one measurement at full speed. A debug build is ten times slower and serves only to try the command out.
const EVENTS: u64 = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
/// Bytes the broker's stream holds beside an event's data: the other fields, headers, subject, bookkeeping. Rounded up.
const OVERHEAD_BYTES: u64 = 800;
/// What one measurement may put into the events stream, which takes 1 GiB.
const STORED_BYTES_MAX: u64 = 900 << 20;

/// Measure the sidecar against raw async-nats, on a nats-server of its own
///
/// Starts a nats-server in a temporary folder and measures both ways round by round on it, so that the two meet the same noise.
/// Prints medians: ratios first, then figures, then what they were measured on. Nothing else should run on the machine meanwhile.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Events of one measurement at full speed; the slower ones take a share of it
    #[arg(long, value_name = "N", default_value_t = EVENTS, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub events: u64,
    /// Bytes of data in each event
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub size: u32,
    /// Measure one way only
    #[arg(long, value_enum, default_value_t = Choice::Both)]
    pub arm: Choice,
    /// Measure one thing only
    #[arg(long, value_enum)]
    pub only: Option<Step>,
    /// How often everything is measured; the medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// Measure the sidecar once more behind the wall (`broker: {wall: true}`), in turns with the rest on a second nats-server
    #[arg(long)]
    pub wall: bool,
    /// The nats-server program to use [default: AGENTBUS_NATS_SERVER, PATH, cache, or obtained]
    #[arg(long, value_name = "FILE")]
    pub nats_server: Option<PathBuf>,
}

/// The two ways from a program to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The program is a NATS client.
    Direct,
    /// The program talks to its sidecar.
    Sidecar,
}

impl Arm {
    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Sidecar => "sidecar",
        }
    }
}

/// Which of them to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Raw async-nats.
    Direct,
    /// Through the sidecar.
    Sidecar,
    /// Both: only this gives ratios.
    Both,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Confirmed publishing.
    Publish,
    /// Receiving with acks.
    Deliver,
    /// From publish to received, and from ask to reply, one event at a time.
    Latency,
}

/// How many of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// At full speed: streaming publish, deliver.
    pub streaming: u64,
    /// Unary publish with 64 in flight.
    pub unary_64: u64,
    /// Unary publish and end to end, one at a time.
    pub one_at_a_time: u64,
}

impl Args {
    /// Refuses what would not fit into the stream.
    pub fn check(&self) -> anyhow::Result<()> {
        let bytes = self.events * (u64::from(self.size) + OVERHEAD_BYTES);
        if bytes > STORED_BYTES_MAX {
            let most = STORED_BYTES_MAX / (u64::from(self.size) + OVERHEAD_BYTES);
            let why =
                format!("{} events of {} bytes do not fit into the stream; at most {most} do", self.events, self.size);
            return Err(fault(Code::BadConfig, why));
        }
        Ok(())
    }

    /// The counts: each measurement of a default run takes about a second.
    pub fn counts(&self) -> Counts {
        Counts {
            streaming: self.events,
            unary_64: (self.events / 5).max(1_000),
            one_at_a_time: (self.events / 50).clamp(200, 5_000),
        }
    }

    /// The arms in the order of this round: who goes first changes, so that neither always meets the warmer server.
    pub fn arms(&self, round: u32) -> Vec<Arm> {
        match self.arm {
            Choice::Direct => vec![Arm::Direct],
            Choice::Sidecar => vec![Arm::Sidecar],
            Choice::Both if round.is_multiple_of(2) => vec![Arm::Direct, Arm::Sidecar],
            Choice::Both => vec![Arm::Sidecar, Arm::Direct],
        }
    }

    /// What is measured behind the wall: the sidecar only, since a program with full rights is never there.
    pub fn behind_the_wall(&self) -> Self {
        Self { arm: Choice::Sidecar, ..self.clone() }
    }

    /// Whether this is to be measured.
    pub fn wants(&self, step: Step) -> bool {
        self.only.is_none_or(|only| only == step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        let (arm, only, nats_server) = (Choice::Both, None, None);
        Args { events: 100_000, size: 256, arm, only, rounds: 3, wall: false, nats_server }
    }

    #[test]
    fn the_arms_take_turns() {
        assert_eq!(args().arms(0), [Arm::Direct, Arm::Sidecar]);
        assert_eq!(args().arms(1), [Arm::Sidecar, Arm::Direct]);
        assert_eq!(Args { arm: Choice::Sidecar, ..args() }.arms(0), [Arm::Sidecar]);
    }

    #[test]
    fn what_does_not_fit_into_the_stream_is_refused() {
        assert!(args().check().is_ok());
        assert!(Args { events: 100_000, size: 65_536, ..args() }.check().is_err());
    }

    #[test]
    fn small_runs_still_have_percentiles() {
        let counts = Args { events: 1_000, ..args() }.counts();
        assert_eq!((counts.unary_64, counts.one_at_a_time), (1_000, 200));
    }
}
