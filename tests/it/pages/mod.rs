//! Executes the README and the guide: every `$` line of a page's `console` blocks in one shell, in order, and compares what it
//! prints.
//!
//! What differs from run to run (ids, times, ports, paths, sizes) is made equal on both sides before comparing (`normal`).
//! `AGENTBUS_UPDATE_PAGES=1` writes the real output into the page instead. At the end every bus that the page left running in a
//! folder of its own is stopped.

mod blocks;
mod normal;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blocks::{Step, steps, updated};
use normal::normal;

const MARK: &str = "@@@ end of step";

/// Runs all commands in one shell and returns what each printed, stdout and stderr together.
fn run(steps: &[Step], home: &Path) -> Vec<String> {
    let mut script = String::from("exec 2>&1\nshopt -s expand_aliases\n");
    for step in steps {
        script.push_str(&format!("{}\nprintf '{MARK}\\n'\n", step.command));
    }
    let bin = agentbus_tests::binary::agentbus().parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    // Whatever happens before, the last thing the shell does is to stop the bus.
    let down = r#"for p in "$HOME_OF_TEST"/*/agentbus.yaml; do (cd "${p%/*}" && agentbus down >/dev/null 2>&1); done"#;
    let script = format!("trap '{down}' EXIT\n{script}");
    let mut shell = Command::new("timeout");
    shell.args(["180", "bash", "-c", &script]).current_dir(home).env("PATH", path).env("COLUMNS", "100");
    shell
        .env("HOME_OF_TEST", home)
        .env("XDG_STATE_HOME", home.join(".local/state"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    for variable in
        ["AGENTBUS_URL", "AGENTBUS_TOKEN", "AGENTBUS_INSTANCE", "AGENTBUS_DIR", "AGENTBUS_CONFIG", "RUST_BACKTRACE"]
    {
        shell.env_remove(variable);
    }
    let output = shell.output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts: Vec<String> = text.split(&format!("{MARK}\n")).map(str::to_owned).collect();
    let rest = parts.pop().unwrap_or_default();
    assert_eq!(parts.len(), steps.len(), "the shell stopped early, after:\n{}\n{rest}", parts.join("\n"));
    parts
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn check(page: &str) {
    let path = root().join(page);
    let text = std::fs::read_to_string(&path).expect("the page");
    let steps = steps(&text);
    assert!(steps.len() > 2, "the blocks are found");
    let home = tempfile::Builder::new().prefix("agentbus-page-").tempdir().expect("temporary folder");
    let outputs = run(&steps, home.path());
    if std::env::var_os("AGENTBUS_UPDATE_PAGES").is_some() {
        std::fs::write(path, updated(&text, &outputs, home.path())).expect("written");
        return;
    }
    let mut wrong = Vec::new();
    for (step, output) in steps.iter().zip(&outputs) {
        let (expected, actual) = (normal(&step.output), normal(output));
        if expected != actual {
            wrong.push(format!("$ {}\n--- {page}\n{expected}\n--- real\n{actual}\n", step.command));
        }
    }
    assert!(wrong.is_empty(), "{} of {} steps differ:\n{}", wrong.len(), steps.len(), wrong.join("\n"));
}

/// A test per page, and the list of those that have one.
macro_rules! pages {
    ($($name:ident: $page:literal,)*) => {
        $(#[test] fn $name() { check($page); })*
        const PAGES: &[&str] = &[$($page),*];
    };
}

// Names in alphabetical order; a chapter without a line here fails `every_chapter_is_executed`.
pages! {
    readme: "README.md",
    addresses: "docs/guide/addresses.md",
    ask: "docs/guide/ask.md",
    backends: "docs/guide/backends.md",
    comfort: "docs/guide/comfort.md",
    history: "docs/guide/history.md",
    limits: "docs/guide/limits.md",
    messages: "docs/guide/messages.md",
    offline: "docs/guide/offline.md",
    order: "docs/guide/order.md",
    status: "docs/guide/status.md",
    time: "docs/guide/time.md",
    doctor: "docs/guide/doctor.md",
    wall: "docs/guide/wall.md",
}

#[test]
fn every_chapter_is_executed() {
    let chapters = std::fs::read_dir(root().join("docs/guide")).into_iter().flatten();
    for chapter in chapters.map(|entry| entry.expect("an entry").file_name()) {
        let page = format!("docs/guide/{}", chapter.to_string_lossy());
        assert!(PAGES.contains(&page.as_str()), "{page} is not executed: add it to `pages!`");
    }
}
