//! Where an agent may publish, checked before the broker would: a refusal here names the pattern to add.
//!
//! The broker enforces the same patterns. That an address is declared only this check knows: to the broker a subject that
//! nobody reads is as good as any.

use agentbus_nats::grant::{Directory, Grant};
use agentbus_nats::pattern::Pattern;
use agentbus_proto::{Address, Code, Fault};

/// Compiled publish permissions of one grant, and the addresses that exist.
#[derive(Debug, Clone)]
pub struct Scope {
    agent: String,
    publish: Vec<Pattern>,
    directory: Directory,
}

impl Scope {
    /// Compiles a grant's patterns; a pattern that does not parse was refused by the control plane already.
    pub fn new(grant: &Grant) -> Self {
        let publish = grant.publish.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        Self { agent: grant.agent.clone(), publish, directory: grant.directory.clone() }
    }

    /// Refuses addresses that nobody has declared (`INVALID_ADDRESS`), unless the event shall wait there (`park`), and
    /// those outside the scope (`SCOPE_DENIED`). An event waits for an agent or a pool only: a channel's events are for
    /// those who read it when they are sent.
    pub fn allow(&self, to: &Address, park: bool) -> Result<(), Fault> {
        if !park || matches!(to, Address::Channel(_)) {
            self.directory.check(to)?;
        }
        if self.publish.iter().any(|pattern| pattern.matches_address(to)) {
            return Ok(());
        }
        let why = format!("agent `{}` may not publish to `{to}`: add it to `publish` in agentbus.yaml", self.agent);
        Err(Fault::new(Code::ScopeDenied, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(to: &str, park: bool, expected: Option<Code>) {
        let agents = ["reviewer", "other"].map(|name| (name.to_owned(), String::new())).into();
        let grant = Grant {
            agent: "list".into(),
            publish: ["file.*", "@reviewer", "@later", "#all"].map(str::to_owned).into(),
            directory: Directory { agents, channels: ["eng".to_owned()].into(), ..Directory::default() },
            ..Grant::default()
        };
        let allowed = Scope::new(&grant).allow(&to.parse().unwrap(), park);
        let fault = allowed.err();
        assert!(fault.as_ref().is_none_or(|fault| fault.message.contains(to)), "{fault:?}");
        assert_eq!(fault.map(|fault| fault.code), expected, "{to} {park}");
    }

    #[test]
    fn addresses_outside_the_grant_are_refused_by_name() {
        for to in ["file.found", "@reviewer", "#all"] {
            check(to, false, None);
        }
        for to in ["audit.started", "@other", "#eng"] {
            check(to, false, Some(Code::ScopeDenied));
        }
    }

    #[test]
    fn undeclared_addresses_are_refused_unless_the_event_may_wait() {
        for to in ["@later", "@reviewers", "#engineering"] {
            check(to, false, Some(Code::InvalidAddress));
        }
        check("@later", true, None);
        check("@reviewers", true, Some(Code::ScopeDenied));
        check("#engineering", true, Some(Code::InvalidAddress));
    }
}
