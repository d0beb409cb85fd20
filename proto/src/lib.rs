//! The contract of the bus: what is on the wire and in the user's hands.
//!
//! - `event::v1`, `sidecar::v1`: generated from the .proto files beside this crate; every field is explained there.
//!   `sidecar::wire` is the same service as the sidecar serves it: events stay encoded.
//! - [`Address`], [`name`], [`validate`](mod@validate), [`EventHead`]: what is allowed, decided in one place.
//! - [`Code`], [`Fault`]: what can go wrong, and how it looks over gRPC, HTTP and as an exit code.
//! - [`duration`], [`timestamp`]: how times are written for people.
//!
//! Nothing here does input or output, and nothing knows the broker.

pub mod address;
pub mod code;
pub mod duration;
pub mod failure;
pub mod head;
pub mod json;
pub mod name;
#[cfg(test)]
mod testing;
pub mod timestamp;
pub mod validate;

pub use address::Address;
pub use code::Code;
pub use failure::Fault;
pub use head::{EventHead, Stamp, stamp};
pub use validate::{Limits, validate};

/// The event: package `agentbus.event`.
pub mod event {
    /// Generated from `agentbus/event/v1/event.proto`.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("agentbus.event.v1");
    }
}

/// The API of the sidecar: package `agentbus.sidecar`.
pub mod sidecar {
    /// Generated from `agentbus/sidecar/v1/sidecar.proto`: for clients, and the plain messages for both sides.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("agentbus.sidecar.v1");
    }

    /// The same service and the same bytes on the wire, with every event as `Bytes`: the sidecar's view, which passes
    /// payloads through without decoding them. An absent event is empty bytes. Messages without an event inside are
    /// those of `v1`.
    #[allow(missing_docs, clippy::all)]
    pub mod wire {
        include!(concat!(env!("OUT_DIR"), "/wire/agentbus.sidecar.v1.rs"));
    }
}

/// The encoded `FileDescriptorSet` of the contract with its imports, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agentbus.binpb"));
