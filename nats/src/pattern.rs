//! Patterns that people write (`notes.>`) and the filters the broker takes.
//!
//! Overlapping filters in one consumer are refused by the server (error 10138), so a set of patterns is simplified
//! first: a pattern covered by another one is dropped, and what still overlaps is an error that names both.

use agentbus_proto::name::token;
use agentbus_proto::{Code, Fault};

/// One topic pattern: dot-separated tokens, `*` for exactly one, a final `>` for one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<String>,
}

impl Pattern {
    /// Reads and checks a topic pattern.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.starts_with(['@', '#']) {
            return Err(invalid(text, "only topic patterns can be subscribed in this version"));
        }
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
        Ok(Self { tokens })
    }

    /// Whether an event for this topic matches.
    pub fn matches(&self, topic: &str) -> bool {
        let mut want = self.tokens.iter();
        let mut have = topic.split('.');
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
    fn covers(&self, other: &Self) -> bool {
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

    /// Whether some topic matches both.
    fn overlaps(&self, other: &Self) -> bool {
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
            "a subscription needs at least one pattern, for example `notes.>`",
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

/// Broker filters over all lanes and senders for a set of topic patterns.
pub fn filters(namespace: &str, patterns: &[String]) -> Result<Vec<String>, Fault> {
    Ok(simplify(patterns)?.iter().map(|pattern| format!("ab.{namespace}.*.*.topic.*.{pattern}")).collect())
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
        for text in ["", "a..b", "a.>.b", "a b", "@reviewer", "#engineering", "a.b.c.d.e.f.g.h.i.j.k"] {
            let fault = Pattern::parse(text).unwrap_err();
            assert_eq!(fault.code, Code::InvalidAddress, "{text}");
        }
    }

    #[test]
    fn covered_patterns_are_dropped() {
        let kept =
            |patterns: &[&str]| simplify(&set(patterns)).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(kept(&["notes.created", "notes.>"]), ["notes.>"]);
        assert_eq!(kept(&["notes.*", "notes.created"]), ["notes.*"]);
        assert_eq!(kept(&["a.b", "a.b", "c"]), ["a.b", "c"]);
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
}
