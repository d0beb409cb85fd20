//! What becomes of held deliveries when the agent process comes or goes.

use agentbus_nats::grant::AgentLife;

use super::Hub;

impl Hub {
    /// Takes note of what became of the agent process.
    pub fn agent_is(&self, life: AgentLife) {
        match life {
            AgentLife::Started => self.agent_stopping(false),
            AgentLife::Stopping => self.agent_stopping(true),
            AgentLife::Stopped => self.agent_stopped(),
            AgentLife::Exited => self.agent_exited(),
            AgentLife::Killed => self.agent_killed(),
        }
    }

    /// The agent process is gone: its deliveries go back at once.
    pub fn agent_exited(&self) {
        let commands = self.table().agent_exited();
        tracing::info!(deliveries = commands.len(), "agent gone, deliveries given back");
        self.spawn(commands);
        // Its connections may outlive it for a while, those of its helpers for long: their credit is free again.
        self.after_all();
    }

    /// Whether the agent is being stopped on purpose: then a connection that breaks is a goodbye.
    pub fn agent_stopping(&self, stopping: bool) {
        self.table().agent_stopping = stopping;
    }

    /// The agent process was stopped on purpose: its deliveries go back at once, and nobody is to blame.
    pub fn agent_stopped(&self) {
        let commands = self.table().give_all_back();
        tracing::info!(deliveries = commands.len(), "agent stopped, deliveries given back");
        self.spawn(commands);
        self.after_all();
    }
}
