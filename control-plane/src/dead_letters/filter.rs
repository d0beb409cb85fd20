//! Which dead letters are meant: by group, class, type pattern and a part of the cause.
//!
//! Group and class are in the subject, so the broker skips what is not wanted; the rest is compared here.

use agentbus_nats::moves::Class;
use agentbus_nats::pattern::Pattern;
use agentbus_proto::{Code, Fault, name};
use serde::{Deserialize, Serialize};

use super::letter::DeadLetter;

/// Conditions that must all hold. Empty: every dead letter that has not been redriven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only of this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only of this class, in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Only events whose type matches this pattern: `notes.created`, `notes.*`, `notes.>`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Only where the cause contains this text, in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Also those that have been redriven.
    pub all: bool,
}

/// A filter that has been checked.
#[derive(Debug)]
pub(super) struct Matcher {
    /// For the broker.
    pub subject: String,
    pattern: Option<Pattern>,
    cause: Option<String>,
    all: bool,
}

impl Filter {
    /// Refuses with `INVALID_EVENT` what can never match.
    pub(super) fn compile(&self, namespace: &str) -> Result<Matcher, Fault> {
        let invalid = |what: &str, why: String| Fault::new(Code::InvalidEvent, format!("filter `{what}`: {why}"));
        if let Some(group) = &self.group {
            name::token(group).map_err(|fault| invalid("group", fault.message))?;
        }
        let class = match &self.class {
            Some(text) => Class::parse(text).map(Class::as_str).ok_or_else(|| {
                let known = Class::ALL.map(Class::as_str).join(", ");
                invalid("class", format!("`{}` is none of {known}", text.escape_debug()))
            })?,
            None => "*",
        };
        let pattern = self.event_type.as_deref().map(Pattern::topic).transpose();
        let group = self.group.as_deref().unwrap_or("*");
        Ok(Matcher {
            subject: agentbus_nats::subject::dead_letter(namespace, group, "*", class),
            pattern: pattern.map_err(|fault| invalid("type", fault.message))?,
            cause: self.cause.as_ref().map(|cause| cause.to_lowercase()),
            all: self.all,
        })
    }
}

impl Matcher {
    /// Of a letter found under `subject`, with `redriven` filled in.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        (self.all || letter.redriven.is_none())
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(&letter.event_type))
            && self.cause.as_ref().is_none_or(|cause| letter.cause.to_lowercase().contains(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Redriven, Target};
    use super::super::letter::tests::{event, stored};
    use super::*;

    fn filter(change: impl FnOnce(&mut Filter)) -> Filter {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    }

    #[test]
    fn type_cause_and_redriven_decide() {
        let letter = stored(5, Class::Exhausted, event()).letter();
        let at = "2026-11-20T10:00:00Z".to_owned();
        let last = Redriven { count: 1, at, to: Target::Group, redrive: 1, new_stream: "S".into(), new_seq: 1 };
        let redriven = DeadLetter { redriven: Some(last), ..letter.clone() };
        let check = |letter: &DeadLetter, filter: Filter, wanted: bool| {
            assert_eq!(filter.compile("default").unwrap().matches(letter), wanted, "{filter:?}");
        };
        check(&letter, Filter::default(), true);
        check(&redriven, Filter::default(), false);
        check(&redriven, filter(|filter| filter.all = true), true);
        check(&letter, filter(|filter| filter.event_type = Some("notes.>".into())), true);
        check(&letter, filter(|filter| filter.event_type = Some("notes.*".into())), false);
        check(&letter, filter(|filter| filter.cause = Some("No Such".into())), true);
        check(&letter, filter(|filter| filter.cause = Some("timed out".into())), false);
    }

    #[test]
    fn group_and_class_are_the_brokers_work() {
        let subject = |filter: Filter| filter.compile("default").unwrap().subject;
        assert_eq!(subject(Filter::default()), "abd.default.*.*.*");
        let both = filter(|filter| (filter.group, filter.class) = (Some("readers".into()), Some("rejected".into())));
        assert_eq!(subject(both), "abd.default.readers.*.REJECTED");
    }

    #[test]
    fn bad_filters_are_refused_by_name() {
        let check = |filter: Filter, wanted: &str| {
            let fault = filter.compile("default").unwrap_err();
            assert_eq!(fault.code, Code::InvalidEvent);
            assert!(fault.message.contains(wanted), "{fault}");
        };
        check(filter(|filter| filter.group = Some("a.>".into())), "`group`");
        check(filter(|filter| filter.class = Some("LOST".into())), "`LOST` is none of EXHAUSTED");
        check(filter(|filter| filter.event_type = Some("a..b".into())), "`type`");
    }
}
