//! Whether two subjects with wildcards have something in common, as the broker sees it.

/// Whether some subject matches both.
pub fn both(one: &str, other: &str) -> bool {
    let (mut mine, mut theirs) = (one.split('.'), other.split('.'));
    loop {
        match (mine.next(), theirs.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(mine), Some(theirs)) if mine == theirs => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::both;

    #[test]
    fn subjects_overlap_as_the_broker_sees_it() {
        for (one, other, wanted) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.c", true),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            ("a.*.c", "*.b.c", true),
            ("a.*.c", "*.b.d", false),
            ("*.x", "a.>", true),
            ("a.b.>", "a.b", false),
        ] {
            assert_eq!(both(one, other), wanted, "{one} {other}");
            assert_eq!(both(other, one), wanted, "{other} {one}");
        }
    }
}
