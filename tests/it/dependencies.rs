//! The direction of dependencies, their licences and sources, as far as they can be checked offline.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Licences that may be linked into what people install.
const LICENCES: [&str; 14] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "MPL-2.0",
    "CC0-1.0",
    "0BSD",
    "Unlicense",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Who may depend on whom inside the workspace; everything else is a wrong turn.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("agentbus-proto", &[]),
    ("agentbus-runtime", &[]),
    ("agentbus-nats", &["agentbus-proto", "agentbus-runtime"]),
    ("agentbus-sidecar", &["agentbus-proto", "agentbus-runtime", "agentbus-nats"]),
    ("agentbus-control-plane", &["agentbus-proto", "agentbus-runtime", "agentbus-nats"]),
    (
        "agentbus",
        &["agentbus-proto", "agentbus-runtime", "agentbus-nats", "agentbus-sidecar", "agentbus-control-plane"],
    ),
    (
        "agentbus-tests",
        &[
            "agentbus",
            "agentbus-proto",
            "agentbus-runtime",
            "agentbus-nats",
            "agentbus-sidecar",
            "agentbus-control-plane",
        ],
    ),
];

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        // Only what is built here: crates of other systems need not be on this machine.
        .args(["metadata", "--format-version", "1", "--filter-platform", &host()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The target triple that is built for, as rustc names it.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host line").to_owned()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[test]
fn crates_point_one_way() {
    let metadata = metadata();
    let ours: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for package in metadata["packages"].as_array().expect("packages") {
        let Some(allowed) = ours.get(text(package, "name")) else { continue };
        let used: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .map(|dependency| text(dependency, "name"))
            .filter(|name| ours.contains_key(name))
            .collect();
        let wrong: Vec<_> = used.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(wrong.is_empty(), "{} must not depend on {wrong:?}", text(package, "name"));
    }
}

#[test]
fn every_dependency_has_a_known_licence_and_comes_from_the_registry() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = text(package, "name");
        let source = text(package, "source");
        if !source.is_empty() && !source.starts_with("registry+") && !source.starts_with("sparse+") {
            wrong.push(format!("{name}: comes from {source}"));
        }
        let licence = text(package, "license").replace('/', " OR ");
        // One known alternative suffices; of what is joined by AND every part must be known.
        let fine = licence.split(" OR ").any(|alternative| {
            alternative.split(" AND ").all(|part| LICENCES.contains(&part.trim_matches(['(', ')', ' '])))
        });
        if !fine {
            wrong.push(format!("{name}: licence `{licence}`"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
