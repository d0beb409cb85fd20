//! Started beside an agent: the parent speaks JSON lines on stdin and stdout (see `agentbus_nats::grant`).
//!
//! stdout belongs to the protocol; logs go to stderr. End of stdin means the parent is gone: drain and leave.

use std::time::Duration;

use agentbus_nats::connect::Identity;
use agentbus_nats::grant::{FromSidecar, SidecarReport, Start, ToSidecar};
use agentbus_proto::{Code, Fault};
use agentbus_runtime::telemetry::{self, Telemetry};
use agentbus_runtime::{drain, files};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::app::Sidecar;
use crate::inbound::Hub;

/// How a sidecar is started.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Take the grant from the parent process on stdin (the only way in this version)
    #[arg(long, default_value_t = true)]
    pub stdio: bool,
    /// Export traces to this OTLP endpoint, for example http://127.0.0.1:4317
    #[arg(long, env = "AGENTBUS_OTLP")]
    pub otlp: Option<String>,
    /// Write logs as JSON
    #[arg(long, env = "AGENTBUS_LOG_JSON")]
    pub log_json: bool,
}

/// How often it is looked whether there is something new to tell the parent.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Lines of the parent that wait to be obeyed.
const LINES_MAX: usize = 16;
/// The parent has this long to answer `hello`.
const START_WAIT: Duration = Duration::from_secs(30);

/// Runs until drained. The error was told to the parent already.
pub async fn run(args: Args) -> anyhow::Result<()> {
    files::raise_open_max();
    let signals = drain::signals()?;
    let identity = Identity::new_user();
    let mut lines = read_stdin()?;
    say(&FromSidecar::Hello { public_key: identity.public_key(), pid: std::process::id() }).await?;
    let (sidecar, telemetry) = match begin(args, identity, &mut lines).await {
        Ok(started) => started,
        Err(fault) => {
            say(&FromSidecar::Failed { code: fault.code.as_str().to_owned(), message: fault.message.clone() }).await?;
            return Err(fault.into());
        }
    };
    let (url, admin, unix) = (sidecar.url.clone(), sidecar.admin.clone(), sidecar.unix.clone());
    tracing::info!(%url, %admin, "sidecar ready");
    say(&FromSidecar::Ready { url, admin, unix }).await?;
    tokio::spawn(report(sidecar.reporter()));
    tokio::select! {
        () = obey(&mut lines, &sidecar.hub) => {}
        signal = signals => tracing::info!(signal, "draining"),
        () = sidecar.drain_requested.cancelled() => {}
        () = sidecar.expired.cancelled() => {
            telemetry.shutdown().await;
            anyhow::bail!("token expired and could not be renewed: a new start gets a new one");
        }
    }
    // An agent that exits while we drain has nothing more to finish.
    let hub = sidecar.hub.clone();
    let listen = async {
        obey(&mut lines, &hub).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sidecar.drain() => {}
        () = listen => {}
    }
    telemetry.shutdown().await;
    Ok(())
}

/// From the `start` line to a running sidecar. Telemetry begins here because spans carry the instance's name.
async fn begin(args: Args, identity: Identity, lines: &mut Lines) -> Result<(Sidecar, Telemetry), Fault> {
    let no_line = |_| Fault::new(Code::BadConfig, "no `start` line on stdin within 30 s");
    let start = tokio::time::timeout(START_WAIT, start_line(lines)).await.map_err(no_line)??;
    let telemetry = telemetry::init(telemetry::Options {
        service_name: "agentbus-sidecar".to_owned(),
        instance: Some(start.grant.instance.clone()),
        otlp: args.otlp,
        log_json: args.log_json,
    })
    .map_err(|error| Fault::new(Code::BadConfig, error.to_string()))?;
    match Sidecar::start(start, identity, telemetry.tracer()).await {
        Ok(sidecar) => Ok((sidecar, telemetry)),
        Err(fault) => {
            telemetry.shutdown().await;
            Err(fault)
        }
    }
}

type Lines = mpsc::Receiver<std::io::Result<String>>;

/// The parent's lines, read by a thread of their own: a read of stdin cannot be cancelled, and one inside the runtime
/// would keep a drained process alive for as long as its parent holds the pipe.
fn read_stdin() -> std::io::Result<Lines> {
    let (tx, lines) = mpsc::channel(LINES_MAX);
    let read = move || {
        for line in std::io::stdin().lines() {
            if tx.blocking_send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read)?;
    Ok(lines)
}

async fn start_line(lines: &mut Lines) -> Result<Start, Fault> {
    let bad = |why: String| Fault::new(Code::BadConfig, format!("expected a `start` line on stdin: {why}"));
    let line = lines.recv().await.transpose().map_err(|error| bad(error.to_string()))?;
    match serde_json::from_str(&line.ok_or_else(|| bad("stdin is closed".to_owned()))?) {
        Ok(ToSidecar::Start(start)) => Ok(*start),
        Ok(_) => Err(bad("it was another line".to_owned())),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Returns when it is time to drain.
async fn obey(lines: &mut Lines, hub: &Hub) {
    loop {
        match lines.recv().await {
            Some(Ok(line)) => match serde_json::from_str(&line) {
                Ok(ToSidecar::Agent(life)) => hub.agent_is(life),
                Ok(ToSidecar::Drain {}) => return,
                Ok(ToSidecar::Start(_)) => tracing::warn!("a second `start` line is ignored"),
                Err(error) => tracing::warn!(%error, "unreadable line from the parent"),
            },
            None => return tracing::info!("parent gone, draining"),
            Some(Err(error)) => return tracing::warn!(%error, "cannot read from the parent, draining"),
        }
    }
}

/// Tells how the sidecar is whenever that has changed. Ends with the parent.
async fn report(now: impl Fn() -> SidecarReport) {
    let mut told = SidecarReport::default();
    loop {
        let report = now();
        if report != told {
            told = report.clone();
            if say(&FromSidecar::Report(report)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

async fn say(line: &FromSidecar) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut stdout = tokio::io::stdout();
    stdout.write_all(text.as_bytes()).await?;
    stdout.flush().await?;
    Ok(())
}
