//! What becomes of held deliveries when the agent process comes or goes.

use std::time::{Instant, SystemTime};

use agentbus_nats::grant::AgentLife;

use super::Hub;

impl Hub {
    /// Takes note of what became of the agent process.
    pub fn agent_is(&self, life: AgentLife) {
        match life {
            AgentLife::Started => self.table().agent_started(),
            AgentLife::Stopping => self.table().agent_stopping = true,
            AgentLife::Stopped => self.agent_stopped(),
            AgentLife::Exited => self.agent_exited(false),
            AgentLife::Killed => self.agent_exited(true),
        }
    }

    /// The agent process is gone: its deliveries go back at once. `killed`: from outside, as happens when memory runs out.
    pub fn agent_exited(&self, killed: bool) {
        let declared = if killed { self.declared() } else { Vec::new() };
        let groups: Vec<_> = declared.iter().filter_map(|name| self.group_name(name)).collect();
        let commands = self.table().agent_exited(&groups, (Instant::now(), SystemTime::now()));
        tracing::info!(deliveries = commands.len(), "agent gone, deliveries given back");
        self.spawn(commands);
        // Its connections may outlive it for a while, those of its helpers for long: their credit is free again.
        self.after_all();
    }

    /// The agent process was stopped on purpose: its deliveries go back at once, and nobody is to blame.
    pub fn agent_stopped(&self) {
        let commands = self.table().give_all_back();
        tracing::info!(deliveries = commands.len(), "agent stopped, deliveries given back");
        self.spawn(commands);
        self.after_all();
    }
}
