//! The `agentbus` program under test, built once per test run.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Path of the program. Built here, so that `cargo test` alone never tests a stale one.
pub fn agentbus() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(build)
}

fn build() -> PathBuf {
    if let Some(path) = std::env::var_os("AGENTBUS_TEST_BINARY") {
        return path.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // This test binary lies in target/<profile>/deps; the program belongs beside it, in the same profile.
    let own = std::env::current_exe().expect("own path");
    let profile = own.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "agentbus", "--bin", "agentbus"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success(), "the program does not build");
    profile.join("agentbus")
}
