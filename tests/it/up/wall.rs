//! The wall, and namespaces beside each other on one broker, as a person uses them.

use agentbus_tests::Installation;
use agentbus_tests::wait::until;
use serde_json::{Value, json};

use super::audit::{self, ONCE};

const PROJECT: &str = r#"version: 1
broker: {wall: WALL}
agents:
  shout:
    runner: exec
    command: [sh, -c, 'echo "{\"to\":\"notes.shouted\"}"']
    subscribe: [notes.created]
    publish: [notes.shouted]
    output: events
    env: {pass: [PATH]}
"#;

fn project(wall: bool) -> String {
    PROJECT.replace("WALL", &wall.to_string())
}

/// Publishes one and waits until the agent has answered as often as that makes.
async fn shouted(here: &Installation, id: &str, times: usize) {
    let stored = here.json(&["publish", "notes.created", "hello", "--id", id]).await;
    assert_eq!(stored["stored"], "broker", "{stored}");
    until("events of the agent", || async {
        let said = here.run(&["tail", "notes.shouted", "--last", "100", "--no-follow", "--json"]).await;
        let seen = said.stdout.lines().count();
        if seen == times { Ok(()) } else { Err(said) }
    })
    .await;
}

fn finding(doctor: &Value, check: &str) -> Value {
    let all = doctor.as_array().expect("findings");
    all.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no `{check}` in {doctor}")).clone()
}

#[tokio::test]
async fn a_wall_comes_and_goes_and_the_events_stay() {
    let here = Installation::new().await;
    for (run, wall) in [(1, false), (2, true), (3, false)] {
        here.write("agentbus.yaml", project(wall));
        let up = here.up(&[]).await;
        shouted(&here, &format!("n-{run}"), run).await;
        let layout = if wall { "wall" } else { "plain" };
        assert_eq!(here.json(&["status"]).await["broker"]["layout"], layout);
        let text = here.run(&["status"]).await;
        assert!(text.stdout.contains(&format!("connected, layout {layout}")), "{}", text.stdout);
        let doctor = here.json(&["doctor"]).await;
        let found = finding(&doctor, "layout");
        assert_eq!(found["level"], if wall { "ok" } else { "warn" }, "{found}");
        for harm in ["purge and delete streams", "delete consumers", "registry", "under another sender", "inboxes"] {
            assert_eq!(found["advice"].as_str().is_some_and(|text| text.contains(harm)), !wall, "{harm}: {found}");
        }
        assert_eq!(finding(&doctor, "your credentials")["level"], "ok", "the person looks at it with the nats CLI");
        assert_eq!(up.stop().await, 0);
    }
}

#[tokio::test]
async fn the_demo_gives_the_same_report_behind_the_wall() {
    let here = audit::awkward().await;
    let markers = audit::markers(&here).await;
    let walled = here.run(&[&["up", "--wall"], &ONCE[..]].concat()).await;
    assert_eq!(walled.code, 0, "{}", walled.stderr);
    let totals = json!({"files": 22, "markers": markers, "broken_links": 2, "duplicate_groups": 2});
    assert_eq!(audit::result(&walled.stdout)["totals"], totals);
    assert_eq!(here.processes(), []);
}

#[tokio::test]
async fn a_wall_without_a_broker_is_refused() {
    let here = Installation::new().await;
    here.write("agentbus.yaml", project(true));
    let said = here.run(&["up", "--memory"]).await;
    assert!(said.code == 64 && said.stderr.contains("a wall needs a broker"), "{said:?}");
}

#[tokio::test]
async fn agents_run_in_a_namespace_beside_the_first_one_and_neither_sees_the_other() {
    for wall in [false, true] {
        let here = Installation::new().await;
        here.write("agentbus.yaml", project(false));
        let first = here.up(&[]).await;
        let beside = here.project.join("beside");
        here.write("beside/agentbus.yaml", project(wall));
        let at = |args: &[&str]| {
            let mut command = here.agentbus(args);
            command.current_dir(&beside);
            agentbus_tests::installation::finish(command, None)
        };
        let folder = here.project.to_str().expect("UTF-8").to_owned();
        let same = at(&["up", "-d", "--beside", &folder]).await;
        assert!(same.code == 64 && same.stderr.contains("namespace `default` is that bus's own"), "{same:?}");

        // History first: it makes the namespace, and the agents find it there.
        here.json(&["publish", "notes.created", "hello", "--id", "n-1"]).await;
        let copied = here.json(&["replay", "notes.created", "--into", "sandbox", "--yes"]).await;
        assert_eq!((&copied["copied"], &copied["created"]), (&json!(1), &json!(true)), "{copied}");
        here.write("beside/agentbus.yaml", project(wall).replace("version: 1", "version: 1\nnamespace: sandbox"));
        let up = at(&["up", "-d", "--beside", &folder, "--json"]).await;
        assert_eq!(up.code, 0, "{up:?}");
        // A namespace is one bus's at a time, whatever project the second comes from.
        here.write("again/agentbus.yaml", "version: 1\nnamespace: sandbox\n");
        let mut again = here.agentbus(&["up", "-d", "--beside", &folder]);
        again.current_dir(here.project.join("again"));
        let again = agentbus_tests::installation::finish(again, None).await;
        assert!(again.code == 64 && again.stderr.contains("namespace `sandbox` is in use"), "{again:?}");
        let copied = here.json(&["replay", "notes.created", "--into", "sandbox"]).await;
        assert_eq!((&copied["copied"], &copied["created"]), (&json!(1), &json!(false)), "{copied}");
        until("the agent's work in the sandbox", || async {
            let said = at(&["tail", "notes.shouted", "--last", "10", "--no-follow"]).await;
            if said.stdout.lines().count() == 1 { Ok(()) } else { Err(said) }
        })
        .await;
        let status = at(&["status", "--json"]).await;
        let status: Value = serde_json::from_str(&status.stdout).expect("a status");
        assert_eq!(status["broker"]["layout"], if wall { "wall" } else { "plain" });
        let streams: Vec<&str> =
            status["streams"].as_array().unwrap().iter().filter_map(|stream| stream["name"].as_str()).collect();
        assert!(streams.iter().all(|name| name.starts_with("AB_sandbox_")), "{streams:?}");
        let doctor = at(&["doctor", "--json"]).await;
        let doctor: Value = serde_json::from_str(&doctor.stdout).expect("findings");
        assert!(doctor.as_array().unwrap().iter().all(|finding| finding["level"] != "fail"), "{doctor}");
        // Only what the first agent said itself is in the first namespace: once, of one event.
        let said = here.run(&["tail", "notes.shouted", "--last", "10", "--no-follow"]).await;
        assert_eq!(said.stdout.lines().count(), 1, "{said:?}");
        assert_eq!(at(&["down"]).await.code, 0);
        assert_eq!(first.stop().await, 0);
        here.nothing_runs().await;
    }
}

