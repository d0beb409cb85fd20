//! Standing in for another agent: its inbox is read while the control plane says that it is away.
//!
//! The grant holds the inboxes this agent is a fallback of; they are closed until the control plane opens them. Asking
//! goes on in short steps. While the control plane does not answer all stays as it was: an inbox that two agents read is
//! shared, one that nobody reads waits, and neither loses anything.

use std::collections::BTreeSet;
use std::time::Duration;

use agentbus_nats::grant::{Grant, GroupKind, StandbyAnswer};
use agentbus_nats::names::Names;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::inbound::Hub;

/// How often the control plane is asked: with its own 3 s, an away agent's events are taken within 5 s.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whether there is anything to ask for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Inboxes of others in a grant.
pub fn inboxes(grant: &Grant) -> BTreeSet<String> {
    let own = Names::inbox_group(&grant.agent);
    let others = grant.groups.iter().filter(|group| group.kind == GroupKind::Inbox && group.name != own);
    others.map(|group| group.name.clone()).collect()
}

/// Opens and closes others' inboxes until stopped.
pub async fn run(control: Control, hub: Hub, stop: CancellationToken) {
    let nothing = serde_json::json!({});
    let mut open: BTreeSet<String> = BTreeSet::new();
    loop {
        let all = inboxes(&control.grant());
        let pause = if all.is_empty() { LOOK_EVERY } else { ASK_EVERY };
        if !all.is_empty() {
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = control.call::<StandbyAnswer>("standby", &nothing) => answer,
            };
            match answer {
                Ok(answer) => {
                    let wanted: BTreeSet<String> = answer
                        .take
                        .iter()
                        .map(|agent| Names::inbox_group(agent))
                        .filter(|name| all.contains(name))
                        .collect();
                    if wanted != open {
                        tracing::info!(inboxes = ?wanted, "standing in for agents that are away");
                        hub.close(&all.difference(&wanted).cloned().collect());
                        open = wanted;
                    }
                }
                Err(fault) => tracing::debug!(%fault, "not told who is away"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use agentbus_nats::grant::GroupGrant;

    use super::*;

    #[test]
    fn the_own_inbox_and_pools_are_never_closed() {
        let group = |name: &str, kind| GroupGrant { name: name.into(), kind, ..GroupGrant::default() };
        let groups = vec![
            group("a--inbox", GroupKind::Inbox),
            group("b--inbox", GroupKind::Inbox),
            group("pool--p", GroupKind::Pool),
            group("a", GroupKind::Patterns),
        ];
        let grant = Grant { agent: "a".into(), groups, ..Grant::default() };
        assert_eq!(inboxes(&grant), ["b--inbox".to_owned()].into());
    }
}
