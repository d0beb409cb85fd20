//! Where an event goes, as people write it: `notes.created` (topic), `@reviewer` (agent or pool), `#engineering`
//! (channel), `#all` (every agent).
//!
//! An `Address` made by `FromStr` or from the contract is valid. The limits leave room for the prefix
//! `ab.<namespace>.<lane>.<sender>.<class>.<part>.` of a subject (16 tokens, 255 bytes): with a namespace and a sender of
//! more than about 50 bytes each the whole subject can still be too long, which only who builds it can tell.

use std::fmt;
use std::str::FromStr;

use crate::code::Code;
use crate::event::v1 as pb;
use crate::failure::Fault;
use crate::name::{lower_name, token};

/// Most tokens of a topic or a type.
pub const TOPIC_TOKENS_MAX: usize = 10;
/// Longest topic or type, in bytes.
pub const TOPIC_BYTES_MAX: usize = 150;

/// A valid destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Every group subscribed to the topic.
    Topic(String),
    /// One agent, or whoever of a pool is free.
    Agent(String),
    /// All members of a channel; `all` is every agent of the namespace.
    Channel(String),
}

impl Address {
    /// The class token of the subject: `topic`, `agent` or `channel`.
    pub fn class(&self) -> &'static str {
        match self {
            Address::Topic(_) => "topic",
            Address::Agent(_) => "agent",
            Address::Channel(_) => "channel",
        }
    }

    /// The topic or name, without `@` or `#`.
    pub fn name(&self) -> &str {
        match self {
            Address::Topic(name) | Address::Agent(name) | Address::Channel(name) => name,
        }
    }

    /// Checks names that did not come through `FromStr`. Refuses with `INVALID_ADDRESS`.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Address::Topic(topic) => dotted("topic", topic).map_err(|why| Fault::new(Code::InvalidAddress, why)),
            Address::Agent(name) => lower_name("agent", name),
            Address::Channel(name) => lower_name("channel", name),
        }
    }
}

/// Checks a topic or a type: tokens with dots between. The error says what is wrong and what is allowed.
pub(crate) fn dotted(kind: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{kind} is empty"));
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(format!("{kind} has {} bytes; at most {TOPIC_BYTES_MAX} are allowed", text.len()));
    }
    let tokens = text.split('.').count();
    if tokens > TOPIC_TOKENS_MAX {
        return Err(format!("{kind} `{text}` has {tokens} tokens; at most {TOPIC_TOKENS_MAX} are allowed"));
    }
    for part in text.split('.') {
        token(part).map_err(|fault| match part {
            "*" | ">" => format!("{kind} `{text}` contains the wildcard {part}; wildcards are for subscriptions only"),
            _ => format!("{kind} `{}`: {}", text.escape_debug(), fault.message),
        })?;
    }
    Ok(())
}

impl FromStr for Address {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let address = match text.split_at_checked(1) {
            None if text.is_empty() => {
                let message = "address is empty; write a topic, @agent or #channel";
                return Err(Fault::new(Code::InvalidAddress, message));
            }
            Some(("@", name)) => Address::Agent(name.to_owned()),
            Some(("#", name)) => Address::Channel(name.to_owned()),
            _ => Address::Topic(text.to_owned()),
        };
        address.validate()?;
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Topic(topic) => write!(f, "{topic}"),
            Address::Agent(name) => write!(f, "@{name}"),
            Address::Channel(name) => write!(f, "#{name}"),
        }
    }
}

impl From<Address> for pb::Address {
    fn from(address: Address) -> Self {
        let kind = match address {
            Address::Topic(topic) => pb::address::Kind::Topic(topic),
            Address::Agent(name) => pb::address::Kind::Agent(name),
            Address::Channel(name) => pb::address::Kind::Channel(name),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<&pb::Address> for Address {
    type Error = Fault;

    fn try_from(address: &pb::Address) -> Result<Self, Fault> {
        let address = match &address.kind {
            None => return Err(Fault::new(Code::InvalidAddress, "`to` names no topic, agent or channel")),
            Some(pb::address::Kind::Topic(topic)) => Address::Topic(topic.clone()),
            Some(pb::address::Kind::Agent(name)) => Address::Agent(name.clone()),
            Some(pb::address::Kind::Channel(name)) => Address::Channel(name.clone()),
        };
        address.validate()?;
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_class() {
        let check = |text: &str, wanted: Address| {
            let address: Address = text.parse().unwrap();
            assert_eq!(address, wanted);
            assert_eq!(address.to_string(), text);
            assert_eq!(Address::try_from(&pb::Address::from(address)), Ok(wanted));
        };
        check("notes.created", Address::Topic("notes.created".into()));
        check("A_b-1", Address::Topic("A_b-1".into()));
        check("1.2.3.4.5.6.7.8.9.10", Address::Topic("1.2.3.4.5.6.7.8.9.10".into()));
        check("@reviewer", Address::Agent("reviewer".into()));
        check("#engineering", Address::Channel("engineering".into()));
        check("#all", Address::Channel("all".into()));
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |text: &str, wanted: &str| {
            let fault = text.parse::<Address>().unwrap_err();
            assert_eq!(fault.code, Code::InvalidAddress);
            assert!(fault.message.contains(wanted), "{text:?}: {}", fault.message);
        };
        check("", "address is empty");
        check("@", "agent is empty");
        check("#", "channel is empty");
        check("@Reviewer", "agent `Reviewer` contains 'R'");
        check("@a.b", "agent `a.b` contains '.'");
        check("#Eng", "lower-case");
        check("a..b", "topic `a..b`: token is empty");
        check(".a", "token is empty");
        check("a.", "token is empty");
        check("notes.*", "wildcards are for subscriptions only");
        check("notes.>", "wildcards are for subscriptions only");
        check("a b", "contains ' '");
        check("ü.b", "contains 'ü'");
        check("$JS.API", "contains '$'");
        check("1.2.3.4.5.6.7.8.9.10.11", "has 11 tokens; at most 10");
        check(&["x".repeat(60).as_str(); 3].join("."), "has 182 bytes; at most 150");
        check(&"x".repeat(64), "has 64 bytes; at most 63");
    }

    #[test]
    fn an_empty_address_of_the_contract_is_refused() {
        assert!(Address::try_from(&pb::Address { kind: None }).is_err());
        let bad = pb::Address { kind: Some(pb::address::Kind::Topic("a b".into())) };
        assert!(Address::try_from(&bad).is_err());
    }
}
