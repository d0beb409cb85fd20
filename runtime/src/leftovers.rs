//! Processes that a killed supervisor left behind.
//!
//! The kernel ends the direct children of a killed `up` (see `launch`), but not what these have started themselves. Every
//! agent carries a mark in its environment, which its own children inherit; whoever takes the supervisor's place looks for
//! the mark and ends them. Linux only: elsewhere there is no way to read another process's environment, and none is found.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// The environment variable that marks the processes of a bus; its value is the bus's state folder.
pub const MARK: &str = "AGENTBUS_STATE";

/// Ends all processes marked with `value`, except this one and those it runs under. Returns their number.
pub fn end(value: &OsStr) -> usize {
    let mark = [MARK.as_bytes(), b"=", value.as_bytes()].concat();
    let spared = ancestors();
    let marked = processes().filter(|pid| !spared.contains(pid) && carries(*pid, &mark));
    // A process may end by itself before the signal comes.
    marked.filter(|pid| Pid::from_raw(*pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())).count()
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

fn carries(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

/// This process and all above it: somebody may start a bus from a shell that an agent of the former one opened.
fn ancestors() -> Vec<i32> {
    let mut line = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = line.last().and_then(|pid| parent(*pid)).filter(|parent| *parent > 0) {
        line.push(parent);
    }
    line
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_marked_processes_are_ended() {
        let folder = format!("/nowhere/{}", std::process::id());
        let sleep = |value: &str| {
            let mut command = Command::new("sleep");
            command.arg("60").env(MARK, value).stdin(Stdio::null()).spawn().unwrap()
        };
        let (mut ours, mut other) = (sleep(&folder), sleep("/somewhere/else"));
        assert_eq!(end(folder.as_ref()), 1);
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(end(folder.as_ref()), 0);
    }
}
