//! How many files and connections a process may have open: as many as the system lets it.
//!
//! The usual soft limit of 1024 is there for programs that use `select`; ours do not. What they start may: the launcher stage
//! gives every child the limit back that this process was started with.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

/// Where the hard limit is none: what macOS takes at least.
const UNLIMITED: u64 = 10_240;

static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit to the hard one. To be called once, at the start; what the system refuses stays as it is.
pub fn raise_open_max() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(UNLIMITED);
    let Some(before) = current.filter(|current| *current < wanted) else { return };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => drop(BEFORE.set(before)),
        Err(error) => debug!(%error, "the limit of open files stays at {before}"),
    }
}

/// The soft limit before it was raised, if it was.
pub(crate) fn before() -> Option<u64> {
    BEFORE.get().copied()
}

/// Sets the soft limit, for a child.
pub(crate) fn give_back(before: u64) {
    let limit = Rlimit { current: Some(before), ..getrlimit(Resource::Nofile) };
    // A child with a higher limit is better than none.
    let _ = setrlimit(Resource::Nofile, limit);
}
