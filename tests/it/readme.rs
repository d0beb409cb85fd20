//! Executes the README: every `$` line of its `console` blocks in one shell, in order, and compares what it prints.
//!
//! What differs from run to run (ids, times, ports, paths, sizes) is made equal on both sides before comparing.
//! `AGENTBUS_UPDATE_README=1` writes the real output into the file instead.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;

/// A command and the output that the README shows for it.
#[derive(Debug, Default, Clone, PartialEq)]
struct Step {
    command: String,
    output: String,
}

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

/// The steps of all blocks. A line that starts with `$ ` begins a step; a here-document belongs to its command.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut heredoc) = (false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && heredoc {
            let step = steps.last_mut().expect("a command before");
            step.command.push_str(&format!("\n{line}"));
            heredoc = line != "EOF";
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            heredoc = command.contains("<<'EOF'");
            steps.push(Step { command: command.to_owned(), output: String::new() });
        } else if inside {
            let step = steps.last_mut().expect("a command before its output");
            step.output.push_str(&format!("{line}\n"));
        }
    }
    steps
}

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
    let script = format!("trap 'cd \"$HOME_OF_TEST/hello\" && agentbus down >/dev/null 2>&1' EXIT\n{script}");
    let mut shell = Command::new("timeout");
    shell.args(["120", "bash", "-c", &script]).current_dir(home).env("PATH", path).env("COLUMNS", "100");
    shell
        .env("HOME_OF_TEST", home)
        .env("XDG_STATE_HOME", home.join(".local/state"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    for variable in ["AGENTBUS_URL", "AGENTBUS_TOKEN", "AGENTBUS_DIR", "AGENTBUS_CONFIG", "RUST_BACKTRACE"] {
        shell.env_remove(variable);
    }
    let output = shell.output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts: Vec<String> = text.split(&format!("{MARK}\n")).map(str::to_owned).collect();
    let rest = parts.pop().unwrap_or_default();
    assert_eq!(parts.len(), steps.len(), "the shell stopped early, after:\n{}\n{rest}", parts.join("\n"));
    parts
}

/// Makes equal what differs from run to run.
fn normal(text: &str) -> String {
    let rules = [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
        (r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", "<trace>"),
        (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", "<time>"),
        (r"127\.0\.0\.1:\d+", "<address>"),
        (r"\S*/(agentbus/[\w.-]+)-[0-9a-f]{8}", "<state>/$1"),
        (r"\S*/hello/agentbus.yaml", "<project>"),
        (r"AGENTBUS_TOKEN=\S+", "AGENTBUS_TOKEN=<token>"),
        (r#""delivery_id": "[^"]+""#, "\"delivery_id\": <delivery>"),
        (r"nats-server \d+\.\d+\.\d+", "nats-server <version>"),
        (r"\d+\.\d+\.\d+ from .*", "<version> from <somewhere>"),
        (r"\d+(\.\d+)? (B|KiB|MiB|GiB)\b", "<size>"),
        (r"process \d+", "process <pid>"),
        (r"\b\d{3,}\b", "<number>"),
        (r"─+|[ \t]+", " "),
    ];
    let mut text = text.to_owned();
    for (pattern, by) in rules {
        text = Regex::new(pattern).expect("a pattern").replace_all(&text, by).into_owned();
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// The README with the outputs replaced; the temporary home is shown as `~`.
fn updated(text: &str, outputs: &[String], home: &Path) -> String {
    let mut outputs = outputs.iter();
    let (mut result, mut inside, mut heredoc) = (String::new(), false, false);
    let mut flush = |result: &mut String, pending: &mut bool| {
        if std::mem::take(pending) {
            let output = outputs.next().expect("an output per command");
            // No path of the machine it was made on.
            let own = std::env::var("HOME").unwrap_or_default();
            let output = output.replace(&home.display().to_string(), "~").replace(&own, "~");
            result.push_str(&Regex::new(r"[ \t]+\n").expect("a pattern").replace_all(&output, "\n"));
            if !output.is_empty() && !output.ends_with('\n') {
                result.push('\n');
            }
        }
    };
    let mut pending = false;
    for line in text.lines() {
        let command = inside && !heredoc && line.starts_with("$ ");
        if line.starts_with("```") || command {
            flush(&mut result, &mut pending);
        }
        if line.starts_with("```") {
            inside = line == "```console";
        }
        if command {
            pending = true;
            heredoc = line.contains("<<'EOF'");
        } else if inside && heredoc {
            heredoc = line != "EOF";
        } else if inside && !line.starts_with("```") {
            continue;
        }
        result.push_str(line);
        result.push('\n');
    }
    result
}

#[test]
fn the_readme_does_what_it_says() {
    let text = std::fs::read_to_string(readme()).expect("README.md");
    let steps = steps(&text);
    assert!(steps.len() > 20, "the blocks are found");
    let home = tempfile::Builder::new().prefix("agentbus-readme-").tempdir().expect("temporary folder");
    let outputs = run(&steps, home.path());
    if std::env::var_os("AGENTBUS_UPDATE_README").is_some() {
        std::fs::write(readme(), updated(&text, &outputs, home.path())).expect("written");
        return;
    }
    let mut wrong = Vec::new();
    for (step, output) in steps.iter().zip(&outputs) {
        let (expected, actual) = (normal(&step.output), normal(output));
        if expected != actual {
            wrong.push(format!("$ {}\n--- README\n{expected}\n--- real\n{actual}\n", step.command));
        }
    }
    assert!(wrong.is_empty(), "{} of {} steps differ:\n{}", wrong.len(), steps.len(), wrong.join("\n"));
}

#[test]
fn blocks_are_read_with_their_here_documents() {
    let text = "x\n```console\n$ cat <<'EOF'\na\nEOF\na\n$ true\n```\n```sh\n$ no\n```\n";
    let expected = [
        Step { command: "cat <<'EOF'\na\nEOF".into(), output: "a\n".into() },
        Step { command: "true".into(), output: String::new() },
    ];
    assert_eq!(steps(text), expected);
}
