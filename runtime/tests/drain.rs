//! The first signal drains, the second one ends the process at once.

#![allow(clippy::unwrap_used, reason = "a test helper fails its test")]

use agentbus_runtime::drain::Shutdown;
use agentbus_runtime::process::{Output, Spec};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
#[ignore = "the process that the other test sends signals to"]
async fn draining_stage() {
    if std::env::var_os("TEST_DRAIN").is_none() {
        return;
    }
    let shutdown = Shutdown::new();
    shutdown.on_signals().unwrap();
    eprintln!("listening");
    shutdown.requested().await;
    eprintln!("draining");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let own = std::env::current_exe().unwrap().into_os_string();
    let mut spec =
        Spec::new([own, "--exact".into(), "draining_stage".into(), "--ignored".into(), "--nocapture".into()]);
    spec.env = vec![("TEST_DRAIN".to_owned(), "1".to_owned())];
    spec.stderr = Output::Piped;
    let mut child = spec.spawn().await.unwrap();
    let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
    let mut lines = BufReader::new(child.stderr().unwrap()).lines();
    for (expect, signal) in [("listening", Signal::TERM), ("draining", Signal::INT)] {
        while lines.next_line().await.unwrap().unwrap() != expect {}
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(child.wait().await.unwrap().code, Some(130));
}
