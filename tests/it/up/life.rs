//! Starting in the background, looking, stopping; two of them at one place; signals.

use std::time::{Duration, Instant};

use agentbus::instance;
use agentbus_tests::Installation;
use agentbus_tests::installation::signal;
use agentbus_tests::wait::until;
use rustix::process::Signal;
use serde_json::json;

const TALKER: &str = "
version: 1
agents:
  talker: {runner: process, command: [sh, -c, 'echo I talk; exec sleep 1000']}
";

#[tokio::test]
async fn in_the_background_it_starts_is_seen_heard_and_stopped() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", TALKER);
    let up = here.run(&["up", "-d"]).await;
    assert_eq!(up.code, 0, "{}", up.stderr);
    assert!(up.stdout.contains("agentbus is up, namespace default") && up.stdout.contains("talker"), "{}", up.stdout);
    let pid = instance::running(&here.state()).expect("runs").pid;

    let second = here.run(&["up", "-d"]).await;
    assert_eq!(second.code, 64, "{}", second.stderr);
    assert!(
        second.stderr.contains(&format!("process {pid}")) && second.stderr.contains("agentbus down"),
        "{}",
        second.stderr
    );
    let foreground = here.run(&["up"]).await;
    assert_eq!(foreground.code, 64, "{}", foreground.stderr);
    assert!(foreground.stderr.contains(&format!("process {pid}")), "{}", foreground.stderr);

    until("the agent's words", || async {
        let logs = here.run(&["logs"]).await;
        if logs.stdout.contains("I talk") { Ok(()) } else { Err(logs) }
    })
    .await;
    let down = here.json(&["down"]).await;
    assert_eq!(down, json!({"stopped": true, "pid": pid}));
    assert_eq!(here.processes(), []);
    // The words outlive the bus.
    assert!(here.run(&["logs", "talker"]).await.stdout.contains("I talk"));
    let again = here.json(&["down"]).await;
    assert_eq!(again, json!({"stopped": false, "pid": null}));
    let status = here.run(&["status"]).await;
    assert_eq!(status.code, 75, "{}", status.stderr);
    assert!(status.stderr.starts_with("error: CONTROL_PLANE_DOWN: no bus is running"), "{}", status.stderr);
    assert_eq!(status.stdout, "");
}

#[tokio::test]
async fn logs_follow_what_comes() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  echo: {runner: exec, command: [sh, -c, 'cat >&2; echo >&2'], subscribe: [note.>]}
",
    );
    let up = here.up(&[]).await;
    up.all_running().await;
    let out = here.home().join("follow.out");
    let mut follow = here.agentbus(&["logs", "-f", "echo"]);
    let mut follow = follow.stdout(std::fs::File::create(&out).expect("made")).spawn().expect("started");
    assert_eq!(here.run(&["publish", "note.made", "followed"]).await.code, 0);
    until("the followed line", || async {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        if text.contains("followed") { Ok(()) } else { Err(text) }
    })
    .await;
    follow.start_kill().expect("killed");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn a_bus_that_is_killed_by_down_leaves_nothing_and_starts_again() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", TALKER);
    assert_eq!(here.run(&["up", "-d"]).await.code, 0);
    let down = here.run(&["down", "--kill"]).await;
    assert_eq!(down.code, 0, "{}", down.stderr);
    here.nothing_runs().await;
    let up = here.up(&[]).await;
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_is_killed_in_the_end() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  stubborn: {runner: process, command: [sh, -c, \"trap '' TERM INT HUP; echo deaf; while :; do sleep 0.1; done\"]}
",
    );
    let up = here.up(&[]).await;
    up.all_running().await;
    let began = Instant::now();
    assert_eq!(up.stop().await, 0);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_still_leaves_nothing() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  stubborn: {runner: process, command: [sh, -c, \"trap '' TERM INT HUP; echo deaf; while :; do sleep 0.1; done\"]}
",
    );
    let mut up = here.up(&[]).await;
    until("an agent that hears nothing", || async {
        let log = std::fs::read_to_string(here.state().join("logs/stubborn.log")).unwrap_or_default();
        if log.contains("deaf") { Ok(()) } else { Err(log) }
    })
    .await;
    signal(up.instance.pid, Signal::INT);
    until("a stop under way", || async {
        let talk = up.stderr();
        if talk.contains("stopping") { Ok(()) } else { Err(talk) }
    })
    .await;
    let began = Instant::now();
    signal(up.instance.pid, Signal::INT);
    assert_ne!(up.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    here.nothing_runs().await;
}

#[tokio::test]
async fn a_signal_while_it_starts_leaves_nothing() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", TALKER);
    let mut child = here.start_up(&[]);
    until("a broker", || async {
        let running = here.processes();
        if running.iter().any(|one| one.command.contains("--ports_file_dir")) { Ok(()) } else { Err(running) }
    })
    .await;
    signal(child.id().expect("running"), Signal::TERM);
    let status = tokio::time::timeout(Duration::from_secs(40), child.wait()).await.expect("ends").expect("waited");
    // It may just have become ready: then this was an ordinary stop.
    assert!(matches!(status.code(), Some(0 | 75)), "{status}");
    here.nothing_runs().await;
    let up = here.up(&[]).await;
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn what_agents_started_themselves_ends_with_them() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "
version: 1
agents:
  deep: {runner: process, command: [sh, -c, 'sleep 4321 & sleep 4321; true']}
  leaver: {runner: process, command: [sh, -c, 'sleep 4322 & exit 0'], restart: {policy: never}}
  each: {runner: exec, command: [sh, -c, 'sleep 4323 & sleep 4323; true'], subscribe: [note.>]}
",
    );
    let up = here.up(&[]).await;
    let count = |part: &str| here.processes().iter().filter(|one| one.command == part).count();
    up.agent_until("leaver", |agent| agent["state"] == "exited").await;
    assert_eq!(count("sleep 4322"), 0, "whoever leaves takes its own along");
    assert_eq!(here.run(&["publish", "note.made", "1"]).await.code, 0);
    until("children of children", || async {
        let counts = (count("sleep 4321"), count("sleep 4323"));
        if counts == (2, 2) { Ok(()) } else { Err(counts) }
    })
    .await;
    assert_eq!(up.stop().await, 0);
    assert_eq!(here.processes(), []);
}
