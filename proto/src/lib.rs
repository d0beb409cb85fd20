//! The contract of the bus: what is on the wire and in the user's hands.
//!
//! - `event::v1`, `sidecar::v1`: generated from the .proto files beside this crate; every field is explained there.
//!   `sidecar::wire` is the same service as the sidecar serves it: events stay encoded.
//! - [`id`], [`Address`], [`name`], [`validate`](mod@validate), [`EventHead`]: what is allowed, decided in one place.
//! - [`Code`], [`Fault`]: what can go wrong, and how it looks over gRPC, HTTP and as an exit code.
//! - [`http`]: what the HTTP APIs refuse, and how.
//! - [`json`]: how events look over HTTP and to people; [`legacy`]: the existing message format.
//! - [`duration`], [`timestamp`]: how times are written for people; [`near`]: what they probably meant.
//!
//! Nothing here does input or output, and nothing knows the broker.

pub mod address;
pub mod code;
pub mod duration;
pub mod failure;
pub mod head;
pub mod http;
pub mod id;
pub mod json;
pub mod legacy;
pub mod name;
pub mod near;
#[cfg(test)]
mod testing;
pub mod timestamp;
pub mod validate;

pub use address::Address;
pub use code::Code;
pub use failure::Fault;
pub use head::{EventHead, Stamp, stamp};
pub use near::did_you_mean;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::event::v1::Event;
    use crate::sidecar::{v1, wire};
    use crate::testing::any_event;

    #[test]
    fn the_descriptors_hold_the_contract_and_its_imports() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let names: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
        for file in ["agentbus/event/v1/event.proto", "agentbus/sidecar/v1/sidecar.proto"] {
            assert!(names.contains(&file), "{names:?}");
        }
        for import in set.file.iter().flat_map(|file| &file.dependency) {
            assert!(names.contains(&import.as_str()), "{import} is missing");
        }
    }

    #[test]
    fn both_views_are_the_same_service() {
        assert_eq!(v1::sidecar_server::SERVICE_NAME, "agentbus.sidecar.v1.Sidecar");
        assert_eq!(wire::sidecar_server::SERVICE_NAME, v1::sidecar_server::SERVICE_NAME);
    }

    proptest! {
        #[test]
        fn both_views_have_the_same_bytes(event in any_event(), emit in any_event()) {
            let settle = v1::SettleRequest { emit: vec![event, emit.clone()], ..v1::SettleRequest::default() };
            let wired = wire::SettleRequest::decode(&settle.encode_to_vec()[..]).unwrap();
            prop_assert_eq!(Event::decode(wired.emit[1].clone()).unwrap(), emit);
            prop_assert_eq!(v1::SettleRequest::decode(&wired.encode_to_vec()[..]).unwrap(), settle);
        }
    }
}
