//! Checks of this machine: the programs, the state folder, the disk, what the kernel offers.

use std::path::Path;

use agentbus_nats::server::{find, find_only};
use agentbus_runtime::{secrecy, state};

use super::{Args, Finding, LIMIT, Report};
use crate::instance::{self, Global, PROJECT_FILE};
use crate::{output, programs, size};

/// Below this the streams get less than they would like.
const FREE_WANTED: u64 = 3 << 30;
const FREE_NEEDED: u64 = 64 << 20;

pub(super) async fn check(global: &Global, args: &Args, report: &mut Report) -> anyhow::Result<()> {
    report.add(nats_server(args).await)?;
    match instance::state_dir(global) {
        Ok(state) => {
            report.add(writable(&state))?;
            free(&state).map_or(Ok(()), |finding| report.add(finding))?;
        }
        Err(error) => report.add(Finding::fail("state folder", error.to_string(), "set HOME, or give --dir"))?,
    }
    project().into_iter().try_for_each(|finding| report.add(finding))?;
    report.add(orphans())?;
    report.add(secrets())
}

async fn nats_server(args: &Args) -> Finding {
    let options = find::Options::from_env(args.nats_server.clone());
    let Ok(found) = tokio::time::timeout(LIMIT, find_only(&options)).await else {
        return Finding::fail("nats-server", "one was found, but it does not tell its version", "name another one");
    };
    match found {
        Ok(binary) => {
            Finding::ok("nats-server", format!("{} from {}: {}", binary.version, binary.source, binary.path.display()))
        }
        Err(find::Error::NotFound { .. }) => Finding::warn(
            "nats-server",
            "none found",
            "`agentbus up` fetches one; or put one on PATH, or name it with --nats-server",
        ),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Finding::fail("nats-server", format!("{error}{cause}"), "name one of version 2.14 or newer, or none")
        }
    }
}

fn writable(state: &Path) -> Finding {
    let existed = state.exists();
    let result = state::create_private(state);
    if !existed {
        // Looking must leave nothing behind; only an empty folder goes.
        let _ = std::fs::remove_dir(state);
    }
    match result {
        Ok(()) => Finding::ok("state folder", state.display().to_string()),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
            Finding::fail(
                "state folder",
                format!("`{}` cannot be written{cause}", state.display()),
                "give another with --dir, or set XDG_STATE_HOME",
            )
        }
    }
}

fn free(state: &Path) -> Option<Finding> {
    let existing = state.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} free", size::human(free));
    Some(if free < FREE_NEEDED {
        Finding::fail("disk", found, "make room, or put the state folder on another disk with --dir")
    } else if free < FREE_WANTED {
        Finding::warn(
            "disk",
            found,
            "the streams are made smaller so that they are full before the disk is (STREAM_FULL)",
        )
    } else {
        Finding::ok("disk", found)
    })
}

fn project() -> Vec<Finding> {
    let Ok(here) = instance::current_dir() else {
        return vec![Finding::warn("project", "the current folder is gone", "")];
    };
    let folder = instance::project_dir(&here);
    let file = folder.join(PROJECT_FILE);
    if !file.exists() {
        return vec![Finding::ok(
            "project",
            "no agentbus.yaml: `up` starts a bus with only you on it (`agentbus init` writes one)",
        )];
    }
    let project = match agentbus_control_plane::spec::Project::load(&file) {
        Ok(project) => project,
        Err(errors) => return vec![Finding::fail("project", errors.to_string(), "repair the file")],
    };
    let agents = output::count(project.agents.len() as u64, "agent", "agents");
    let mut findings = vec![Finding::ok("project", format!("{}: {agents}", file.display()))];
    let missing = programs::missing(&project, &folder);
    if !missing.is_empty() {
        let advice = "install it, or name it with its whole path in agentbus.yaml";
        findings.push(Finding::warn("programs", missing.join("; "), advice));
    }
    findings
}

/// Whether children die with a killed `up`.
fn orphans() -> Finding {
    if cfg!(target_os = "linux") {
        Finding::ok("no orphans", "the kernel ends every child when `up` is killed (PDEATHSIG)")
    } else {
        let found = "unavailable on this system: after `kill -9` of `up`, agents and nats-server may live on";
        Finding::warn("no orphans", found, "stop with `agentbus down`; sidecars notice by themselves and leave")
    }
}

/// Whether tokens and keys in memory can be read by others of the same user, such as agents.
fn secrets() -> Finding {
    if secrecy::AVAILABLE {
        let found = "no other process of yours reads the memory of `up` and sidecars; the state folder it can read";
        Finding::ok("secrets", found)
    } else {
        let found = "unavailable on this system: other processes of yours may read the memory of `up` and sidecars";
        Finding::warn("secrets", found, "run agents you do not trust as another user, or elsewhere")
    }
}
