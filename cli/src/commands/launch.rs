//! `agentbus launch -- ARGV…` (hidden): the stage between the supervisor's fork and a child's own program.

use std::ffi::OsString;

/// What to become.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<OsString>,
}

/// Becomes the program, or ends with 125 to 127 as shells do.
pub fn run(args: Args) -> ! {
    agentbus_runtime::launch::run(args.argv)
}
