//! The keys of a bus, and whether they are those of the data on disk.
//!
//! The broker keeps the data of each account in a folder of the account's public key. New keys are another account: the old
//! data would be there, and nobody could see it. So without the right keys nothing is started, and none are made.

use std::path::Path;

use agentbus_control_plane::authority;
use agentbus_proto::{Code, Fault};

use super::broker;
use crate::exit::fault;

/// Refuses keys that do not open what is stored. Makes none.
pub(super) fn check(state: &Path, namespace: &str) -> anyhow::Result<()> {
    let with_data = accounts(&broker::store(state));
    if with_data.is_empty() {
        return Ok(());
    }
    if !authority::file(state).exists() {
        return Err(lost(state, "are gone"));
    }
    let keys = authority::load_or_create(state, namespace).map_err(Fault::from)?;
    let ours = keys.accounts(broker::unix_now())?;
    match ours.iter().any(|(account, _)| with_data.contains(account)) {
        true => Ok(()),
        false => Err(lost(state, "are not those of the data")),
    }
}

fn lost(state: &Path, what: &str) -> anyhow::Error {
    let (keys, store) = (authority::file(state), broker::store(state));
    let why = format!(
        "the keys in `{}` {what}: nobody can read the events in `{}` without the keys they were stored with; restore that file from a backup, \
         or, to begin with an empty bus, move the folder `{}` away",
        keys.display(),
        store.display(),
        store.display()
    );
    fault(Code::BadConfig, why)
}

/// Accounts that have streams of ours in the broker's store.
fn accounts(store: &Path) -> Vec<String> {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let folder = store.join("jetstream");
    let has_streams =
        |account: &String| names(&folder.join(account).join("streams")).iter().any(|name| name.starts_with("AB_"));
    names(&folder).into_iter().filter(has_streams).collect()
}
