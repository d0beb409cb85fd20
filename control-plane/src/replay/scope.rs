//! What an agent may read of history. The namespace is the trust zone, so topics and channels are open to all in it; what is
//! sent to an agent or a pool is read by it alone, and by the person.

use agentbus_nats::grant::Directory;
use agentbus_nats::pattern::{self, Pattern};
use agentbus_nats::subject::EventSubject;
use agentbus_proto::{Address, Code, Fault};

use crate::groups::PERSON;

/// Most patterns of one replay.
const PATTERNS_MAX: usize = 64;

/// The broker's filters for what `agent` asks for. `SCOPE_DENIED` for addresses of others, `INVALID_ADDRESS` for patterns
/// that mean nothing.
pub(super) fn filters(
    namespace: &str,
    directory: &Directory,
    agent: &str,
    patterns: &[String],
) -> Result<Vec<String>, Fault> {
    if patterns.len() > PATTERNS_MAX {
        return Err(Fault::new(Code::InvalidAddress, format!("more than {PATTERNS_MAX} patterns in one replay")));
    }
    for pattern in pattern::simplify(patterns)? {
        if pattern.is_agent() && !pattern.agent().is_some_and(|name| owns(directory, agent, name)) && agent != PERSON {
            let why = format!("`{pattern}` cannot be replayed: what is sent to an agent or a pool is read by it alone");
            return Err(Fault::new(Code::ScopeDenied, why));
        }
    }
    pattern::filters(namespace, patterns)
}

/// Whether `agent` may see an event stored under this subject.
pub(super) fn sees(directory: &Directory, agent: &str, subject: &str) -> bool {
    match EventSubject::parse(subject).map(|subject| subject.to) {
        Some(Address::Agent(name)) => agent == PERSON || owns(directory, agent, &name),
        Some(_) => true,
        None => false,
    }
}

fn owns(directory: &Directory, agent: &str, name: &str) -> bool {
    name == agent || directory.pools.get(name).is_some_and(|members| members.iter().any(|member| member == agent))
}

/// Whether one of the patterns means this address.
pub(super) fn matches(patterns: &[String], to: &Address) -> bool {
    patterns.iter().any(|text| Pattern::parse(text).is_ok_and(|pattern| pattern.matches_address(to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_open_but_for_what_is_sent_to_others() {
        let pools = [("team".to_owned(), vec!["a".to_owned()])].into();
        let directory = Directory { pools, ..Directory::default() };
        let check = |agent: &str, pattern: &str, wanted: Option<Code>| {
            let answer = filters("default", &directory, agent, &[pattern.to_owned()]);
            assert_eq!(answer.err().map(|fault| fault.code), wanted, "{agent} {pattern}");
        };
        for open in ["notes.>", "#ops", "#*", "@a", "@team"] {
            check("a", open, None);
        }
        for closed in ["@b", "@*"] {
            check("a", closed, Some(Code::ScopeDenied));
            check(PERSON, closed, None);
        }
        check("b", "@team", Some(Code::ScopeDenied));
        check("a", "a..b", Some(Code::InvalidAddress));
        assert!(sees(&directory, "a", "ab.default.n.x.agent.-.team.t.v1"));
        assert!(!sees(&directory, "b", "ab.default.n.x.agent.-.team.t.v1"));
        assert!(
            sees(&directory, "b", "ab.default.n.x.topic.-.notes") && !sees(&directory, "b", "abd.default.g.a.CRASH")
        );
    }
}
