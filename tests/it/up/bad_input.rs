//! Bad input at the start: each with a clear message, a stable code, and nothing left running.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use agentbus_tests::Installation;
use agentbus_tests::installation::Said;

/// It failed like this, quickly, and nothing runs.
fn refused(here: &Installation, said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    for word in words {
        assert!(said.stderr.contains(word), "no `{word}` in {said:?}");
    }
    assert_eq!(said.stdout, "");
    assert_eq!(here.processes(), []);
}

#[tokio::test]
async fn mistakes_in_the_project_file_are_told_all_at_once_with_their_lines() {
    let here = Installation::new().await;
    here.write(
        "agentbus.yaml",
        "version: 1
namespace: Default
agents:
  check:
    runner: exec
    comand: [x]
    command: [x]
    subscribe: [file..found]
    replicas: lots
  Bad Name: {runner: process, command: [y]}
  later: {runner: claude, command: [z]}
colour: red
",
    );
    for args in [&["up"][..], &["up", "-d"]] {
        let said = here.run(args).await;
        let lines = [
            "agentbus.yaml:2:",
            "agentbus.yaml:6:",
            "agentbus.yaml:8:",
            "agentbus.yaml:9:",
            "agentbus.yaml:10:",
            "agentbus.yaml:11:",
            "agentbus.yaml:12:",
        ];
        refused(&here, &said, 64, &lines);
        refused(&here, &said, 64, &["BAD_CONFIG", "comand", "colour", "Bad Name"]);
    }
    here.write("agentbus.yaml", "version: 1\nagents: [\n");
    refused(&here, &here.run(&["up"]).await, 64, &["agentbus.yaml:", "BAD_CONFIG"]);
    here.write("agentbus.yaml", b"\xff\xfe\x00");
    refused(&here, &here.run(&["up"]).await, 64, &["agentbus.yaml", "BAD_CONFIG"]);
    here.write("agentbus.yaml", "version: 2\n");
    refused(&here, &here.run(&["up"]).await, 64, &["agentbus.yaml:1:", "version"]);
    let said = here.run(&["up", "--config", "no-such.yaml"]).await;
    refused(&here, &said, 64, &["no-such.yaml"]);
    let said = here.run(&["up", "--demo", "--input", "no-such-folder"]).await;
    refused(&here, &said, 65, &["INVALID_EVENT", "no-such-folder"]);
}

