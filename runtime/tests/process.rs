//! Children: how they start, what becomes of their descendants, and that a killed supervisor leaves nothing behind.
//!
//! The two ignored tests are not tests: they are the other processes of the tests above them, since a test binary has no
//! `launch` subcommand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper fails its test")]

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use agentbus_runtime::launch;
use agentbus_runtime::logs::LogFile;
use agentbus_runtime::process::{Child, Error, Exit, Input, Output, Spec};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

const PATIENCE: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Spec {
    let path = std::env::var("PATH").unwrap();
    Spec { env: vec![("PATH".to_owned(), path)], ..Spec::new(["sh", "-c", script]) }
}

/// Goes through a real launcher stage: a shell packs the argv into a variable and becomes this binary's `launcher_stage`.
fn launched(mut spec: Spec) -> Spec {
    let pack = r#"IFS=$(printf '\037'); export TEST_ARGV="$*"; exec "$0" --exact launcher_stage --ignored --nocapture"#;
    let own = std::env::current_exe().unwrap().into_os_string();
    spec.launcher = vec!["/bin/sh".into(), "-c".into(), pack.into(), own];
    spec
}

#[test]
#[ignore = "the launcher's half of other tests"]
fn launcher_stage() {
    let Ok(argv) = std::env::var("TEST_ARGV") else { return };
    launch::run(argv.split('\u{1f}').map(OsString::from).collect());
}

#[test]
#[ignore = "the other process of the test below"]
fn raising_stage() {
    let Ok(out) = std::env::var("TEST_OUT") else { return };
    agentbus_runtime::files::raise_open_max();
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(own.current, own.maximum);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut child = launched(shell(&format!("ulimit -Sn > {out}; env >> {out}"))).spawn().await.unwrap();
        child.wait().await.unwrap();
    });
}

#[tokio::test]
async fn a_child_has_the_limit_of_open_files_from_before_it_was_raised() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("limit");
    let own = std::env::current_exe().unwrap();
    let stage = format!("ulimit -Sn 100; exec {} --exact raising_stage --ignored --nocapture", own.display());
    let mut spec = shell(&stage);
    spec.env.push(("TEST_OUT".to_owned(), out.to_str().unwrap().to_owned()));
    let mut child = spec.spawn().await.unwrap();
    assert!(matches!(child.wait().await.unwrap(), Exit { code: Some(0), .. }));
    let told = std::fs::read_to_string(out).unwrap();
    assert_eq!(told.lines().next(), Some("100"));
    assert!(!told.contains("AGENTBUS_LAUNCH"), "{told}");
}

/// Whether a process runs: one that nobody reaps does not.
fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Some(value) => return value,
            None if start.elapsed() > PATIENCE => panic!("waited in vain for: {what}"),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The process id that a child wrote into a file, with a line end.
async fn pid_in(path: &Path) -> i32 {
    until("a pid file", || std::fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()).await
}

async fn output(spec: Spec) -> (Exit, String) {
    let mut child = Spec { stdout: Output::Piped, ..spec }.spawn().await.unwrap();
    let mut text = String::new();
    child.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    (child.wait().await.unwrap(), text)
}

