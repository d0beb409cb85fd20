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
