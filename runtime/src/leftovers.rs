//! Processes that a killed supervisor left behind.
//!
//! The kernel ends the direct children of a killed `up` (see `launch`), but not what these have started themselves. Every
//! agent carries a mark in its environment, which its own children inherit; whoever takes the supervisor's place looks for
//! the mark and ends them. Linux only: elsewhere there is no way to read another process's environment, and none is found. Nor is one
//! that forbids it ([`crate::secrecy`]), but to root: a bus that an agent has started.
//!
//! The mark is the path of the state folder and a random id that lies in it. The id alone would be shared with a copy of
//! the folder; the path alone with whatever was there before, or is there in another container.

use std::path::Path;
use std::{fs, io};

use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::state;

/// The environment variable that marks the processes of a bus, see [`mark`].
pub const MARK: &str = "AGENTBUS_STATE";
/// In the state folder; has the id.
const FILE: &str = "mark";
const ID_DIGITS: usize = 32;

/// The mark of a bus. The file with its id is made (0600) when there is none, or one that cannot be used. Only for who holds
/// the folder's lock.
pub fn mark(state: &Path) -> io::Result<String> {
    if let Some(mark) = existing(state) {
        return Ok(mark);
    }
    let id = format!("{:0width$x}", rand::random::<u128>(), width = ID_DIGITS);
    state::write_private(&state.join(FILE), id.as_bytes()).map_err(io::Error::other)?;
    Ok(with_path(state, &id))
}

/// The mark of a bus that has one.
pub fn existing(state: &Path) -> Option<String> {
    let id = fs::read_to_string(state.join(FILE)).ok()?;
    let whole = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| with_path(state, &id))
}

fn with_path(state: &Path, id: &str) -> String {
    // One folder may be named in several ways.
    let path = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    format!("{}#{id}", path.to_string_lossy())
}

/// Ends all processes that carry this mark, except this one and those it runs under. Returns their number.
pub fn end(mark: &str) -> usize {
    let mark = [MARK.as_bytes(), b"=", mark.as_bytes()].concat();
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
    use std::os::unix::fs::PermissionsExt;
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
        assert_eq!(end(&folder), 1);
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(end(&folder), 0);
    }

    #[test]
    fn a_mark_stays_and_belongs_to_its_folder() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(existing(one.path()), None);
        let first = mark(one.path()).unwrap();
        assert_eq!((mark(one.path()).unwrap(), existing(one.path())), (first.clone(), Some(first.clone())));
        let file = one.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // By another name it is the same folder; a copy is not.
        let link = other.path().join("link");
        std::os::unix::fs::symlink(one.path(), &link).unwrap();
        assert_eq!(existing(&link).as_ref(), Some(&first));
        fs::copy(&file, other.path().join(FILE)).unwrap();
        assert_ne!(existing(other.path()).as_ref(), Some(&first));
        // Somebody else's bus at the same place has another one; so has one whose id was damaged.
        for damage in [None, Some(""), Some("junk")] {
            let before = mark(one.path()).unwrap();
            fs::remove_file(&file).unwrap();
            if let Some(junk) = damage {
                fs::write(&file, junk).unwrap();
            }
            assert_eq!(existing(one.path()), None);
            assert_ne!(mark(one.path()).unwrap(), before, "{damage:?}");
        }
    }
}
