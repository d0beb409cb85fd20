//! kill -9 in the middle of an audit: of a checker, of its sidecar, of nats-server, of `up` itself. The report is the same each time.

use std::path::PathBuf;
use std::time::Duration;

use agentbus_tests::installation::kill9;
use agentbus_tests::wait::until_within;
use agentbus_tests::{Installation, Up};
use serde_json::Value;

use super::audit::{self, ONCE};

const FILES: usize = 60;

/// The report of an undisturbed run on the same repository, in a state folder of its own.
async fn undisturbed(here: &Installation) -> String {
    let (state, report) = (here.home().join("undisturbed"), here.home().join("undisturbed.md"));
    let places = [&["--dir"], &[path(&state)][..], &["up"], &ONCE[..], &["--report", path(&report)]].concat();
    let said = here.run(&places).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    audit::read(&report)
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An audit under way, some files through.
async fn under_way() -> (Installation, String, Up) {
    let here = audit::large(FILES).await;
    let wanted = undisturbed(&here).await;
    let up = here.up(&ONCE).await;
    audit::in_the_middle(&here, FILES).await;
    (here, wanted, up)
}

/// The audit completes, the report is the undisturbed one, nothing is left.
async fn completes(here: &Installation, mut up: Up, wanted: &str) {
    assert_eq!(up.ended().await, 0, "{}", up.stderr());
    assert_eq!(audit::result(&up.stdout())["totals"]["files"], FILES);
    assert_eq!(audit::read(&audit::report(here)), wanted);
    here.nothing_runs().await;
}

fn number(agent: &Value, key: &str) -> u32 {
    agent[key].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_else(|| panic!("no {key} in {agent}"))
}

#[tokio::test]
async fn the_report_is_the_same_when_a_checker_is_killed() {
    let (here, wanted, up) = under_way().await;
    let pid = number(&up.agent("check-2").await, "pid");
    kill9(pid);
    let agent = up.agent_until("check-2", |agent| agent["restarts"] == 1).await;
    assert_eq!(agent["last_exit"], "killed by SIGKILL", "{agent}");
    completes(&here, up, &wanted).await;
}

#[tokio::test]
async fn the_report_is_the_same_when_a_sidecar_is_killed() {
    let (here, wanted, up) = under_way().await;
    let pid = number(&up.agent("check-1").await, "sidecar_pid");
    kill9(pid);
    completes(&here, up, &wanted).await;
}

#[tokio::test]
async fn the_report_is_the_same_when_nats_server_is_killed() {
    let (here, wanted, up) = under_way().await;
    kill9(here.broker_pid());
    until_within("a broker that is back", Duration::from_secs(20), || async {
        let talk = up.stderr();
        if talk.contains("nats-server is back") { Ok(()) } else { Err(talk) }
    })
    .await;
    completes(&here, up, &wanted).await;
}

#[tokio::test]
async fn the_report_is_the_same_when_the_gathering_agent_is_killed() {
    let (here, wanted, up) = under_way().await;
    kill9(number(&up.agent("report").await, "pid"));
    completes(&here, up, &wanted).await;
}

#[tokio::test]
async fn the_report_is_the_same_when_one_part_after_the_other_is_killed() {
    let (here, wanted, up) = under_way().await;
    kill9(number(&up.agent("report").await, "sidecar_pid"));
    kill9(number(&up.agent("check-3").await, "pid"));
    up.agent_until("report", |agent| agent["sidecar_restarts"] == 1).await;
    kill9(here.broker_pid());
    kill9(number(&up.agent("check-1").await, "sidecar_pid"));
    up.agent_until("check-1", |agent| agent["sidecar_restarts"].as_u64() >= Some(1)).await;
    completes(&here, up, &wanted).await;
}

#[tokio::test]
async fn the_report_is_the_same_when_the_lister_dies_with_its_sidecar_and_the_broker() {
    let here = audit::large(FILES).await;
    let wanted = undisturbed(&here).await;
    let up = here.up(&ONCE).await;
    until_within("the request", Duration::from_secs(20), || async {
        let status: Value = up.api("/v1/status").await;
        if status["streams"][0]["messages"].as_u64() >= Some(1) { Ok(()) } else { Err(status) }
    })
    .await;
    let list = up.agent("list").await;
    kill9(number(&list, "pid"));
    kill9(number(&list, "sidecar_pid"));
    kill9(here.broker_pid());
    completes(&here, up, &wanted).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_up_takes_everything_with_it_and_the_next_one_goes_on() {
    let (here, wanted, up) = under_way().await;
    up.kill().await;
    here.nothing_runs().await;
    let report: PathBuf = audit::report(&here);
    assert!(!report.exists(), "the first run was in its middle");

    // A run of its own beside the first, which goes on by itself.
    let said = here.run(&["down"]).await;
    assert_eq!((said.code, said.stderr.contains("no bus is running")), (0, true), "{}", said.stderr);
    let up = here.up(&["--demo", "--json"]).await;
    until_within("two complete runs", Duration::from_secs(60), || async {
        let log = audit::read(&here.state().join("logs/notify.log"));
        let done = log.lines().filter(|line| line.contains(&format!("{FILES} files"))).count();
        if done >= 2 { Ok(()) } else { Err((log, up.stderr())) }
    })
    .await;
    assert_eq!(audit::read(&report), wanted);
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_agents_of_a_killed_bus_had_started_ends_with_the_next_one() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  parent: {runner: process, command: [sh, -c, 'sleep 4321; true']}
",
    );
    let up = here.up(&[]).await;
    up.all_running().await;
    let grandchild = agentbus_tests::wait::until("the agent's own child", || async {
        let found = here.processes().into_iter().find(|one| one.command == "sleep 4321");
        found.ok_or_else(|| here.processes())
    })
    .await;
    up.kill().await;
    assert!(here.processes().iter().any(|one| one.pid == grandchild.pid), "the kernel ends direct children only");
    let up = here.up(&[]).await;
    assert!(up.stderr().contains("that a killed bus had left behind"), "{}", up.stderr());
    assert!(here.processes().iter().all(|one| one.pid != grandchild.pid), "it is gone");
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;
}
