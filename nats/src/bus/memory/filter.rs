//! Subjects against filters: `*` stands for one token, a final `>` for one or more.

/// Whether `subject` is one that `filter` means.
pub(super) fn matches(filter: &str, subject: &str) -> bool {
    let (mut wanted, mut tokens) = (filter.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(want), Some(token)) if want == token => {}
            _ => return false,
        }
    }
}

/// Whether any of the filters means `subject`; no filter means everything.
pub(super) fn any(filters: &[String], subject: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| matches(filter, subject))
}

/// Whether some subject is meant by both.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == "*" || b == "*" || a == b => {}
            _ => return false,
        }
    }
}

/// Rewrites a subject that `source` means, as a stream's transform does: a final `>` brings the rest along, `$1` or
/// `{{wildcard(1)}}` the token of the first `*`. None when `source` does not mean it.
pub(super) fn transform(source: &str, target: &str, subject: &str) -> Option<String> {
    if !matches(source, subject) {
        return None;
    }
    let (mut stars, mut rest) = (Vec::new(), Vec::new());
    let mut tokens = subject.split('.');
    for wanted in source.split('.') {
        match wanted {
            ">" => rest = tokens.by_ref().collect(),
            "*" => stars.extend(tokens.next()),
            _ => drop(tokens.next()),
        }
    }
    let numbered = |token: &str| {
        let number = token.strip_prefix('$').or_else(|| token.strip_prefix("{{wildcard(")?.strip_suffix(")}}"))?;
        stars.get(number.parse::<usize>().ok()?.checked_sub(1)?).copied()
    };
    let written: Vec<&str> = target
        .split('.')
        .flat_map(|token| if token == ">" { rest.clone() } else { vec![numbered(token).unwrap_or(token)] })
        .collect();
    Some(written.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_mean_what_they_mean_on_the_broker() {
        for (filter, subject, wanted) in [
            ("ab.*.n.>", "ab.default.n.list.topic", true),
            ("ab.*.n.>", "ab.default.n", false),
            ("ab.*", "ab.default.n", false),
            ("ab.default", "ab.default", true),
            (">", "x", true),
            ("ab.default.n", "ab.default", false),
        ] {
            assert_eq!(matches(filter, subject), wanted, "{filter} {subject}");
        }
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        for (one, other, wanted) in [
            ("a.*", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.b", "a.c", false),
            ("a.*.c", "a.b", false),
            (">", "a", true),
        ] {
            assert_eq!((overlap(one, other), overlap(other, one)), (wanted, wanted), "{one} {other}");
        }
    }

    #[test]
    fn a_transform_brings_the_rest_along() {
        let due = transform("abs.default.due.>", "ab.default.>", "abs.default.due.n.alice.topic.-.notes");
        assert_eq!(due.as_deref(), Some("ab.default.n.alice.topic.-.notes"));
        assert_eq!(transform("a.*.*", "b.$2.{{wildcard(1)}}", "a.x.y").as_deref(), Some("b.y.x"));
        assert_eq!(transform("a.>", "b.>", "c.x"), None);
    }
}
