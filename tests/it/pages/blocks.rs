//! The `console` blocks of a page: reading the commands with their outputs, and writing real outputs back.

use std::path::Path;

use regex::Regex;

/// A command and the output that the page shows for it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Step {
    pub command: String,
    pub output: String,
}

/// The steps of all blocks. A line that starts with `$ ` begins a step; a here-document belongs to its command.
pub(super) fn steps(text: &str) -> Vec<Step> {
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

/// The page with the outputs replaced; the temporary home is shown as `~`.
pub(super) fn updated(text: &str, outputs: &[String], home: &Path) -> String {
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
fn blocks_are_read_with_their_here_documents() {
    let text = "x\n```console\n$ cat <<'EOF'\na\nEOF\na\n$ true\n```\n```sh\n$ no\n```\n";
    let expected = [
        Step { command: "cat <<'EOF'\na\nEOF".into(), output: "a\n".into() },
        Step { command: "true".into(), output: String::new() },
    ];
    assert_eq!(steps(text), expected);
}
