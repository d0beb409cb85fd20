//! The supervisor with real processes and a sidecar played by a shell script.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use agentbus_nats::identity::Authority;

use super::*;
use crate::grants::Common;
use crate::groups::Groups;
use crate::status::InstanceState;

const WAIT: Duration = Duration::from_secs(20);

/// Plays `agentbus`: the launcher, and a sidecar that logs what it is told. `$SCENE` is the folder of the test.
const FAKE: &str = r#"#!/bin/sh
case "$1" in
  launch) shift 2; exec "$@" ;;
  sidecar)
    echo '{"hello":{"public_key":"UAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","pid":1}}'
    read -r start
    if test -e "$PWD/refuse"; then
      echo '{"failed":{"code":"BAD_CONFIG","message":"port taken"}}'
      exit 64
    fi
    case "$start" in *'"jwt":"ey'*) echo granted >> told ;; esac
    case "$start" in *'"listen":"127.0.0.1:0"'*) echo first >> told ;; *'127.0.0.1:4001'*) echo same port >> told ;; esac
    echo '{"ready":{"url":"http://127.0.0.1:4001","admin":"http://127.0.0.1:4002","unix":null}}'
    if test -e "$PWD/expire"; then
      rm "$PWD/expire"
      echo 'Error: token expired' >&2
      exit 1
    fi
    while read -r line; do echo "$line" >> told; done
    echo eof >> told ;;
esac
"#;

struct Scene {
    folder: tempfile::TempDir,
    supervisor: Supervisor,
}

impl Scene {
    fn new(agents: &str, person: bool, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let executable = folder.path().join("agentbus");
        // Written under another name first: a fork elsewhere must not find it open for writing.
        std::fs::write(folder.path().join("fake"), FAKE).unwrap();
        assert!(
            std::process::Command::new("cp")
                .arg(folder.path().join("fake"))
                .arg(&executable)
                .status()
                .unwrap()
                .success()
        );
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755)).unwrap();
        let project = Project::parse(&format!("version: 1\nagents:\n{agents}"), "t").unwrap();
        let common = Common { namespace: "default".into(), servers: vec![], event_bytes_max: 1000 };
        let groups = Groups::declared(&project, person);
        let grants = Grants::new(Arc::new(Authority::generate("default")), common, groups);
        let options = Options {
            project,
            person,
            project_dir: folder.path().to_owned(),
            state_dir: folder.path().to_owned(),
            executable,
            otlp: None,
            drain: Duration::from_secs(5),
            host: None,
        };
        let supervisor = Supervisor::start(options, Arc::new(grants), Audit::new("default").0).unwrap();
        Self { folder, supervisor }
    }

    /// Waits until the first instance is as wanted; says on a time-out how it was.
    async fn until(&self, wanted: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let mut instances = self.supervisor.instances();
        let reached = tokio::time::timeout(WAIT, instances.wait_for(|all| wanted(&all[0]))).await.is_ok();
        let status = self.supervisor.instances().borrow()[0].clone();
        assert!(reached, "{status:#?}");
        status
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("told")).unwrap_or_default()
    }

    /// Waits for words in a log: they are written by a thread of their own.
    async fn logged(&self, name: &str, words: &str) {
        let log = || std::fs::read_to_string(self.folder.path().join("logs").join(name)).unwrap_or_default();
        let written = async {
            while !log().contains(words) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(WAIT, written).await.is_ok(), "{words:?} not in\n{}", log());
    }
}

fn kill(pid: Option<u32>) {
    let pid = pid.unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
}

