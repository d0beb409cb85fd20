//! The control plane alone, for images. `agentbus control-plane` is the same.

use std::process::ExitCode;

use agentbus_control_plane::args::{self, Args};
use agentbus_proto::{Code, Fault};
use clap::Parser;

#[derive(Parser)]
#[command(name = "agentbus-control-plane", version, about = "The control plane of one namespace")]
struct Cli {
    #[command(flatten)]
    args: Args,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Err(error) = agentbus_runtime::secrecy::keep() {
        eprintln!("error: cannot keep other processes from reading this one: {error}");
        return ExitCode::FAILURE;
    }
    // Beside this program lies `agentbus`, which `--spawn` needs for sidecars and runners.
    let own = std::env::current_exe().unwrap_or_default();
    match Box::pin(args::run(Cli::parse().args, own.with_file_name("agentbus"))).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let code = error.downcast_ref::<Fault>().map_or(Code::BadConfig.exit(), |fault| fault.code.exit());
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}
