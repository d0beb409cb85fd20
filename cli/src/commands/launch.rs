//! `agentbus launch -- ARGV…` (hidden): the stage between the supervisor's fork and a child's own program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What to become.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<OsString>,
}

/// Becomes the program, or ends with 125 to 127 as shells do.
pub fn run(args: Args) -> ! {
    if rustix::process::getpgrp() != rustix::process::getpid() {
        agentbus_runtime::launch::run(args.argv);
    }
    // nats-server is started as the leader of its group; a leader cannot make a session, and needs none.
    lead(args.argv)
}

fn lead(argv: Vec<OsString>) -> ! {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        eprintln!("agentbus launch: cannot ask for the death signal: {error}");
        std::process::exit(125);
    }
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let error = Command::new(&program).args(argv).exec();
    eprintln!("agentbus launch: cannot start `{}`: {error}", program.to_string_lossy());
    std::process::exit(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}
