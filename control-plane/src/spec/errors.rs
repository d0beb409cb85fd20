//! What is wrong with a project file: every mistake with its place, all at once.

use std::fmt;

use agentbus_proto::{Code, Fault};

use super::yaml::Mark;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Where; the start of the file when something is missing altogether.
    pub at: Mark,
    /// What is wrong and what is allowed. One line.
    pub message: String,
}

impl SpecError {
    pub(super) fn new(at: Mark, message: String) -> Self {
        Self { at, message }
    }
}

/// All mistakes of a file, in the order of the file. Displays as one `file:line:column: message` per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors {
    /// The file as it was named.
    pub file: String,
    /// Never empty.
    pub errors: Vec<SpecError>,
}

impl SpecErrors {
    /// For a file that cannot even be read.
    pub(super) fn unreadable(file: &str, why: String) -> Self {
        let start = Mark { line: 1, column: 1 };
        Self { file: file.to_owned(), errors: vec![SpecError::new(start, why)] }
    }

    pub(super) fn sorted(file: &str, mut errors: Vec<SpecError>) -> Self {
        errors.sort_by_key(|error| error.at);
        errors.dedup();
        Self { file: file.to_owned(), errors }
    }

    /// `BAD_CONFIG`: exit code 64.
    pub fn code(&self) -> Code {
        Code::BadConfig
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}:{}: {}", self.file, error.at.line, error.at.column, error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

impl From<SpecErrors> for Fault {
    fn from(errors: SpecErrors) -> Self {
        Fault::new(errors.code(), errors.to_string())
    }
}

/// The candidate that was probably meant: within two typing mistakes, or one in a short word.
pub(super) fn did_you_mean<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let allowed = if text.chars().count() <= 4 { 1 } else { 2 };
    let near = candidates.iter().map(|candidate| (distance(text, candidate), *candidate));
    near.filter(|(distance, _)| *distance <= allowed).min().map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(one[i - 1] != other[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_guessed_and_strangers_are_not() {
        let keys = ["command", "subscribe", "publish", "env"];
        let cases = [
            ("comand", Some("command")),
            ("commadn", Some("command")),
            ("subscribes", Some("subscribe")),
            ("evn", Some("env")),
            ("prompt", None),
            ("x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(did_you_mean(text, &keys), expected, "{text}");
        }
    }
}
