//! What a name may look like. Names become tokens of subjects, so the rule is the broker's safe subset, in one place.

use crate::code::Code;
use crate::failure::Fault;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 63;

/// Accepts `[A-Za-z0-9_-]{1,63}`: one token of a topic or a type. Refuses with `INVALID_ADDRESS`.
pub fn token(text: &str) -> Result<(), Fault> {
    check(
        "token",
        text,
        |byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-',
        "letters, digits, _ and -",
    )
}

/// Accepts `[a-z0-9_-]{1,63}`: namespaces, agents, groups, pools, channels. `kind` names it in the message ("agent").
/// Refuses with `INVALID_ADDRESS`.
pub fn lower_name(kind: &str, text: &str) -> Result<(), Fault> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    check(kind, text, allowed, "lower-case letters, digits, _ and -")
}

fn check(kind: &str, text: &str, allowed: impl Fn(u8) -> bool, alphabet: &str) -> Result<(), Fault> {
    let refuse = |message: String| Err(Fault::new(Code::InvalidAddress, message));
    if text.is_empty() {
        return refuse(format!("{kind} is empty; use 1 to {TOKEN_BYTES_MAX} {alphabet}"));
    }
    if let Some(bad) = text.chars().find(|c| !u8::try_from(*c).is_ok_and(&allowed)) {
        let text: String = text.chars().take(TOKEN_BYTES_MAX).collect();
        return refuse(format!("{kind} `{}` contains {bad:?}; allowed are {alphabet}", text.escape_debug()));
    }
    if text.len() > TOKEN_BYTES_MAX {
        return refuse(format!("{kind} `{text:.20}…` has {} bytes; at most {TOKEN_BYTES_MAX} are allowed", text.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let long = "x".repeat(63);
        for good in ["a", "A", "0", "_", "-", "Task_1-b", long.as_str()] {
            assert_eq!(token(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(64);
        for bad in ["", " ", "a.b", "a b", "*", ">", "$JS", "é", "a\n", "a\0", too_long.as_str()] {
            assert_eq!(token(bad).map_err(|fault| fault.code), Err(Code::InvalidAddress), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_thing_and_the_rule() {
        let check = |text: &str, wanted: &str| assert_eq!(lower_name("agent", text).unwrap_err().message, wanted);
        check("", "agent is empty; use 1 to 63 lower-case letters, digits, _ and -");
        check("Check", "agent `Check` contains 'C'; allowed are lower-case letters, digits, _ and -");
        check("a\nb", "agent `a\\nb` contains '\\n'; allowed are lower-case letters, digits, _ and -");
        check(&"x".repeat(64), "agent `xxxxxxxxxxxxxxxxxxxx…` has 64 bytes; at most 63 are allowed");
        assert_eq!(lower_name("agent", "check-2_b"), Ok(()));
    }
}