#[tokio::test]
async fn an_agent_runs_beside_its_sidecar_and_both_are_reaped() {
    let scene = Scene::new(
        "  a: {runner: process, command: [sh, -c, 'trap \"echo agent asked >> told; exit\" TERM; echo I am \
         $AGENTBUS_INSTANCE at $AGENTBUS_URL; sleep 60 & wait']}\n",
        true,
        |_| {},
    );
    scene.supervisor.all_ready(WAIT).await.unwrap();
    let status = scene.until(|status| status.state == InstanceState::Running && status.pid.is_some()).await;
    assert_eq!((status.instance.as_str(), status.runner.as_str(), status.restarts), ("a", "process", 0));
    assert_eq!(status.url.as_deref(), Some("http://127.0.0.1:4001"));
    scene.logged("a.log", "I am a at http://127.0.0.1:4001").await;
    let door = scene.supervisor.person().unwrap();
    assert!(door.token.len() > 40);
    scene.supervisor.stop(WAIT).await;
    assert_eq!(scene.supervisor.instances().borrow()[0].state, InstanceState::Stopped);
    let told = scene.told();
    let order: Vec<&str> = told.lines().filter(|line| line.contains("agent")).collect();
    let [started, stopping, stopped] =
        ["started", "stopping", "stopped"].map(|life| format!(r#"{{"agent":"{life}"}}"#));
    assert_eq!(order, [started.as_str(), &stopping, "agent asked", &stopped]);
    assert!(told.contains(r#"{"drain":{}}"#) && told.ends_with("eof\n"), "{told}");
    for pid in [status.pid, status.sidecar_pid] {
        assert!(!Path::new("/proc").join(pid.unwrap().to_string()).exists());
    }
}

#[tokio::test]
async fn a_killed_sidecar_comes_back_on_its_port_while_the_agent_runs() {
    let scene = Scene::new("  a: {runner: process, command: [sleep, '60']}\n", false, |_| {});
    let before = scene.until(|status| status.state == InstanceState::Running && status.pid.is_some()).await;
    kill(before.sidecar_pid);
    let after = scene.until(|status| status.sidecar_restarts == 1 && status.sidecar_pid.is_some()).await;
    scene.supervisor.all_ready(WAIT).await.unwrap();
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    assert!(after.last_exit.unwrap().contains("sidecar: killed by"));
    scene.supervisor.stop(WAIT).await;
    assert!(scene.told().contains("same port"), "{}", scene.told());
}

#[tokio::test]
async fn a_sidecar_whose_token_expired_is_given_another() {
    let agents = "  a: {runner: process, command: [sleep, '60']}\n";
    let scene = Scene::new(agents, false, |folder| std::fs::write(folder.join("expire"), "").unwrap());
    scene.until(|status| status.sidecar_restarts == 1 && status.state == InstanceState::Running).await;
    scene.supervisor.all_ready(WAIT).await.unwrap();
    assert_eq!(scene.told().matches("granted").count(), 2, "{}", scene.told());
    scene.logged("a.sidecar.log", "token expired").await;
}

#[tokio::test]
async fn a_killed_agent_comes_back_and_its_sidecar_is_told() {
    let scene = Scene::new("  a: {runner: process, command: [sleep, '60']}\n", false, |_| {});
    let before = scene.until(|status| status.state == InstanceState::Running && status.pid.is_some()).await;
    kill(before.pid);
    let after = scene.until(|status| status.restarts == 1 && status.pid.is_some()).await;
    assert_eq!(after.sidecar_pid, before.sidecar_pid);
    scene.supervisor.stop(WAIT).await;
    let told = scene.told();
    // Once killed by a stranger, once stopped on purpose.
    let count = |life: &str| told.matches(&format!(r#"{{"agent":"{life}"}}"#)).count();
    assert_eq!((count("killed"), count("stopped")), (1, 1), "{told}");
}

#[tokio::test]
async fn a_program_that_cannot_run_is_given_up_with_its_cause() {
    let agents = "  a: {runner: process, command: [/no/such/program], restart: {max: 1, per: 1m}}\n";
    let scene = Scene::new(agents, false, |_| {});
    let status = scene.until(|status| status.state == InstanceState::Crashlooping).await;
    assert_eq!((status.restarts, status.last_exit.as_deref()), (1, Some("exit code 127")));
    let fault = scene.supervisor.all_ready(Duration::from_millis(50)).await.unwrap_err();
    assert!(fault.message.contains("`a`: it ended: exit code 127"), "{fault}");
}

#[tokio::test]
async fn an_agent_that_may_end_does() {
    let agents = "  a: {runner: process, command: ['true'], restart: {policy: on-failure}}\n";
    let scene = Scene::new(agents, false, |_| {});
    let status = scene.until(|status| status.state == InstanceState::Exited).await;
    assert_eq!((status.restarts, status.last_exit.as_deref()), (0, Some("exit code 0")));
    scene.supervisor.all_ready(WAIT).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_that_fails_says_why_and_is_tried_again() {
    let agents = "  a: {runner: process, command: [sleep, '60']}\n";
    let scene = Scene::new(agents, false, |folder| std::fs::write(folder.join("refuse"), "").unwrap());
    let status = scene.until(|status| status.sidecar_restarts >= 2).await;
    assert_eq!(status.last_exit.as_deref(), Some("sidecar: BAD_CONFIG: port taken (exit code 64)"));
    std::fs::remove_file(scene.folder.path().join("refuse")).unwrap();
    scene.until(|status| status.state == InstanceState::Running && status.pid.is_some()).await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_killed() {
    let agents = "  a: {runner: process, command: [sh, -c, 'trap \"\" TERM; while :; do sleep 1; done']}\n";
    let scene = Scene::new(agents, false, |_| {});
    let status = scene.until(|status| status.state == InstanceState::Running && status.pid.is_some()).await;
    scene.supervisor.stop(Duration::from_millis(300)).await;
    assert_eq!(scene.supervisor.instances().borrow()[0].state, InstanceState::Stopped);
    assert!(!Path::new("/proc").join(status.pid.unwrap().to_string()).exists());
}
