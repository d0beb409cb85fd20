//! Makes grants: what a sidecar may do, signed. The one place where a token is minted for an agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use agentbus_nats::grant::{AgentLimits, Grant, GroupGrant};
use agentbus_nats::identity::{Authority, Recipient};
use agentbus_nats::topology::Sizes;
use agentbus_proto::{Code, Fault, name};

use crate::groups::{self, Groups};
use crate::spec::{AgentSpec, Bounds, Project};

/// Length of a public key of a user: `U` and 55 characters of base 32.
const PUBLIC_KEY_BYTES: usize = 56;

/// Events per second of an agent that the project does not limit: a twelfth of what a broker stores.
const PUBLISH_RATE: f64 = 10_000.0;
/// Of such an agent's bytes per day: half of the events stream, but never less than this.
const STORED_BYTES_LEAST: u64 = 64 << 20;

/// What every grant of a namespace has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Namespace.
    pub namespace: String,
    /// Broker addresses as sidecars reach them.
    pub servers: Vec<String>,
    /// Largest encoded event, in bytes.
    pub event_bytes_max: usize,
}

/// The issuer, with the groups of all agents.
pub struct Grants {
    authority: Arc<Authority>,
    common: Common,
    groups: Mutex<Groups>,
    /// What bounds each agent; others have the defaults.
    bounds: BTreeMap<String, Bounds>,
}

impl Grants {
    /// Issues in the name of `authority`.
    pub fn new(authority: Arc<Authority>, common: Common, groups: Groups) -> Self {
        Self { authority, common, groups: Mutex::new(groups), bounds: BTreeMap::new() }
    }

    /// With what a project says bounds its agents, and what bounds them unless it says so. The person has no limits, and
    /// decides alone when to try again.
    pub fn bounded(mut self, project: &Project, sizes: &Sizes) -> Self {
        let bounds = |agent: &AgentSpec| (agent.name.clone(), with_quotas(agent.bounds.clone(), sizes));
        self.bounds = project.agents.iter().map(bounds).collect();
        let person = Bounds { limits: AgentLimits::default(), breaker: None, spool: project.bounds.spool };
        self.bounds.insert(groups::PERSON.to_owned(), person);
        self
    }

    /// What bounds an agent.
    pub fn bounds(&self, agent: &str) -> Bounds {
        self.bounds.get(agent).cloned().unwrap_or_default()
    }

    /// The groups, for a short look or change: never held across an await.
    pub fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every group once, with this one added or replaced: what must exist on the broker.
    pub fn all_groups(&self) -> Vec<GroupGrant> {
        self.groups().all()
    }

    /// A grant for an instance's public key. Refuses strangers (`SCOPE_DENIED`) and bad keys (`INVALID_ADDRESS`).
    pub fn issue(&self, agent: &str, instance: &str, public_key: &str) -> Result<Grant, Fault> {
        check_instance(agent, instance)?;
        check_key(public_key)?;
        let (groups, publish, directory) = {
            let known = self.groups();
            if !known.knows(agent) {
                return Err(groups::unknown(agent));
            }
            (known.of(agent), known.publish(agent).to_vec(), known.directory().clone())
        };
        let to = Recipient { agent, instance, public_key };
        let signed = self
            .authority
            .grant(to, groups, publish, now())
            .map_err(|error| Fault::new(Code::BadConfig, format!("cannot sign a token for `{agent}`: {error}")))?;
        let Bounds { limits, breaker, .. } = self.bounds(agent);
        let Common { namespace, servers, event_bytes_max } = self.common.clone();
        Ok(Grant { namespace, servers, event_bytes_max, directory, limits, breaker, ..signed })
    }
}

/// One that runs wild can neither take the broker's time from the others nor fill the events stream within a day.
fn with_quotas(mut bounds: Bounds, sizes: &Sizes) -> Bounds {
    let events = u64::try_from(sizes.events_bytes_max).unwrap_or(u64::MAX);
    bounds.limits.publish_per_second.get_or_insert(PUBLISH_RATE);
    bounds.limits.stored_bytes_max.get_or_insert((events / 2).max(STORED_BYTES_LEAST));
    bounds
}

fn check_instance(agent: &str, instance: &str) -> Result<(), Fault> {
    name::lower_name("instance", instance)?;
    let own = instance.strip_prefix(agent).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    if own { Ok(()) } else { Err(Fault::new(Code::ScopeDenied, format!("`{instance}` is no instance of `{agent}`"))) }
}

fn check_key(public_key: &str) -> Result<(), Fault> {
    let base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    if public_key.len() == PUBLIC_KEY_BYTES && public_key.starts_with('U') && public_key.bytes().all(base32) {
        return Ok(());
    }
    Err(Fault::new(Code::InvalidAddress, "`public_key` is no public key of a user (U…, 56 characters)"))
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        format!("U{}", "A".repeat(55))
    }

    fn grants() -> Grants {
        let text = "version: 1\nagents:\n  check: {runner: process, command: [c], subscribe: [file.found], publish: [file.checked], replicas: 2}\n";
        let groups = Groups::declared(&Project::parse(text, "t").unwrap(), false);
        let common = Common { namespace: "default".into(), servers: vec!["nats://b:1".into()], event_bytes_max: 1000 };
        Grants::new(Arc::new(Authority::generate("default")), common, groups)
    }

    #[test]
    fn a_grant_says_what_the_project_declares() {
        let grant = grants().issue("check", "check-2", &key()).unwrap();
        assert_eq!((grant.agent.as_str(), grant.instance.as_str()), ("check", "check-2"));
        assert_eq!(grant.publish, ["file.checked"]);
        assert_eq!(grant.groups[0].name, "check");
        assert!(grant.expires > now() + 3600 && grant.jwt.split('.').count() == 3);
        assert_eq!((grant.servers[0].as_str(), grant.event_bytes_max), ("nats://b:1", 1000));
    }

    #[test]
    fn agents_have_quotas_unless_the_project_says_otherwise_and_the_person_has_none() {
        let text = "version: 1\nagents:\n  a: {runner: process, command: [c]}\n  \
            b: {runner: process, command: [c], limits: {publish_rate: 5/s, stored_bytes: off}}\n";
        let project = Project::parse(text, "t").unwrap();
        let limits = |agent: &str, quota: i64| {
            let grants = grants().bounded(&project, &Sizes::within(quota));
            let AgentLimits { publish_per_second, stored_bytes_max, .. } = grants.bounds(agent).limits;
            (publish_per_second, stored_bytes_max)
        };
        assert_eq!(limits("a", 2 << 30), (Some(PUBLISH_RATE), Some(512 << 20)));
        assert_eq!(limits("a", 16 << 20), (Some(PUBLISH_RATE), Some(STORED_BYTES_LEAST)));
        assert_eq!(limits("b", 2 << 30), (Some(5.0), Some(u64::MAX)));
        assert_eq!(limits(groups::PERSON, 2 << 30), (None, None));
    }

    #[test]
    fn strangers_and_bad_keys_get_none() {
        let grants = grants();
        let check = |agent: &str, instance: &str, key: &str, code: Code| {
            assert_eq!(grants.issue(agent, instance, key).unwrap_err().code, code, "{agent} {instance} {key}");
        };
        check("stranger", "stranger", &key(), Code::ScopeDenied);
        check("check", "checker", &key(), Code::ScopeDenied);
        check("check", "check 1", &key(), Code::InvalidAddress);
        check("check", "check-1", "UX", Code::InvalidAddress);
        check("check", "check-1", &key().to_lowercase(), Code::InvalidAddress);
        check("me", "me", &key(), Code::ScopeDenied);
    }
}
