//! Repositories for the demo to audit, and what it must find in them.

use std::path::{Path, PathBuf};

use agentbus_tests::Installation;
use agentbus_tests::wait::until_within;
use serde_json::Value;
use std::time::Duration;

/// `up --demo`, ended by itself after the report.
pub const ONCE: [&str; 3] = ["--demo", "--exit-when-done", "--json"];

/// About 25 files, each a trap for a naive audit. Committed.
pub async fn awkward() -> Installation {
    let here = Installation::new().await;
    let files: [(&str, &[u8]); 20] = [
        ("plain.py", b"# TODO one\nx\n# FIXME TODO counts once\n"),
        ("no newline", b"a\nTODO"),
        ("binary.dat", b"TODO\0\nFIXME\0TODO\nx\n"),
        ("latin.txt", b"\xff\xfe FIXME \xe9\nTODO\xff\n"),
        ("empty", b""),
        ("empty2", b""),
        ("old-mac", b"TODO\rTODO\r"),
        ("undiffed.x", b"TODO\n"),
        (".gitattributes", b"*.x -diff\n*.dat binary\n"),
        ("odd:1:name `x`", b"TODO\n"),
        ("tab\tand\nnewline", b"FIXME\n"),
        ("-rf", b"TODO a file that looks like an option\n"),
        ("$(touch pwned)", b"nothing\n"),
        ("café/naïve.txt", "TODO é\n".as_bytes()),
        ("d/copy.py", b"same\n"),
        ("copy", b"same\n"),
        ("deep/er/and/deeper/copy", b"same\n"),
        (".gitignore", b"ignored\n"),
        ("ignored", b"TODO not looked at\n"),
        (
            "d/read me.MD",
            b"[a](../plain.py#x) [b](gone.md) ![c](<../no newline>) [d](http://x/y) [e](#z)\n[r]: lost/file%20s.txt\n",
        ),
    ];
    for (name, content) in files {
        here.write(name, content);
    }
    let long: String = (0..400).map(|line| format!("line {line} TODO\n")).collect();
    here.write("many-markers.txt", long);
    std::os::unix::fs::symlink("plain.py", here.project.join("link")).expect("linked");
    std::os::unix::fs::symlink("d", here.project.join("folder-link")).expect("linked");
    here.commit().await;
    here.write("plain.py", "# TODO one\n# FIXME changed after the commit\nTODO\n");
    here.write("untracked", "TODO nobody tracks me\n");
    here
}

/// Many files, so that a run takes long enough to be interrupted. Every file is another.
pub async fn large(files: usize) -> Installation {
    let here = Installation::new().await;
    for number in 0..files {
        let markers = "TODO x\n".repeat(number % 4);
        here.write(&format!("d{}/f{number}.txt", number % 7), format!("{markers}file {}\n", number / 2));
    }
    here.commit().await;
    here
}

/// What `git grep` counts.
pub async fn markers(here: &Installation) -> u64 {
    // <path> NUL <count>
    let counts = here.git(&["grep", "-zcE", "TODO|FIXME"]).await;
    counts.lines().filter_map(|line| line.rsplit('\0').next()?.parse::<u64>().ok()).sum()
}

/// The result that `up --demo --json` printed last.
pub fn result(stdout: &str) -> Value {
    let documents = serde_json::Deserializer::from_str(stdout).into_iter::<Value>();
    let results: Vec<Value> = documents.filter_map(Result::ok).filter(|value| value.get("totals").is_some()).collect();
    results.last().cloned().unwrap_or_else(|| panic!("no result in {stdout}"))
}

/// Where the report goes unless told otherwise.
pub fn report(here: &Installation) -> PathBuf {
    here.state().join("demo/report.md")
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Lines of the journal: about how many files are through.
pub fn journal_lines(here: &Installation) -> usize {
    let journal = here.state().join("demo/report.md.journal.ndjson");
    std::fs::read(journal).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// Waits until the audit is in the middle: some files are through, and by far not all.
pub async fn in_the_middle(here: &Installation, files: usize) {
    until_within("an audit in its middle", Duration::from_secs(40), || async {
        let lines = journal_lines(here);
        if lines >= files / 6 { Ok(()) } else { Err(lines) }
    })
    .await;
    assert!(journal_lines(here) < files * 3 / 4, "too late: this run is as good as over");
}
