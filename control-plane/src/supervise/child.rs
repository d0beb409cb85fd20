//! What the tasks that hold a process say to their instance, and the places they share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentbus_nats::grant::SidecarReport;
use tokio_util::sync::CancellationToken;

use super::host::Host;

/// What became of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// The sidecar's process runs; it is not ready yet.
    SidecarStarted {
        pid: u32,
    },
    /// The sidecar serves here.
    SidecarReady {
        url: String,
        admin: String,
    },
    /// How the sidecar is.
    SidecarReport(SidecarReport),
    /// The sidecar's process ended, or could not be started. Nothing follows from this process.
    SidecarExited {
        cause: String,
    },
    AgentStarted {
        pid: u32,
    },
    /// The agent's process ended, or could not be started. Nothing follows from this process.
    AgentExited {
        success: bool,
        /// By SIGKILL, or with the exit code that shells tell it by.
        killed: bool,
        cause: String,
    },
}

/// What all processes of this supervisor have in common.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The `agentbus` program, for the launcher, the sidecars and the exec runner.
    pub executable: PathBuf,
    /// Working folder of agents.
    pub project_dir: PathBuf,
    /// For sockets.
    pub state_dir: PathBuf,
    /// Collector for sidecars.
    pub otlp: Option<String>,
    /// The environment of this process, read once.
    pub env: Vec<(String, String)>,
    /// How long an agent may take to end after SIGTERM.
    pub agent_grace: Duration,
    /// How long a sidecar may take to drain.
    pub drain: Duration,
    /// Runs sidecars in this process; none = each is a process of its own.
    pub host: Option<Arc<dyn Host>>,
    /// Cancelled when patience is over: whatever still runs is killed.
    pub kill: CancellationToken,
}

impl Place {
    /// Before an argv: the launcher stage, so that a child dies with this process.
    pub fn launcher(&self) -> Vec<std::ffi::OsString> {
        vec![self.executable.clone().into_os_string(), "launch".into(), "--".into()]
    }

    /// The folder of one instance's sidecar: its spool, its counts. Outside the project, where agents do not look.
    pub fn sidecar_state(&self, instance: &str) -> PathBuf {
        self.state_dir.join("sidecars").join(instance)
    }

    /// Variables of this process that pass `allowed`.
    pub fn env_where(&self, allowed: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        self.env.iter().filter(|(key, _)| allowed(key)).cloned().collect()
    }
}

/// The environment of this process; what is not UTF-8 is left out.
pub(super) fn own_env() -> Vec<(String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// Variables every program needs to feel at home, and that hold no secrets.
pub(super) fn is_harmless(key: &str) -> bool {
    matches!(key, "PATH" | "HOME" | "USER" | "LANG" | "TZ" | "TMPDIR") || key.starts_with("LC_")
}
