//! Inside an agent the program acts as the agent, and never as the person who runs the bus.

use agentbus_tests::installation::{Said, finish};
use agentbus_tests::wait::until;
use agentbus_tests::{Installation, Up};
use serde_json::{Value, json};

const WORKER: &str = "
version: 1
agents:
  worker:
    runner: process
    command: [sh, -c, 'env > worker.tmp; mv worker.tmp worker.env; exec sleep 1000']
    subscribe: [job.>]
    publish: [note.>]
  echo: {runner: exec, command: [cat], subscribe: [note.asked]}
";

/// The environment of an agent, to be played by hand.
struct Inside {
    here: Installation,
    up: Up,
    env: Vec<(String, String)>,
}

impl Inside {
    async fn start() -> Self {
        let here = Installation::new().await;
        here.write("agentbus.yaml", WORKER);
        let up = here.up(&[]).await;
        up.all_running().await;
        let env = until("the agent's environment", || async {
            std::fs::read_to_string(here.project.join("worker.env")).map_err(|error| error.to_string())
        })
        .await;
        let pairs = env.lines().filter_map(|line| line.split_once('='));
        let env = pairs.filter(|(key, _)| key.starts_with("AGENTBUS_"));
        let env = env.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { here, up, env }
    }

    async fn run(&self, args: &[&str]) -> Said {
        let mut command = self.here.agentbus(args);
        command.envs(self.env.iter().cloned());
        finish(command, None).await
    }

    async fn json(&self, args: &[&str]) -> Value {
        let said = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(said.code, 0, "{args:?}: {}", said.stderr);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{args:?}: {error} in {}", said.stdout))
    }
}

#[tokio::test]
async fn what_acts_as_the_person_is_refused_inside_an_agent() {
    let inside = Inside::start().await;
    let state = inside.up.state.to_str().expect("UTF-8");
    for args in [
        &["down"][..],
        &["down", "--kill"],
        &["logs"],
        &["env"],
        &["status"],
        &["top", "--json"],
        &["tail", "--no-follow"],
        &["agents", "list"],
        &["streams", "plan"],
        &["dlq", "list"],
        &["dlq", "redrive", "--all"],
        &["replay", "note.>", "--to-group", "worker", "--yes"],
        &["--dir", state, "env"],
        &["--dir", state, "publish", "note.made", "x"],
        &["--dir", state, "down"],
    ] {
        let said = inside.run(args).await;
        assert_eq!((said.code, said.stdout.as_str()), (77, ""), "{args:?}: {}", said.stderr);
        let words = ["SCOPE_DENIED", "agent `worker`", "AGENTBUS_TOKEN"];
        assert!(words.iter().all(|word| said.stderr.contains(word)), "{args:?}: {}", said.stderr);
    }
    // The person's own credentials change nothing about who is asking.
    let creds = inside.up.state.join("creds/me.creds");
    let mut tail = inside.here.agentbus(&["tail", "--no-follow"]);
    tail.envs(inside.env.iter().cloned()).env("NATS_URL", &inside.up.instance.broker.url).env("NATS_CREDS", creds);
    assert_eq!(finish(tail, None).await.code, 77);
    inside.up.all_running().await;
    assert_eq!(inside.up.stop().await, 0);
}

#[tokio::test]
async fn what_an_agent_may_do_it_does_as_itself() {
    let inside = Inside::start().await;
    let stored = inside.json(&["publish", "note.made", "hello", "--id", "mine"]).await;
    assert_eq!(stored["stored"], "broker");
    let shown = inside.json(&["events", "show", "mine"]).await;
    assert_eq!(shown["events"][0]["event"]["source"], "worker", "{shown}");
    assert_eq!(inside.run(&["publish", "job.todo", "x"]).await.code, 77, "not in its scope, though in the person's");

    let asked = inside.run(&["ask", "note.asked", "who?"]).await;
    assert_eq!((asked.code, asked.stdout.as_str()), (0, "who?\n"), "{}", asked.stderr);
    assert_eq!(inside.here.run(&["publish", "job.todo", "for the worker"]).await.code, 0);
    let received = inside.json(&["receive", "--ack"]).await;
    assert_eq!(received["deliveries"][0]["event"]["data"], json!("for the worker"), "{received}");
    for args in [&["trace", "mine"][..], &["schedules", "list"], &["replay", "note.made"]] {
        let said = inside.run(args).await;
        assert_eq!(said.code, 0, "{args:?}: {}", said.stderr);
    }
    assert_eq!(inside.up.stop().await, 0);
}
