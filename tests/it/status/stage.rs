//! A whole installation whose agents say where their sidecars are and let the test speak in their place.

use agentbus_tests::http::{Answer, HttpAgent, request};
use agentbus_tests::wait::until;
use agentbus_tests::{Installation, Up};
use serde_json::{Value, json};

const PUPPET: &str = "runner: process, command: [sh, -c, \
     'me=$AGENTBUS_AGENT; echo \"$AGENTBUS_URL $AGENTBUS_TOKEN\" > $me.tmp; mv $me.tmp $me.env; exec sleep 1000']";

/// `a` and `b` both read work, `c` reads what they make, `d` what `c` makes.
/// `o` reads lines in order.
const AGENTS: [(&str, &str); 5] = [
    ("a", "subscribe: [work.>], publish: [made.>]"),
    ("b", "subscribe: [work.>], publish: [made.>]"),
    ("c", "subscribe: [made.>], publish: [final.>]"),
    ("d", "subscribe: [final.>]"),
    ("o", "subscribe: [line.>], ordered: true"),
];

/// The installation.
pub struct Stage {
    pub here: Installation,
    pub up: Up,
}

impl Stage {
    pub async fn new() -> Self {
        let here = Installation::new().await;
        let agents: String = AGENTS.iter().map(|(name, keys)| format!("  {name}: {{{PUPPET}, {keys}}}\n")).collect();
        let retry = "defaults: {retry: {max_attempts: 2, initial: 200ms, max: 1s}}\n";
        here.write("agentbus.yaml", format!("version: 1\n{retry}agents:\n{agents}"));
        let up = here.up(&[]).await;
        up.all_running().await;
        Self { here, up }
    }

    /// Speaks for an agent.
    pub async fn voice(&self, agent: &str) -> HttpAgent {
        let file = self.here.project.join(format!("{agent}.env"));
        let text = until("the agent's first words", || async { std::fs::read_to_string(&file) }).await;
        let (url, token) = text.trim().split_once(' ').expect("url and token");
        HttpAgent { address: url.trim_start_matches("http://").to_owned(), token: token.to_owned() }
    }

    /// Publishes as the person; returns the id.
    pub async fn publish(&self, event: Value) -> String {
        self.up.me().publish(event).await["id"].as_str().expect("an id").to_owned()
    }

    /// What `events show --json` says of the first event with this id.
    pub async fn shown(&self, id: &str) -> Value {
        self.here.json(&["events", "show", id]).await["events"][0].clone()
    }

    /// What it says of one group.
    pub async fn group(&self, id: &str, group: &str) -> Value {
        of(&self.shown(id).await, group)
    }

    /// Waits until a group's state is this.
    pub async fn group_until(&self, id: &str, group: &str, state: &str) -> Value {
        until(&format!("{group}: {state}"), || async {
            let status = self.group(id, group).await;
            if status["state"] == state { Ok(status) } else { Err(status) }
        })
        .await
    }

    pub async fn end(self) {
        assert_eq!(self.up.stop().await, 0);
        self.here.nothing_runs().await;
    }
}

/// One group of an event's status.
pub fn of(status: &Value, group: &str) -> Value {
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    groups.into_iter().find(|one| one["group"] == group).unwrap_or_else(|| panic!("no group {group} in {status}"))
}

/// GET of a sidecar.
pub async fn get(agent: &HttpAgent, path: &str) -> Answer {
    let auth = [("authorization", format!("Bearer {}", agent.token))];
    request(&agent.address, "GET", path, &auth, "".into()).await.expect("an answer")
}

/// An event to a topic with a little data.
pub fn event(to: &str) -> Value {
    json!({"to": to, "data": {"n": 1}})
}
