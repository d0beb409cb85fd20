//! Quoting for POSIX shells: what `eval "$(agentbus env)"` reads.

/// The text as one word of a POSIX shell. Plain words stay as they are.
pub fn shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for text in ["", "plain", "/a b/c", "it's", "$(rm -rf /)", "a\nb", "`x`", "\\", "~", "*", "grün", "a;b"] {
            let out =
                std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", shell(text))).output().unwrap();
            assert_eq!(out.stdout, text.as_bytes(), "{text:?}");
        }
        assert_eq!(shell("http://127.0.0.1:1"), "http://127.0.0.1:1");
    }
}
