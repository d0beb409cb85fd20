//! Patterns that people write (`notes.>`, `@reviewer`, `#engineering`) and the filters the broker takes.
//!
//! The class is explicit: `@` names agents and pools, `#` channels, everything else is a topic. `@*` and `#*` stand for all
//! of their class. Overlapping filters in one consumer are refused by the server (error 10138), so a set of patterns is
//! simplified first: a pattern covered by another one is dropped, and what still overlaps is an error that names both.

use std::collections::BTreeSet;

use agentbus_proto::name::{lower_name, token};
use agentbus_proto::{Address, Code, Fault};

/// What a pattern is about: the class token of the subjects it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Topic,
    Agent,
    Channel,
}

impl Class {
    fn of(text: &str) -> (Self, &str) {
        match text.split_at_checked(1) {
            Some(("@", name)) => (Self::Agent, name),
            Some(("#", name)) => (Self::Channel, name),
            _ => (Self::Topic, text),
        }
    }

    fn token(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Agent => "agent",
            Self::Channel => "channel",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Topic => "",
            Self::Agent => "@",
            Self::Channel => "#",
        }
    }
}

/// One address pattern: dot-separated tokens of a topic, `*` for exactly one, a final `>` for one or more; or `@` or `#`
/// with one name or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    class: Class,
    tokens: Vec<String>,
}

impl Pattern {
    /// Reads and checks a pattern of any class.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (class, name) = Class::of(text);
        if class == Class::Topic {
            return Self::topic(text);
        }
        if name != "*" {
            let kind = class.token();
            lower_name(kind, name).map_err(|fault| invalid(text, &fault.message))?;
        }
        Ok(Self { class, tokens: vec![name.to_owned()] })
    }

    /// Reads and checks a topic pattern; refuses the other classes.
    pub fn topic(text: &str) -> Result<Self, Fault> {
        let tokens: Vec<String> = text.split('.').map(str::to_owned).collect();
        if tokens.len() > TOKENS_MAX {
            return Err(invalid(text, "more than 10 tokens"));
        }
        for (at, part) in tokens.iter().enumerate() {
            match part.as_str() {
                "*" => {}
                ">" if at + 1 == tokens.len() => {}
                ">" => return Err(invalid(text, "`>` may only stand at the end")),
                other => token(other).map_err(|fault| invalid(text, &fault.message))?,
            }
        }
        Ok(Self { class: Class::Topic, tokens })
    }

    /// Whether an event for this topic matches. Never true of agents and channels.
    pub fn matches(&self, topic: &str) -> bool {
        self.class == Class::Topic && self.matches_tokens(topic)
    }

    /// Whether an event for this address matches.
    pub fn matches_address(&self, to: &Address) -> bool {
        self.class.token() == to.class() && self.matches_tokens(to.name())
    }

    /// The agent or pool it names; none for topics, channels and `@*`.
    pub fn agent(&self) -> Option<&str> {
        self.name(Class::Agent)
    }

    /// The channel it names; none for topics, agents and `#*`.
    pub fn channel(&self) -> Option<&str> {
        self.name(Class::Channel)
    }

    /// Whether it is about agents and pools: `@x` or `@*`.
    pub fn is_agent(&self) -> bool {
        self.class == Class::Agent
    }

    /// Whether it is about channels: `#x` or `#*`.
    pub fn is_channel(&self) -> bool {
        self.class == Class::Channel
    }

    fn name(&self, class: Class) -> Option<&str> {
        self.tokens.first().map(String::as_str).filter(|name| self.class == class && *name != "*")
    }

    /// The ends of all subjects it matches, from the class on: `topic.*.notes.>`, or `agent.*.x` and `agent.*.x.>`, because
    /// an event's type stands behind the name. With `types`, only those; they say nothing about topics.
    fn subjects(&self, types: &[String]) -> Vec<String> {
        let (class, name) = (self.class.token(), self.tokens.join("."));
        match name.as_str() {
            _ if self.class == Class::Topic => vec![format!("{class}.*.{name}")],
            "*" if types.is_empty() => vec![format!("{class}.*.>")],
            _ if types.is_empty() => vec![format!("{class}.*.{name}"), format!("{class}.*.{name}.>")],
            _ => {
                let types: BTreeSet<&String> = types.iter().collect();
                types.into_iter().map(|event_type| format!("{class}.*.{name}.{event_type}")).collect()
            }
        }
    }

    /// What a token must carry so that its holder may publish there: tags of the broker's permission template.
    pub(crate) fn permissions(&self) -> Vec<String> {
        self.subjects(&[])
    }

    fn matches_tokens(&self, text: &str) -> bool {
        let mut want = self.tokens.iter();
        let mut have = text.split('.');
        loop {
            match (want.next().map(String::as_str), have.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(want), Some(have)) if want == have => {}
                _ => return false,
            }
        }
    }

    /// Whether everything that matches `other` matches this too.
    pub fn covers(&self, other: &Self) -> bool {
        if self.class != other.class {
            return false;
        }
        let mut mine = self.tokens.iter();
        let mut theirs = other.tokens.iter();
        loop {
            match (mine.next().map(String::as_str), theirs.next().map(String::as_str)) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(mine), Some(theirs)) if mine == theirs && mine != "*" => {}
                _ => return false,
            }
        }
    }

    /// Whether some address matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.class != other.class {
            return false;
        }
        let mut mine = self.tokens.iter();
        let mut theirs = other.tokens.iter();
        loop {
            match (mine.next().map(String::as_str), theirs.next().map(String::as_str)) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(mine), Some(theirs)) if mine == theirs => {}
                _ => return false,
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.class.sign())?;
        f.write_str(&self.tokens.join("."))
    }
}

