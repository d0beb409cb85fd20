//! `up --memory`: the bus and all sidecars inside this process; agents are processes as ever.

use std::sync::Arc;

use agentbus_control_plane::supervise::{Host, Hosted, Local};
use agentbus_nats::bus::{Memory, memory};
use agentbus_nats::grant::{AgentLife, Start};
use agentbus_proto::Fault;
use agentbus_runtime::trace::Tracer;
use agentbus_sidecar::app::Sidecar;
use async_trait::async_trait;

/// Most that all streams together take, in bytes: they are in this process's memory.
pub(super) const QUOTA_BYTES: i64 = 256 << 20;

/// Said plainly, because it is the price.
pub(super) const WARNING: &str =
    "the bus is inside this process (--memory): no broker, and nothing on it survives the end of this process";

/// A bus in this process and what runs its sidecars.
pub(super) fn local(tracer: Tracer) -> Local {
    let bus = Memory::start(memory::Options::default());
    Local { host: Arc::new(Inside { bus: bus.clone(), tracer }), bus }
}

struct Inside {
    bus: Memory,
    tracer: Tracer,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sidecars in this process")
    }
}

#[async_trait]
impl Host for Inside {
    async fn start(&self, start: Start) -> Result<Box<dyn Hosted>, Fault> {
        let bus = self.bus.connect(&start.grant.agent);
        let sidecar = Box::pin(Sidecar::start_on(start, bus, self.tracer.clone())).await?;
        Ok(Box::new(Running(sidecar)))
    }
}

struct Running(Sidecar);

#[async_trait]
impl Hosted for Running {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn admin(&self) -> &str {
        &self.0.admin
    }

    fn tell(&self, life: AgentLife) {
        self.0.hub.agent_is(life);
    }

    async fn wants_to_end(&self) {
        tokio::select! {
            () = self.0.drain_requested.cancelled() => {}
            () = self.0.expired.cancelled() => {}
        }
    }

    async fn drain(self: Box<Self>) {
        self.0.drain().await;
    }
}
