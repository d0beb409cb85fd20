//! `up --beside`: the broker of another bus on this machine, for a namespace of its own on it.
//!
//! The keys of the namespace follow from those of that bus, which only its owner can read. The broker is told of its accounts
//! while it runs; nothing of one namespace exists in another. One bus at a time has a namespace: two control planes would start
//! the same agents on the same consumers.

use std::path::{Path, PathBuf};

use agentbus_control_plane::authority;
use agentbus_control_plane::replay::SPACE_DEFAULT;
use agentbus_nats::accounts;
use agentbus_nats::bus::{Bus, JetStream};
use agentbus_nats::connect::{self, Identity};
use agentbus_nats::identity::{Authority, Layout};
use agentbus_nats::names::Names;
use agentbus_nats::subject;
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault};
use agentbus_runtime::state::{self, InstanceLock};

use super::broker::unix_now;
use crate::exit::fault;
use crate::instance::{self, Instance};

/// The namespace on the other bus's broker, ready to be used.
pub(super) struct Beside {
    /// The broker as it is written down.
    pub broker: instance::Broker,
    /// Keys of the namespace.
    pub authority: Authority,
    /// Sizes of its streams.
    pub sizes: Sizes,
    /// The namespace is ours as long as this lives.
    pub lock: InstanceLock,
}

/// Reaches the bus of this project or state folder, takes the namespace, and makes its broker know it.
pub(super) async fn reach(folder: &Path, namespace: &str, layout: Layout) -> anyhow::Result<Beside> {
    // The namespace's keys come out of that bus's.
    instance::for_person()?;
    let state = state_of(folder)?;
    let other: Instance = instance::running(&state)?;
    if other.broker.in_memory() {
        return Err(fault(Code::BadConfig, "--beside: that bus runs in memory, there is no broker to share"));
    }
    let keys = other.broker.keys.clone().unwrap_or(state);
    let authority = authority::load(&keys).map_err(Fault::from)?;
    if [authority.namespace(), other.namespace.as_str()].contains(&namespace) {
        let why = format!("namespace `{namespace}` is that bus's own: give this project another (`namespace: NAME`)");
        return Err(fault(Code::BadConfig, why));
    }
    let authority = authority.of_namespace(namespace)?.laid_out(layout);
    let lock = hold(&keys, namespace)?;
    let servers = [other.broker.url.clone()];
    accounts::install(&servers, &authority, unix_now()).await?;
    let sizes = sizes(&servers, &authority).await?;
    Ok(Beside { broker: instance::Broker { keys: Some(keys), ..other.broker }, authority, sizes, lock })
}

/// Takes the namespace for this process. The lock lies with the keys, where all who use that broker meet.
fn hold(keys: &Path, namespace: &str) -> anyhow::Result<InstanceLock> {
    let folder = keys.join("beside").join(namespace);
    state::create_private(&folder)?;
    InstanceLock::acquire(&folder).map_err(|error| match error {
        state::Error::Running { pid, .. } => {
            let why = format!(
                "namespace `{namespace}` is in use by another bus on that broker (process {pid}): stop it with `agentbus down` in its \
                 project, or give this project another namespace (`namespace: NAME`)"
            );
            fault(Code::BadConfig, why)
        }
        other => other.into(),
    })
}

/// Where the other bus keeps its state: the folder itself, or that of the project in it.
fn state_of(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    if instance::file(&folder).exists() {
        return Ok(folder);
    }
    // As that bus saw its own folder.
    let project = folder.canonicalize().map_err(|error| {
        fault(Code::BadConfig, format!("--beside: cannot look into `{}`: {error}", folder.display()))
    })?;
    instance::default_state(&instance::project_dir(&project))
}

/// Those that the streams have; a replay may have made them.
async fn sizes(servers: &[String], authority: &Authority) -> anyhow::Result<Sizes> {
    let options = connect::Options {
        servers: servers.to_vec(),
        name: "agentbus up".to_owned(),
        inbox: subject::inbox("control-plane"),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&authority.control_plane(unix_now())?)?,
    };
    let bus = JetStream::connect(options).await?;
    let found = bus.stream(&Names::new(authority.namespace()).events()).await?;
    let default = Sizes::within(i64::try_from(SPACE_DEFAULT).unwrap_or(i64::MAX));
    Ok(found.map_or(default, |info| Sizes::with_events(info.config.max_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_one_bus_s_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = hold(folder.path(), "sandbox").unwrap();
        let error = hold(folder.path(), "sandbox").unwrap_err();
        let fault = error.downcast_ref::<Fault>().unwrap();
        assert_eq!((fault.code, fault.code.exit()), (Code::BadConfig, 64));
        assert!(fault.message.contains("namespace `sandbox` is in use") && fault.message.contains("down"), "{fault}");
        hold(folder.path(), "other").unwrap();
        drop(lock);
        hold(folder.path(), "sandbox").unwrap();
    }
}