#[tokio::test]
async fn what_a_foreign_broker_must_know_is_printed_for_both_layouts_and_nothing_of_it_is_secret() {
    let here = Installation::new().await;
    let keys = here.home().join("keys-of-the-test");
    let dir = keys.to_str().expect("UTF-8");
    let (plain, wall) = (["auth", "bootstrap", "--dir", dir], ["auth", "bootstrap", "--wall", "--dir", dir]);
    assert_eq!(here.json(&plain).await["accounts"].as_array().map(Vec::len), Some(1));
    let walled = here.json(&wall).await;
    assert_eq!((&walled["layout"], walled["accounts"].as_array().map(Vec::len)), (&json!("wall"), Some(2)), "{walled}");
    assert_eq!(walled["accounts"][1]["claims"]["nats"]["imports"][0]["account"], walled["accounts"][0]["public_key"]);
    let other = here.json(&[&wall[..], &["--namespace", "sandbox"]].concat()).await;
    assert_ne!(other["accounts"][0]["public_key"], walled["accounts"][0]["public_key"]);

    let said = here.run(&wall).await;
    let seeds: Value = serde_json::from_str(&audit::read(&keys.join("keys/authority.json"))).expect("seeds");
    for secret in ["operator", "system", "account", "sidecars"] {
        assert!(!said.stdout.contains(seeds[secret].as_str().expect("a seed")), "{secret}");
    }
    // A plain nats-server takes it as it is, and a control plane works on it.
    let port = agentbus_nats::server::free_port().expect("a port");
    let folder = here.home().join("foreign");
    std::fs::create_dir(&folder).expect("made");
    // It knows what its operator has written down, another namespace too, and takes nothing while it runs.
    let memory: Vec<&str> = said
        .stdout
        .lines()
        .map(|line| if line.starts_with("resolver {") { "resolver: MEMORY" } else { line })
        .collect();
    let account =
        |one: &Value| format!("{}: {}\n}}", one["public_key"].as_str().unwrap(), one["jwt"].as_str().unwrap());
    let accounts = memory.join("\n").trim_end_matches('}').to_owned() + &account(&other["accounts"][0]);
    let server = format!("listen: 127.0.0.1:{port}\njetstream {{ store_dir: store }}\n{accounts}\n");
    std::fs::write(folder.join("server.conf"), server).expect("written");
    let mut command = here.plain(agentbus_tests::installation::nats_server().await);
    let _server = command
        .current_dir(&folder)
        .args(["-c", "server.conf"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    here.write("agentbus.yaml", project(true));
    let url = format!("nats://127.0.0.1:{port}");
    let mut command = here.agentbus(&["control-plane", "--dir", dir, "--server", &url, "--config", "agentbus.yaml"]);
    let listen = format!("127.0.0.1:{}", agentbus_nats::server::free_port().expect("a port"));
    command.args(["--listen", &listen, "--quota", "64MiB", "--spawn"]).env("AGENTBUS_API_TOKEN", "t");
    let _control = command.stderr(std::process::Stdio::null()).spawn().expect("started");
    until("a consumer of the agent, as the control plane made it", || async {
        let authority = agentbus_control_plane::authority::load(&keys).expect("keys");
        let bus = agentbus_tests::broker::control_plane(std::slice::from_ref(&url), &authority)
            .await
            .map_err(|fault| fault.message)?;
        match bus.consumers("AB_default_EVENTS", 10).await {
            Ok(all) if all.iter().any(|consumer| consumer.name == "shout" && consumer.waiting > 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let api = agentbus::control::Api::new("the control plane", &format!("http://{listen}"), "t");
    let replay = |into: &str| json!({"patterns": [">"], "into": into, "create": true, "space_bytes": 8 << 20});
    let made: Value = api.post("/v1/replay", &replay("sandbox")).await.expect("the operator let it in");
    assert_eq!(made["created"], json!(true), "{made}");
    let refused = api.post::<Value>("/v1/replay", &replay("unknown")).await.unwrap_err();
    assert!(refused.message.contains("agentbus auth bootstrap"), "{refused}");
}
