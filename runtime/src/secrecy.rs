//! Keeps what a process knows from the other processes of its user.
//!
//! Tokens and keys live in memory, and some come in the environment. On Linux any process of the same user may read both under `/proc`
//! (`mem`, `environ`, `fd`), unless the process says no; then no core dump of it is written either. Another program starts readable
//! again (`execve` resets it), so each of ours that holds secrets calls [`keep`] as its first act, and agents are not touched.
//! Root reads everything all the same.

use std::io;

/// Whether [`keep`] does anything on this system.
pub const AVAILABLE: bool = cfg!(target_os = "linux");

/// From now on no other process of this user can read this one's memory, environment and open files, or attach to it.
#[cfg(target_os = "linux")]
pub fn keep() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// There is no such switch here.
#[cfg(not(target_os = "linux"))]
pub fn keep() -> io::Result<()> {
    Ok(())
}
