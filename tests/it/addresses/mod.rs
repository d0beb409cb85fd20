//! Agents, pools, channels: who gets what is sent to a name, and what happens when nobody has it.

mod channels;
mod direct;
mod fallback;
mod filters;
mod park;
mod pools;

use agentbus_tests::http::HttpAgent;
use agentbus_tests::wait::until;
use agentbus_tests::{Installation, Up};

/// A program that says where its sidecar is and then lets the test speak in its place. It ends, and cannot start, while
/// there is a file `<agent>.gone`.
const PUPPET: &str = "runner: process, restart: {policy: always, max: 1000}, command: [sh, -c, \
     'me=$AGENTBUS_AGENT; test -e $me.gone && exit 1; echo \"$AGENTBUS_URL $AGENTBUS_TOKEN\" > $me.tmp; mv $me.tmp $me.env; exec sleep 1000']";

/// A project whose agents are puppets with these other keys, and `more` before them.
fn puppets(more: &str, agents: &[(&str, &str)]) -> String {
    let agents: String = agents.iter().map(|(name, keys)| format!("  {name}: {{{PUPPET}{keys}}}\n")).collect();
    format!("version: 1\ndefaults: {{retry: {{initial: 200ms, max: 1s}}}}\n{more}agents:\n{agents}")
}

/// A running installation of puppets.
struct Stage {
    here: Installation,
    up: Up,
}

impl Stage {
    async fn new(more: &str, agents: &[(&str, &str)]) -> Self {
        let here = Installation::new().await;
        here.write("agentbus.yaml", puppets(more, agents));
        let up = here.up(&[]).await;
        up.all_running().await;
        Self { here, up }
    }

    /// Speaks for an agent.
    async fn voice(&self, agent: &str) -> HttpAgent {
        let file = self.here.project.join(format!("{agent}.env"));
        let text = until("the agent's first words", || async { std::fs::read_to_string(&file) }).await;
        let (url, token) = text.trim().split_once(' ').expect("url and token");
        HttpAgent { address: url.trim_start_matches("http://").to_owned(), token: token.to_owned() }
    }

    async fn end(self) {
        assert_eq!(self.up.stop().await, 0);
        self.here.nothing_runs().await;
    }
}
