//! `agentbus down`: stops the bus of this project.
//!
//! Signals only the process that holds the state folder's lock *and* started when it says it did: a process id alone could be
//! somebody else's by now.

use std::path::Path;
use std::time::Duration;

use agentbus_proto::Code;
use agentbus_runtime::state::InstanceLock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::exit::fault;
use crate::instance::{self, Global, Instance};
use crate::output;

/// `up` gives agents 10 s, sidecars 10 s and the broker 10 s.
const WAIT: Duration = Duration::from_secs(45);
const TICK: Duration = Duration::from_millis(50);

/// Stop the bus: agents, sidecars, control plane, broker
///
/// Agents finish or give back what they hold. Nothing stored is lost; the next `agentbus up` goes on where this one stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agentbus down\n  agentbus down --kill")]
pub struct Args {
    /// Kill at once instead of asking; deliveries in work come again after the next start
    #[arg(long)]
    pub kill: bool,
}

/// Stops it and waits until it is gone.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    instance::for_person()?;
    let state = instance::state_dir(global)?;
    let Some(holder) = InstanceLock::holder(&state) else {
        output::say(format!("no bus is running in `{}`", state.display()));
        return answer(global, None);
    };
    let pid = check(&state, &holder)?;
    let signal = if args.kill { Signal::KILL } else { Signal::TERM };
    output::say(format!("stopping the bus in `{}` (process {holder})", state.display()));
    kill_process(pid, signal)
        .map_err(|error| fault(Code::ScopeDenied, format!("cannot signal process {holder}: {error}")))?;
    let gone = async {
        while InstanceLock::holder(&state).is_some() {
            tokio::time::sleep(TICK).await;
        }
    };
    if tokio::time::timeout(WAIT, gone).await.is_err() {
        let message = format!(
            "process {holder} has not stopped within {} s; `agentbus down --kill` ends it at once",
            WAIT.as_secs()
        );
        return Err(fault(Code::OutcomeUnknown, message));
    }
    output::say("stopped");
    answer(global, Some(&holder))
}

fn answer(global: &Global, stopped: Option<&str>) -> anyhow::Result<()> {
    if global.json {
        let pid = stopped.and_then(|pid| pid.parse::<u32>().ok());
        return output::json(&json!({"stopped": stopped.is_some(), "pid": pid}));
    }
    Ok(())
}

/// The process to signal. While it starts there is no instance.json yet; then the lock alone has to do.
fn check(state: &Path, holder: &str) -> anyhow::Result<Pid> {
    let unknown = |why: &str| {
        fault(Code::ControlPlaneDown, format!("cannot tell which process runs the bus in `{}`: {why}", state.display()))
    };
    let number: u32 = holder.parse().map_err(|_| unknown("the lock names none; try again"))?;
    let written =
        std::fs::read(instance::file(state)).ok().and_then(|text| serde_json::from_slice::<Instance>(&text).ok());
    if let Some(instance) = written.filter(|instance| instance.pid == number)
        && let (Some(then), Some(now)) = (instance.start_ticks, instance::start_ticks(number))
        && then != now
    {
        return Err(unknown("the process id belongs to another process by now"));
    }
    i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(|| unknown("the lock names no process id"))
}
