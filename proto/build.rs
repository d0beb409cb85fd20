//! Compiles the contract without an installed protoc.
//!
//! Three outputs: the generated code of `agentbus.event.v1` and `agentbus.sidecar.v1`; a second view of the sidecar
//! service in which every event is `bytes` (module `sidecar::wire`); and the descriptor set for reflection.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic_prost_build::Builder;

const EVENT: &str = ".agentbus.event.v1.Event";
const EVENT_FILE: &str = "agentbus/event/v1/event.proto";
const SIDECAR_FILE: &str = "agentbus/sidecar/v1/sidecar.proto";
const SIDECAR: &str = ".agentbus.sidecar.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=agentbus");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let contract = protox::compile([EVENT_FILE, SIDECAR_FILE], ["."])?;

    write_descriptors(&contract, &out.join("agentbus.binpb"))?;
    builder().compile_fds(contract.clone())?;
    compile_wire(contract, &out.join("wire"))
}

fn builder() -> Builder {
    tonic_prost_build::configure().bytes(".").btree_map(".")
}

/// Comments are left out: they are for readers of the .proto files and would be half of the set.
fn write_descriptors(contract: &FileDescriptorSet, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut set = contract.clone();
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    Ok(std::fs::write(path, set.encode_to_vec())?)
}

/// A message field and a `bytes` field look the same on the wire, so the sidecar may declare the events it only passes
/// on as bytes. Messages without an event inside keep their ordinary type.
fn compile_wire(mut contract: FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out)?;
    contract.file.retain(|file| file.name() != EVENT_FILE);
    let sidecar = contract.file.iter_mut().find(|file| file.name() == SIDECAR_FILE).ok_or("no sidecar.proto")?;
    let with_event = holding_events(sidecar);

    let mut builder = builder().out_dir(out);
    let messages = sidecar.message_type.iter().map(DescriptorProto::name).filter(|name| !with_event.contains(*name));
    for name in messages.chain(sidecar.enum_type.iter().map(|kind| kind.name())) {
        builder = builder.extern_path(format!("{SIDECAR}.{name}"), format!("crate::sidecar::v1::{name}"));
    }
    for field in sidecar.message_type.iter_mut().flat_map(|message| &mut message.field) {
        if field.type_name() == EVENT {
            field.type_name = None;
            field.set_type(Type::Bytes);
        }
    }
    Ok(builder.compile_fds(contract)?)
}

/// Names of the messages that hold an event, directly or through another message.
fn holding_events(file: &FileDescriptorProto) -> BTreeSet<String> {
    let mut holding = BTreeSet::new();
    loop {
        let before = holding.len();
        for message in &file.message_type {
            let holds = message.field.iter().any(|field| {
                let kind = field.type_name();
                kind == EVENT || kind.strip_prefix(SIDECAR).is_some_and(|name| holding.contains(name.trim_matches('.')))
            });
            if holds {
                holding.insert(message.name().to_owned());
            }
        }
        if holding.len() == before {
            return holding;
        }
    }
}
