//! What the grant allows, checked before the broker would: a refusal here names the pattern to add.

use agentbus_nats::grant::Grant;
use agentbus_nats::pattern::Pattern;
use agentbus_proto::{Address, Code, Fault};

/// Compiled publish permissions of one grant.
#[derive(Debug, Clone)]
pub struct Scope {
    agent: String,
    publish: Vec<Pattern>,
}

impl Scope {
    /// Compiles a grant's patterns; a pattern that does not parse was refused by the control plane already.
    pub fn new(grant: &Grant) -> Self {
        let publish = grant.publish.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        Self { agent: grant.agent.clone(), publish }
    }

    /// The topic an event may go to; refuses other classes and topics outside the scope.
    pub fn topic<'a>(&self, to: &'a Address) -> Result<&'a str, Fault> {
        let Address::Topic(topic) = to else {
            let why = format!("`{to}` is no topic: this version delivers topics only, such as `task.done`");
            return Err(Fault::new(Code::InvalidAddress, why));
        };
        if self.publish.iter().any(|pattern| pattern.matches(topic)) {
            return Ok(topic);
        }
        let why = format!("agent `{}` may not publish to `{topic}`: add it to `publish` in agentbus.yaml", self.agent);
        Err(Fault::new(Code::ScopeDenied, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_outside_the_grant_are_refused_by_name() {
        let grant = Grant {
            agent: "list".into(),
            instance: "list".into(),
            namespace: "default".into(),
            servers: vec![],
            jwt: String::new(),
            expires: 0,
            groups: vec![],
            publish: vec!["file.*".into()],
            event_bytes_max: 1,
            secret: String::new(),
            group_secrets: Default::default(),
            ..Grant::default()
        };
        let scope = Scope::new(&grant);
        assert_eq!(scope.topic(&Address::Topic("file.found".into())).unwrap(), "file.found");
        let denied = scope.topic(&Address::Topic("audit.started".into())).unwrap_err();
        assert_eq!(denied.code, Code::ScopeDenied);
        assert!(denied.message.contains("audit.started"));
        assert_eq!(scope.topic(&Address::Agent("x".into())).unwrap_err().code, Code::InvalidAddress);
    }
}
