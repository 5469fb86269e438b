use std::fmt;

use serde::Serialize;

/// Why a text is no policy that can be enforced: what is wrong, where, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyError {
    /// Stable, in kebab case: `policy-field-unknown`.
    pub code: &'static str,
    /// Counted from 1.
    pub line: usize,
    /// `network_policies.npm.endpoints[0].tls`; empty for the file as a whole.
    pub field: String,
    /// One sentence.
    pub message: String,
    /// One thing to do.
    pub next: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for PolicyError {}

/// Something to say aloud about a policy that was read: where it means less here than where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Stable, in kebab case: `enforcement-default`.
    pub code: &'static str,
    /// Counted from 1.
    pub line: usize,
    /// The field.
    pub field: String,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, {}: {}", self.line, self.field, self.message)
    }
}
