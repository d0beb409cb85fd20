//! Whether a folder is the user's alone: nobody else can write to it, or put another one in its place.
//!
//! Every step of the path counts, symbolic links and what they lead through included: who may write to a folder may replace what is in
//! it, but for a folder with the sticky bit, like `/tmp`, where everyone keeps their own. What does not exist yet is nobody's.
//! The administrator is trusted; so is a group that has the user's own number, which by the custom of Linux distributions holds
//! that user alone.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Links followed before it counts as a circle, as Linux has it.
const LINKS_MAX: usize = 40;
/// Shown for owners that do not exist in this user namespace. They can do nothing in it.
const UNMAPPED: u32 = 65534;
const ROOT: u32 = 0;

const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// Of the group and of others.
const ENTERED: u32 = 0o011;

/// The step of the path that is not safe to write in, and why; `None` when all are.
pub(crate) fn danger(path: &Path) -> Option<(PathBuf, String)> {
    danger_to(me(), path)
}

/// The same for who only reads.
pub(crate) fn danger_to_read(path: &Path) -> Option<(PathBuf, String)> {
    // Of what does not exist, whoever could make it.
    let owner = path.ancestors().find_map(|at| at.metadata().ok()).map_or(ROOT, |meta| meta.uid());
    danger_to(reader(me(), owner), path)
}

/// Whether a folder is ours, and nobody else may enter or write to it: what lies in it is out of reach for others.
pub(crate) fn is_shut(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_dir() && meta.mode() & ENTERED == 0) && danger(path).is_none()
}

