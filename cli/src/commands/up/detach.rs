//! `up -d`: starts itself again without a terminal, and waits until that one is ready or has failed.
//!
//! The child makes a session of its own (`up --detached`); its output goes to `up.log` in the state folder, and is shown here while we wait.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentbus_proto::Code;
use agentbus_runtime::{drain, launch};
use anyhow::Context;

use super::Args;
use crate::exit::{Silent, fault};
use crate::instance::{self, Global, Instance};
use crate::output;

/// Recovering a large store takes longest; obtaining a nats-server is done before.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Exit code of what a signal ended, as shells have it for Ctrl-C.
const INTERRUPTED: u8 = 130;
/// What the child says when it is ready, as a line of its own.
pub(super) const READY: &str = "ready";
const TICK: Duration = Duration::from_millis(50);

/// The log of a detached `up`.
pub(super) fn log_file(state: &Path) -> PathBuf {
    state.join("up.log")
}

/// Starts the child and waits until it says that it is ready: it writes instance.json before, while agents still start.
pub(super) async fn start(
    global: &Global,
    args: &Args,
    state: &Path,
    nats_server: Option<&Path>,
) -> anyhow::Result<Instance> {
    let log = log_file(state);
    let mut signal = std::pin::pin!(drain::signals()?);
    let mut child = spawn(global, args, state, nats_server, &log)?;
    let (mut shown, mut ready) = (0, false);
    let began = Instant::now();
    loop {
        ready |= show(&log, &mut shown);
        if let Some(status) = child.try_wait().context("cannot watch the new process")? {
            show(&log, &mut shown);
            return Err(failed(status, &log));
        }
        if ready
            && let Ok(instance) = instance::running(state)
            && instance.pid == child.id()
        {
            return Ok(instance);
        }
        if began.elapsed() > READY_LIMIT {
            let message =
                format!("not ready after {} s; it goes on trying, see `{}`", READY_LIMIT.as_secs(), log.display());
            return Err(fault(Code::OutcomeUnknown, message));
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            name = &mut signal => {
                output::say(format!("{name}: it goes on in the background; `agentbus down` stops it"));
                return Err(Silent(INTERRUPTED).into());
            }
        }
    }
}

fn spawn(global: &Global, args: &Args, state: &Path, nats_server: Option<&Path>, log: &Path) -> anyhow::Result<Child> {
    let out = File::options().write(true).create(true).truncate(true).mode(0o600).open(log);
    let out = out.with_context(|| format!("cannot write `{}`", log.display()))?;
    let err = out.try_clone().context("cannot open the log twice")?;
    let mut command = Command::new(launch::own_program().context("cannot find this program's own file")?);
    command.arg("up").arg("--detached").arg("--dir").arg(state);
    if let Some(nats_server) = nats_server {
        command.arg("--nats-server").arg(nats_server);
    }
    if global.json {
        command.arg("--json");
    }
    args.repeat(&mut command);
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    command.spawn().context("cannot start `agentbus up` in the background")
}

/// Copies what is new in the log to stderr; true when it says that all is ready.
fn show(log: &Path, shown: &mut u64) -> bool {
    let mut text = String::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(*shown))?;
        file.read_to_string(&mut text)
    });
    // Whole lines only: the rest comes with the next look.
    if let (Ok(_), Some(end)) = (read, text.rfind('\n')) {
        *shown += end as u64 + 1;
        output::say(&text[..end]);
        return text[..end].lines().any(|line| line == READY);
    }
    false
}

/// Its last line was the error, and it has been shown.
fn failed(status: ExitStatus, log: &Path) -> anyhow::Error {
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if code != 0 => Silent(code).into(),
        _ => anyhow::anyhow!("the new process ended ({status}); see `{}`", log.display()),
    }
}
