//! The demo on real repositories: right totals, nothing left running, and a file that cannot be read on its way through the dead letters.

use std::os::unix::fs::symlink;
use std::time::Duration;

use agentbus_tests::wait::until_within;
use serde_json::json;

use super::audit::{self, ONCE};

#[tokio::test]
async fn the_demo_counts_an_awkward_repository_right_twice_and_leaves_nothing_running() {
    let here = audit::awkward().await;
    let markers = audit::markers(&here).await;
    for run in 1..=2 {
        let said = here.run(&[&["up"], &ONCE[..]].concat()).await;
        assert_eq!(said.code, 0, "run {run}: {}", said.stderr);
        assert_eq!(here.processes(), [], "run {run}");
        let result = audit::result(&said.stdout);
        let totals = json!({"files": 22, "markers": markers, "broken_links": 2, "duplicate_groups": 2});
        assert_eq!(result["totals"], totals, "run {run}");
        let report = audit::read(&audit::report(&here));
        assert!(report.contains(&format!("| markers | {markers} |")), "{report}");
        assert!(report.contains("deep/er/and/deeper/copy") && report.contains("gone.md"), "{report}");
    }
    assert!(markers > 400 && !here.project.join("pwned").exists());
    // A plain person's run says it in one line.
    let said = here.run(&["up", "--demo", "--exit-when-done"]).await;
    assert!(
        said.stdout.contains(&format!("22 files, {markers} TODO/FIXME markers, 2 broken links")),
        "{}",
        said.stdout
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_dead_lettered_repaired_and_redriven() {
    // What it would have been.
    let good = audit::large(12).await;
    good.write("target", "here\n");
    symlink("target", good.project.join("link")).expect("linked");
    good.commit().await;
    let said = good.run(&[&["up"], &ONCE[..]].concat()).await;
    let wanted = audit::result(&said.stdout)["totals"].clone();

    let here = audit::large(12).await;
    here.write("target", "here\n");
    symlink("target", here.project.join("link")).expect("linked");
    here.commit().await;
    std::fs::remove_file(here.project.join("target")).expect("removed");
    here.write("other", "here\n");
    here.git(&["rm", "-q", "--cached", "target"]).await;
    here.git(&["add", "other"]).await;
    let up = here.up(&["--demo", "--json"]).await;
    let letters = until_within("a dead letter", Duration::from_secs(60), || async {
        let letters = here.json(&["dlq", "list"]).await;
        if letters.as_array().is_some_and(|letters| !letters.is_empty()) { Ok(letters) } else { Err(up.stderr()) }
    })
    .await;
    let letter = &letters[0];
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "{letters}");
    for (key, value) in
        [("class", json!("EXHAUSTED")), ("group", json!("check")), ("attempts", json!(4)), ("to", json!("file.found"))]
    {
        assert_eq!(letter[key], value, "{key} of {letter}");
    }
    let cause = letter["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("cannot read link") && cause.contains("No such file"), "{cause}");
    until_within("an explanation", Duration::from_secs(20), || async {
        let talk = up.stderr();
        if talk.contains("agentbus dlq redrive") && talk.contains("link") { Ok(()) } else { Err(talk) }
    })
    .await;
    let shown = here.json(&["dlq", "show", "1"]).await;
    assert_eq!(shown["event"]["data"]["path"], "link", "{shown}");

    // Repaired without changing what is listed: the link's target is there again.
    here.write("target", "here\n");
    let results = here.json(&["dlq", "redrive", "1"]).await;
    assert_eq!(results[0]["outcome"], "redriven", "{results}");
    let result = until_within("a result", Duration::from_secs(30), || async {
        let out = up.stdout();
        if out.contains("\"totals\"") { Ok(audit::result(&out)) } else { Err(up.stderr()) }
    })
    .await;
    assert_eq!(result["totals"], wanted);
    assert_eq!(here.json(&["dlq", "list"]).await, json!([]), "redriven letters are not listed");
    let all = here.json(&["dlq", "list", "--all"]).await;
    assert_eq!(all[0]["redriven"]["count"], 1, "{all}");
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_demo_that_cannot_complete_ends_with_one_and_says_why() {
    let here = audit::large(3).await;
    symlink("nowhere", here.project.join("link")).expect("linked");
    here.commit().await;
    let said = here.run(&[&["up"], &ONCE[..]].concat()).await;
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(
        said.stderr.contains("dead letter") && said.stderr.contains("nowhere") | said.stderr.contains("link"),
        "{}",
        said.stderr
    );
    here.nothing_runs().await;
}
