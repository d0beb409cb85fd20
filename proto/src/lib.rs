//! The contract of the bus.
#![allow(missing_docs)]

/// Generated from `agentbus/event`.
pub mod event {
    /// `agentbus.event.v1`.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("agentbus.event.v1");
    }
}
pub mod sidecar {
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("agentbus.sidecar.v1");
    }
    #[allow(missing_docs, clippy::all)]
    pub mod wire {
        include!(concat!(env!("OUT_DIR"), "/wire/agentbus.sidecar.v1.rs"));
    }
}
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agentbus.binpb"));
