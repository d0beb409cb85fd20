//! The program `agentbus`: all of it is in the library, so that tests and images share it.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentbus::cli::main()
}