#[tokio::test]
async fn the_environment_is_complete_and_the_exit_is_told() {
    let mut spec = shell(r#"echo "$A ${HOME-none} $PWD"; exit 3"#);
    spec.env.push(("A".to_owned(), "b c".to_owned()));
    spec.cwd = Some("/".into());
    let (exit, text) = output(spec).await;
    assert_eq!(text, "b c none /\n");
    assert_eq!((exit.to_string().as_str(), exit.success()), ("exit code 3", false));
    let (exit, _) = output(shell("kill -KILL $$")).await;
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    assert!(exit.to_string().contains("KILL"), "{exit}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    assert!(matches!(Spec::default().spawn().await, Err(Error::NoProgram)));
    let error = Spec::new(["/no/such/program"]).spawn().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start `/no/such/program`");
    // Through the launcher the child starts, says why it cannot go on, and ends as in a shell.
    let folder = tempfile::tempdir().unwrap();
    let log = LogFile::open(&folder.path().join("log")).unwrap();
    let mut spec = launched(Spec::new(["/no/such/program"]));
    spec.stderr = Output::Log(log.clone());
    let exit = spec.spawn().await.unwrap().wait().await.unwrap();
    assert_eq!(exit.code, Some(127));
    log.flush(PATIENCE);
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(text.contains("agentbus launch: cannot start `/no/such/program`"), "{text}");
}

#[tokio::test]
async fn stdin_stays_open_while_waiting() {
    let mut child = Spec { stdin: Input::Piped, stdout: Output::Piped, ..shell("read line; echo got $line") }
        .spawn()
        .await
        .unwrap();
    let mut lines = BufReader::new(child.stdout().unwrap()).lines();
    // The same wait would close stdin if it could.
    assert!(tokio::time::timeout(Duration::from_millis(50), child.wait()).await.is_err());
    child.stdin().unwrap().write_all(b"it\n").await.unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "got it");
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn output_goes_to_the_log_and_ends_before_wait_does() {
    let folder = tempfile::tempdir().unwrap();
    let log = LogFile::open(&folder.path().join("log")).unwrap();
    let mut spec = launched(shell("seq 500; echo oops >&2"));
    spec.stdout = Output::Log(log.clone());
    spec.stderr = Output::Log(log.clone());
    assert!(spec.spawn().await.unwrap().wait().await.unwrap().success());
    log.flush(PATIENCE);
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(text.contains("Z stdout 500\n") && text.contains("Z stderr oops\n"), "{text}");
}

/// A shell that ignores SIGTERM, and so does its child, whose pid it writes down.
async fn stubborn(folder: &Path, wrap: impl FnOnce(Spec) -> Spec) -> (Child, i32) {
    let file = folder.join("pid");
    let script = format!("trap '' TERM; sleep 1000 & echo $! > {0}~; mv {0}~ {0}; wait; wait", file.display());
    let child = wrap(shell(&script)).spawn().await.unwrap();
    let grandchild = pid_in(&file).await;
    assert!(alive(grandchild));
    (child, grandchild)
}

async fn gone(pid: i32) {
    until("a process to end", || (!alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed_with_its_descendants() {
    for wrap in [launched, std::convert::identity] {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, grandchild) = stubborn(folder.path(), wrap).await;
        let before = Instant::now();
        let exit = child.terminate(Duration::from_millis(200)).await.unwrap();
        assert!(before.elapsed() >= Duration::from_millis(200));
        assert_eq!(exit.signal, Some(9));
        gone(grandchild).await;
        assert_eq!(child.terminate(Duration::ZERO).await.unwrap(), exit, "twice is harmless");
    }
}

#[tokio::test]
async fn a_child_that_obeys_ends_within_the_grace() {
    // Its own child would not obey, and is killed after it.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script =
        format!("(trap '' TERM; echo $$; exec sleep 1000) & trap 'exit 7' TERM; echo $! > {}; wait", file.display());
    let mut child = launched(shell(&script)).spawn().await.unwrap();
    let grandchild = pid_in(&file).await;
    let exit = child.terminate(PATIENCE).await.unwrap();
    assert_eq!(exit.code, Some(7));
    gone(grandchild).await;
}

#[tokio::test]
async fn what_a_child_leaves_behind_is_killed() {
    let (exit, text) = output(launched(shell("sleep 1000 > /dev/null & echo $!"))).await;
    assert!(exit.success());
    let left = text.lines().last().unwrap().parse().unwrap();
    gone(left).await;
}

#[tokio::test]
async fn a_dropped_child_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (child, grandchild) = stubborn(folder.path(), launched).await;
    let pid = i32::try_from(child.pid()).unwrap();
    drop(child);
    gone(pid).await;
    gone(grandchild).await;
}

#[test]
#[ignore = "the supervisor that another test kills"]
fn supervisor_stage() {
    let Ok(file) = std::env::var("TEST_PID_FILE") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // From a thread that ends once the child runs: the child must outlive it.
        let spec = launched(shell(&format!("echo $$ > {file}~; mv {file}~ {file}; exec sleep 1000")));
        let handle = tokio::runtime::Handle::current();
        let thread = std::thread::spawn({
            let file = file.clone();
            move || {
                handle.block_on(async {
                    let child = spec.spawn().await.unwrap();
                    pid_in(Path::new(&file)).await;
                    child
                })
            }
        });
        let mut child = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        std::fs::write(format!("{file}.joined"), "").unwrap();
        child.wait().await.unwrap();
    });
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_supervisor_leaves_no_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let own = std::env::current_exe().unwrap().into_os_string();
    let mut spec = Spec::new([own, "--exact".into(), "supervisor_stage".into(), "--ignored".into()]);
    spec.env = vec![
        ("PATH".to_owned(), std::env::var("PATH").unwrap()),
        ("TEST_PID_FILE".to_owned(), file.to_str().unwrap().to_owned()),
    ];
    let mut supervisor = spec.spawn().await.unwrap();
    let orphan = pid_in(&file).await;
    until("the thread to end", || folder.path().join("pid.joined").exists().then_some(())).await;
    let early = tokio::time::timeout(Duration::from_millis(100), gone(orphan)).await;
    assert!(early.is_err(), "it outlives the thread that asked for it");
    kill_process(Pid::from_raw(i32::try_from(supervisor.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(supervisor.wait().await.unwrap().signal, Some(9));
    gone(orphan).await;
}
