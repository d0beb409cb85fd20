//! One file per command; this one is the list of them.

pub mod agents;
pub mod ask;
pub mod auth;
pub mod completions;
pub mod control_plane;
pub mod decode;
pub mod dlq;
pub mod docs;
pub mod doctor;
pub mod down;
pub mod env;
pub mod events;
pub mod init;
pub mod launch;
pub mod logs;
pub mod publish;
pub mod receive;
pub mod replay;
pub mod run_exec;
pub mod schedules;
pub mod sidecar;
pub mod status;
pub mod streams;
pub mod subscribe;
pub mod tail;
pub mod top;
pub mod trace;
pub mod up;

use agentbus_runtime::secrecy;

use crate::instance::Global;

/// Every command, in the order in which help shows them; each explains itself on its `Args`.
#[allow(missing_docs)]
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Init(init::Args),
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Logs(logs::Args),
    Env(env::Args),
    Publish(publish::Args),
    Ask(ask::Args),
    Subscribe(subscribe::Args),
    Receive(receive::Args),
    Tail(tail::Args),
    Events(events::Args),
    Replay(replay::Args),
    Trace(trace::Args),
    Decode(decode::Args),
    Dlq(dlq::Args),
    Schedules(schedules::Args),
    Agents(agents::Args),
    Streams(streams::Args),
    Auth(auth::Args),
    Top(top::Args),
    Docs(docs::Args),
    Completions(completions::Args),
    Bench(crate::bench::Args),
    /// Run a sidecar (started by `up`; you rarely call this yourself)
    Sidecar(sidecar::Args),
    ControlPlane(control_plane::Args),
    #[command(hide = true)]
    Launch(launch::Args),
    #[command(hide = true)]
    RunExec(run_exec::Args),
}

/// Runs a command on a runtime of one thread: a command line waits more than it computes, and a sidecar shall be small.
pub fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        // First thing, before threads exist; it becomes another program.
        Command::Launch(args) => launch::run(args),
        // These hold keys and tokens of others for as long as they run.
        Command::Up(_) | Command::Sidecar(_) | Command::ControlPlane(_) => secrecy::keep()?,
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(dispatch(global, command));
    // Not waiting for a blocked read of stdin.
    runtime.shutdown_background();
    result
}

async fn dispatch(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(args) => init::run(global, &args),
        Command::Up(args) => Box::pin(up::run(global, args)).await,
        Command::Down(args) => down::run(global, &args).await,
        Command::Status(args) => status::run(global, &args).await,
        Command::Doctor(args) => Box::pin(doctor::run(global, &args)).await,
        Command::Logs(args) => logs::run(global, &args).await,
        Command::Env(args) => env::run(global, &args),
        Command::Publish(args) => Box::pin(publish::run(global, &args)).await,
        Command::Ask(args) => Box::pin(ask::run(global, &args)).await,
        Command::Subscribe(args) => Box::pin(subscribe::run(global, &args)).await,
        Command::Receive(args) => Box::pin(receive::run(global, &args)).await,
        Command::Tail(args) => Box::pin(tail::run(global, &args)).await,
        Command::Replay(args) => Box::pin(replay::run(global, &args)).await,
        Command::Events(args) => events::run(global, &args).await,
        Command::Trace(args) => trace::run(global, &args).await,
        Command::Decode(args) => decode::run(global, &args),
        Command::Dlq(args) => Box::pin(dlq::run(global, &args)).await,
        Command::Schedules(args) => schedules::run(global, &args).await,
        Command::Agents(args) => agents::run(global, &args).await,
        Command::Streams(args) => Box::pin(streams::run(global, &args)).await,
        Command::Auth(args) => auth::run(global, &args),
        Command::Top(args) => Box::pin(top::run(global, &args)).await,
        Command::Docs(args) => docs::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Bench(args) => Box::pin(crate::bench::run(global, &args)).await,
        Command::Sidecar(args) => Box::pin(sidecar::run(args)).await,
        Command::ControlPlane(args) => Box::pin(control_plane::run(global, args)).await,
        Command::RunExec(args) => Box::pin(run_exec::run(args)).await,
        Command::Launch(args) => launch::run(args),
    }
}