/// Same bound as a topic: room for the prefix within 16 tokens.
const TOKENS_MAX: usize = 10;

fn invalid(pattern: &str, why: &str) -> Fault {
    Fault::new(Code::InvalidAddress, format!("pattern `{pattern}`: {why}"))
}

/// Reads a set of patterns and drops the covered ones. Empty sets and true overlaps are refused.
pub fn simplify(patterns: &[String]) -> Result<Vec<Pattern>, Fault> {
    let parsed = patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() {
        return Err(Fault::new(
            Code::InvalidAddress,
            "a subscription needs at least one pattern, for example `notes.>` or `#engineering`",
        ));
    }
    let mut kept: Vec<Pattern> = Vec::new();
    for pattern in parsed {
        if kept.iter().any(|other| other.covers(&pattern)) {
            continue;
        }
        kept.retain(|other| !pattern.covers(other));
        kept.push(pattern);
    }
    for (at, one) in kept.iter().enumerate() {
        if let Some(other) = kept.iter().skip(at + 1).find(|other| one.overlaps(other)) {
            let why = format!("overlaps `{other}`: use one pattern that covers both, or two groups");
            return Err(invalid(&one.to_string(), &why));
        }
    }
    Ok(kept)
}

/// Broker filters over all lanes, senders and event types for a set of patterns.
pub fn filters(namespace: &str, patterns: &[String]) -> Result<Vec<String>, Fault> {
    typed_filters(namespace, patterns, &[])
}

/// The same for some event types only (empty = all). Behind `@x` and `#x` the type stands in the subject, so the broker
/// keeps the others back; a topic's filter is the same with and without.
pub fn typed_filters(namespace: &str, patterns: &[String], types: &[String]) -> Result<Vec<String>, Fault> {
    let patterns = simplify(patterns)?;
    let ends = patterns.iter().flat_map(|pattern| pattern.subjects(types));
    Ok(ends.map(|end| format!("ab.{namespace}.*.*.{end}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn patterns_match_as_the_broker_does() {
        let cases = [
            ("notes.created", "notes.created", true),
            ("notes.created", "notes.created.v1", false),
            ("notes.*", "notes.created", true),
            ("notes.*", "notes", false),
            ("notes.*", "notes.created.v1", false),
            ("notes.>", "notes.created.v1", true),
            ("notes.>", "notes", false),
            (">", "a", true),
            ("*.created", "notes.created", true),
        ];
        for (pattern, topic, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn bad_patterns_are_refused_with_a_reason() {
        for text in
            ["", "a..b", "a.>.b", "a b", "@", "#", "@Reviewer", "#a.b", "@a*", "@>", "#all.>", "a.b.c.d.e.f.g.h.i.j.k"]
        {
            let fault = Pattern::parse(text).unwrap_err();
            assert_eq!(fault.code, Code::InvalidAddress, "{text}");
        }
        assert!(Pattern::topic("@reviewer").is_err());
    }

    #[test]
    fn covered_patterns_are_dropped() {
        let kept =
            |patterns: &[&str]| simplify(&set(patterns)).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(kept(&["notes.created", "notes.>"]), ["notes.>"]);
        assert_eq!(kept(&["notes.*", "notes.created"]), ["notes.*"]);
        assert_eq!(kept(&["a.b", "a.b", "c"]), ["a.b", "c"]);
        assert_eq!(kept(&["@a", "#a", "a", "@a"]), ["@a", "#a", "a"]);
        assert_eq!(kept(&["#a", "#*", ">", "@b"]), ["#*", ">", "@b"]);
    }

    #[test]
    fn true_overlaps_are_refused_because_the_server_would() {
        let fault = simplify(&set(&["a.*", "*.b"])).unwrap_err();
        assert!(fault.message.contains("overlaps"), "{fault}");
        assert!(simplify(&[]).is_err());
    }

    #[test]
    fn filters_span_lanes_and_senders() {
        assert_eq!(filters("default", &set(&["notes.>"])).unwrap(), ["ab.default.*.*.topic.*.notes.>"]);
    }

    #[test]
    fn names_match_their_class_only() {
        let matches = |pattern: &str, to: &str| Pattern::parse(pattern).unwrap().matches_address(&to.parse().unwrap());
        for (pattern, to, expected) in [
            ("@a", "@a", true),
            ("@a", "@b", false),
            ("@a", "#a", false),
            ("@a", "a", false),
            ("@*", "@b", true),
            ("#*", "#all", true),
            ("#all", "#all", true),
            (">", "@a", false),
            (">", "a.b", true),
        ] {
            assert_eq!(matches(pattern, to), expected, "{pattern} {to}");
        }
        assert!(!Pattern::parse("@a").unwrap().matches("a"));
    }

    #[test]
    fn a_type_may_follow_a_name_and_wanted_types_end_the_filter() {
        let agents = ["ab.default.*.*.agent.*.x", "ab.default.*.*.agent.*.x.>"];
        assert_eq!(filters("default", &set(&["@x"])).unwrap(), agents);
        assert_eq!(filters("default", &set(&["#*"])).unwrap(), ["ab.default.*.*.channel.*.>"]);
        let typed = typed_filters("d", &set(&["#eng", "pr.>"]), &set(&["b.v1", "a.v1", "b.v1"])).unwrap();
        let wanted = ["ab.d.*.*.channel.*.eng.a.v1", "ab.d.*.*.channel.*.eng.b.v1", "ab.d.*.*.topic.*.pr.>"];
        assert_eq!(typed, wanted);
        assert_eq!(typed_filters("d", &set(&["@*"]), &set(&["t"])).unwrap(), ["ab.d.*.*.agent.*.*.t"]);
    }
}