#[tokio::test]
async fn a_nats_server_that_cannot_be_used_is_told_with_its_path() {
    let here = Installation::new().await;
    let check = async |name: &str, script: &str, words: &[&str]| {
        let path = here.home().join(name);
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        let path = path.to_str().expect("UTF-8");
        refused(&here, &here.run(&["up", "--nats-server", path]).await, 64, &[&[path], words].concat());
    };
    check("old", "#!/bin/sh\necho 'nats-server: v2.10.4'\n", &["too old", "2.10.4", "--nats-server"]).await;
    check("stranger", "#!/bin/sh\necho hello\n", &["not a nats-server", "hello"]).await;
    check("dying", "#!/bin/sh\nexit 1\n", &["not a nats-server"]).await;
    let said = here.run(&["up", "--nats-server", "/no/such/file"]).await;
    refused(&here, &said, 64, &["/no/such/file", "cannot be run", "No such file"]);

    // New enough by its word, and then it dies: quoted.
    let path = here.home().join("liar");
    std::fs::write(&path, "#!/bin/sh\ntest \"$1\" = --version && { echo 'nats-server: v2.14.0'; exit; }\necho 'no such luck' >&2\nexit 3\n")
        .expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    let said = here.run(&["up", "--nats-server", path.to_str().expect("UTF-8")]).await;
    refused(&here, &said, 75, &["BROKER_DOWN", "no such luck"]);
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_waited_for_a_bounded_time() {
    let here = Installation::new().await;
    // Built before the clock runs.
    agentbus_tests::binary::agentbus();
    let closed = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("address");
    // One that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("bound");
    for address in [closed, silent.local_addr().expect("address")] {
        let state = here.home().join("apart");
        let args = [
            "--dir",
            state.to_str().expect("UTF-8"),
            "control-plane",
            "--server",
            &format!("nats://{address}"),
            "--api-token-file",
            "-",
            "--listen",
            "127.0.0.1:0",
        ];
        let began = Instant::now();
        let said = here.run_with(&args, b"t\n").await;
        refused(&here, &said, 75, &["error: BROKER_DOWN: ", &address.to_string()]);
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn lost_keys_are_told_before_an_empty_bus_comes_up_and_restored_ones_open_the_data_again() {
    let here = Installation::new().await;
    let up = here.up(&[]).await;
    let state = up.state.clone();
    let (keys, saved) = (state.join("keys"), here.home().join("saved"));
    let stored = up.me().post("/v1/publish", &serde_json::json!({"to": "note.made", "id": "kept"})).await;
    assert_eq!(stored.status, 200, "{}", stored.body);
    assert_eq!(up.stop().await, 0);
    here.nothing_runs().await;

    std::fs::rename(&keys, &saved).expect("moved");
    let words = ["BAD_CONFIG", "authority.json", "nats/store", "backup"];
    for args in [&["up"][..], &["up", "--memory"], &["up", "-d"]] {
        refused(&here, &here.run(args).await, 64, &words);
        assert!(!keys.exists(), "no new keys in place of the lost ones");
    }
    // Those of another bus are no better.
    let other = here.home().join("other");
    let elsewhere = here.up_in(&other, &[]).await;
    assert_eq!(elsewhere.stop().await, 0);
    here.nothing_runs().await;
    std::fs::rename(other.join("keys"), &keys).expect("moved");
    refused(&here, &here.run(&["up"]).await, 64, &words);

    std::fs::remove_dir_all(&keys).expect("removed");
    std::fs::rename(&saved, &keys).expect("moved back");
    let up = here.up(&[]).await;
    let shown: serde_json::Value = up.api("/v1/events/kept").await;
    assert_eq!(shown["events"][0]["seq"], 1, "{shown}");
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn a_taken_port_is_told_and_the_next_try_works() {
    let here = Installation::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("address").port().to_string();
    refused(&here, &here.run(&["up", "--port", &port]).await, 64, &["BAD_CONFIG", &port, "taken"]);
    refused(&here, &here.run(&["up", "-d", "--port", &port]).await, 64, &[&port, "taken"]);
    refused(&here, &here.run(&["up", "--port", "0"]).await, 64, &["BAD_CONFIG"]);
    refused(&here, &here.run(&["up", "--port", "70000"]).await, 64, &["BAD_CONFIG"]);
    drop(taken);
    let up = here.up(&["--port", &port]).await;
    assert!(up.instance.broker.url.ends_with(&format!(":{port}")));
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_told_with_its_path() {
    let here = Installation::new().await;
    // A file in its place: refused to root as well.
    let file = here.home().join("file");
    std::fs::write(&file, "").expect("written");
    for place in [file.clone(), file.join("below")] {
        let place = place.to_str().expect("UTF-8");
        for args in [&["--dir", place, "up"][..], &["--dir", place, "up", "-d"]] {
            refused(&here, &here.run(args).await, 64, &["BAD_CONFIG", place, "--dir"]);
        }
    }
    let mut command = here.agentbus(&["up"]);
    command.env_remove("XDG_STATE_HOME").env_remove("HOME");
    let said = agentbus_tests::installation::finish(command, None).await;
    refused(&here, &said, 64, &["BAD_CONFIG", "XDG_STATE_HOME"]);
    // Parts of it in the way.
    for part in ["nats", "logs", "creds"] {
        let state = here.home().join(format!("broken-{part}"));
        agentbus_runtime::state::create_private(&state).expect("made");
        std::fs::write(state.join(part), "").expect("written");
        let said = here.run(&["--dir", state.to_str().expect("UTF-8"), "up"]).await;
        refused(&here, &said, 64, &["BAD_CONFIG", part]);
    }
}

#[tokio::test]
async fn a_state_folder_that_could_be_somebody_elses_is_refused() {
    let here = Installation::new().await;
    let place = |name: &str| here.home().join(name);
    let make = |name: &str, mode: u32| {
        std::fs::create_dir(place(name)).expect("made");
        std::fs::set_permissions(place(name), std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    make("shared", 0o770);
    make("open", 0o777);
    make("sticky", 0o1777);
    std::os::unix::fs::symlink("open/state", place("link")).expect("linked");
    let mut refused_ones = vec![("shared", "shared"), ("open/state", "open"), ("link", "open"), ("sticky", "sticky")];
    if rustix::process::geteuid().is_root() {
        make("foreign", 0o700);
        std::os::unix::fs::chown(place("foreign"), Some(65534), None).expect("given away");
        refused_ones.extend([("foreign", "foreign")]);
    }
    for (dir, step) in refused_ones {
        let (dir, step) = (place(dir), place(step));
        let (dir, step) = (dir.to_str().expect("UTF-8"), step.to_str().expect("UTF-8"));
        let control = ["--dir", dir, "control-plane", "--server", "nats://127.0.0.1:1", "--api-token-file", "-"];
        for args in [&["--dir", dir, "up"][..], &["--dir", dir, "up", "-d"], &["--dir", dir, "status"], &control] {
            refused(&here, &here.run_with(args, b"t").await, 64, &["BAD_CONFIG", "not safe", step, "--dir"]);
        }
        let doctor = here.run(&["--dir", dir, "doctor"]).await;
        assert!(doctor.code == 1 && doctor.stdout.contains("FAIL  state folder"), "{doctor:?}");
    }
    assert!(!place("open/state").exists());
    // In a folder like /tmp everyone keeps their own.
    let up = here.up_in(&place("sticky/state"), &[]).await;
    assert_eq!(up.stop().await, 0);
}

#[tokio::test]
async fn damaged_keys_are_told_and_not_replaced() {
    let here = Installation::new().await;
    let up = here.up(&[]).await;
    assert_eq!(up.stop().await, 0);
    let keys: Vec<_> =
        std::fs::read_dir(here.state().join("keys")).expect("keys").flatten().map(|one| one.path()).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    std::fs::write(&keys[0], "{ half a fi").expect("written");
    refused(&here, &here.run(&["up"]).await, 64, &["BAD_CONFIG", "keys"]);
    assert_eq!(std::fs::read_to_string(&keys[0]).expect("there"), "{ half a fi");
}
