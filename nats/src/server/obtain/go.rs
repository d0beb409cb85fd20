//! Builds nats-server with the Go toolchain of this machine: `go install` into a folder of ours.
//!
//! Go itself checks what it downloads against its checksum database. Without `go` on PATH this way ends at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::child::run;
use crate::server::find::Options;
use crate::server::{Progress, obtain};

/// The version that is built; the one everything was tried on.
pub const VERSION: &str = "2.15.2";

/// A first build downloads some 20 modules and compiles for a minute on two cores.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) async fn fetch(options: &Options, folder: &Path, progress: &Progress<'_>) -> Result<PathBuf, String> {
    let mut go = obtain::tool(options, "go")?;
    progress(&format!(
        "building nats-server {VERSION} with go install, sources from the Go module proxy (a minute or two, once)"
    ));
    go.arg("install").arg(format!("github.com/nats-io/nats-server/v2@v{VERSION}"));
    // No C compiler needed, and no go.mod of the current folder in the way.
    go.env("GOBIN", folder).env("CGO_ENABLED", "0").env_remove("GOFLAGS").current_dir(folder);
    run("go install", go, LIMIT).await?;
    Ok(folder.join("nats-server"))
}
