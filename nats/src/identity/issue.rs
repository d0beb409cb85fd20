//! The signed half of a grant: token, secrets and what they are good for. The rest of a [`Grant`] says where the broker is
//! and what bounds the agent; whoever issues it fills that in.

use super::{Authority, AuthorityError, UserSpec};
use crate::grant::{Grant, GroupGrant};

/// Whose sidecar a grant is for.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// Agent name, the sender token.
    pub agent: &'a str,
    /// Which of its replicas.
    pub instance: &'a str,
    /// Public key made in the sidecar.
    pub public_key: &'a str,
}

impl Authority {
    /// Lets a sidecar take part in these groups and publish to these addresses. `now`: seconds since the Unix epoch.
    pub fn grant(
        &self,
        to: Recipient<'_>,
        groups: Vec<GroupGrant>,
        publish: Vec<String>,
        now: u64,
    ) -> Result<Grant, AuthorityError> {
        let Recipient { agent, instance, public_key } = to;
        let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        let consumers: Vec<String> = groups.iter().flat_map(GroupGrant::consumers).collect();
        let spec = UserSpec { agent, public_key, groups: &names, consumers: &consumers, publish: &publish };
        let (jwt, expires) = self.sidecar(&spec, now)?;
        let (secret, group_secrets) = self.secrets(agent, &names)?;
        Ok(Grant {
            agent: agent.to_owned(),
            instance: instance.to_owned(),
            namespace: self.namespace().to_owned(),
            layout: self.layout(),
            jwt,
            expires,
            groups,
            publish,
            secret,
            group_secrets,
            ..Grant::default()
        })
    }
}