/// Whether it is a folder of ours, no link to one, that others could write to if they got there.
pub(crate) fn is_left_open(path: &Path) -> bool {
    let writers = GROUP_WRITES | OTHERS_WRITE;
    let left_open = |meta: Metadata| meta.is_dir() && meta.uid() == me() && meta.mode() & writers != 0;
    path.symlink_metadata().is_ok_and(left_open)
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// In whose place we read. The administrator may read what is one user's alone, so takes that user's.
fn reader(me: u32, owner: u32) -> u32 {
    if me == ROOT && owner != UNMAPPED { owner } else { me }
}

fn danger_to(me: u32, path: &Path) -> Option<(PathBuf, String)> {
    let mut todo = steps(&std::path::absolute(path).ok()?);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(step) = todo.pop_front() {
        match Path::new(&step).components().next() {
            Some(Component::ParentDir) => drop(at.pop()),
            // The root takes the place of all before it.
            _ => at.push(&step),
        }
        // What is not there is made by us; what cannot be looked at cannot be used either, and says so then.
        let seen = Step::of(&at.symlink_metadata().ok()?);
        if let Some(why) = judge(&seen, &at, todo.is_empty(), me) {
            return Some((at, why));
        }
        if seen.is_link {
            links += 1;
            let target = at.read_link().ok().filter(|_| links <= LINKS_MAX)?;
            at.pop();
            todo = steps(&target).into_iter().chain(todo).collect();
        }
    }
    None
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components().map(|step| step.as_os_str().to_owned()).collect()
}

/// What is known of one step.
struct Step {
    is_link: bool,
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Step {
    fn of(meta: &Metadata) -> Self {
        Self { is_link: meta.is_symlink(), uid: meta.uid(), gid: meta.gid(), mode: meta.mode() }
    }
}

fn judge(step: &Step, at: &Path, last: bool, me: u32) -> Option<String> {
    let Step { is_link, uid, gid, mode } = *step;
    let is_folder_itself = last && !is_link;
    if uid != me && (is_folder_itself || ![ROOT, UNMAPPED].contains(&uid)) {
        return Some(format!("belongs to user {uid}, not to {me}"));
    }
    // Nobody writes to a link: it can only be replaced, in its folder.
    let writers = if is_link { 0 } else { mode & (OTHERS_WRITE | GROUP_WRITES) };
    if is_folder_itself {
        return (writers != 0).then(|| "can be written by others; `chmod go-w` mends that".to_owned());
    }
    let by_others = writers & OTHERS_WRITE != 0 || writers & GROUP_WRITES != 0 && ![ROOT, me].contains(&gid);
    (by_others && mode & STICKY == 0).then(|| {
        let who = if writers & OTHERS_WRITE == 0 { "g" } else { "go" };
        // Only its owner can mend it.
        let way_out = if uid == me { format!("; `chmod {who}-w {}` mends that", at.display()) } else { String::new() };
        format!("can be written by others, who may replace what is in it{way_out}")
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn each_step_is_judged_by_who_may_write() {
        let check = |uid, gid, mode, last, safe: bool| {
            let step = Step { is_link: false, uid, gid, mode };
            assert_eq!(judge(&step, Path::new("/s"), last, 1000).is_none(), safe, "{uid}:{gid} {mode:o} {last}");
        };
        // The folder itself: ours, and nobody else writes.
        check(1000, 1000, 0o700, true, true);
        check(1000, 100, 0o755, true, true);
        check(1000, 1000, 0o770, true, false);
        check(1000, 1000, 0o702, true, false);
        check(1000, 1000, 0o1777, true, false);
        for other in [0, 1001, UNMAPPED] {
            check(other, other, 0o700, true, false);
        }
        // What leads to it.
        for uid in [0, 1000, UNMAPPED] {
            check(uid, 0, 0o755, false, true);
        }
        check(1001, 1001, 0o755, false, false);
        check(0, 0, 0o1777, false, true);
        check(0, 0, 0o777, false, false);
        check(1000, 1000, 0o775, false, true);
        check(1000, 100, 0o775, false, false);
    }

    #[test]
    fn a_step_of_ours_is_told_with_what_mends_it() {
        let why = |uid, mode| {
            let step = Step { is_link: false, uid, gid: 100, mode };
            judge(&step, Path::new("/home/a"), false, 1000).unwrap()
        };
        assert!(why(1000, 0o775).ends_with("; `chmod g-w /home/a` mends that"));
        assert!(why(1000, 0o777).ends_with("; `chmod go-w /home/a` mends that"));
        assert!(!why(ROOT, 0o775).contains("chmod"), "not ours to mend");
    }

    #[test]
    fn only_the_administrator_reads_in_the_place_of_the_owner() {
        assert_eq!((reader(1000, 1001), reader(1000, ROOT), reader(1000, 1000)), (1000, 1000, 1000));
        assert_eq!((reader(ROOT, 1001), reader(ROOT, ROOT), reader(ROOT, UNMAPPED)), (1001, ROOT, ROOT));
        // What others may write to stays refused, and so does what a third one owns.
        let judged = |uid, mode, last| {
            let step = Step { is_link: false, uid, gid: 1001, mode };
            judge(&step, Path::new("/s"), last, reader(ROOT, 1001)).is_none()
        };
        assert!(judged(1001, 0o700, true) && judged(1001, 0o755, false) && judged(ROOT, 0o755, false));
        assert!(!judged(1001, 0o770, true) && !judged(1001, 0o702, true) && !judged(1002, 0o755, false));
    }

    #[test]
    fn links_are_judged_by_where_they_lie_and_where_they_lead() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        let make = |name: &str, mode: u32| {
            fs::create_dir(place(name)).unwrap();
            fs::set_permissions(place(name), Permissions::from_mode(mode)).unwrap();
        };
        let step = |name: &str| danger(&place(name)).map(|(step, _)| step);
        // What is found is named by its real path.
        let real = |name: &str| root.path().canonicalize().unwrap().join(name);
        make("own", 0o700);
        make("open", 0o777);
        make("tmp", 0o1777);
        for (name, target) in [("link", "own"), ("to-open", "open/state"), ("circle", "circle")] {
            symlink(target, place(name)).unwrap();
        }
        symlink(place("own"), place("open/far")).unwrap();
        symlink("../link/../own", place("tmp/far")).unwrap();
        for safe in ["own", "link", "own/not/yet", "tmp/not-yet", "tmp/far", "own/../link", "circle"] {
            assert_eq!(step(safe), None, "{safe}");
        }
        for unsafe_by in ["open", "open/not-yet", "to-open", "open/far"] {
            assert_eq!(step(unsafe_by), Some(real("open")), "{unsafe_by}");
        }
        assert_eq!(step("tmp"), Some(real("tmp")), "good to lie in, not to be");
    }
}
