use serde::Serialize;

use crate::{Facts, kernel, namespaces};

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Less than it could be; a sandbox can be made.
    Warn,
    /// No sandbox can be made like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable word for it: `landlock`, `userns`, ...
    pub id: &'static str,
    /// How it was found.
    pub state: State,
    /// What was found, for a person: where it is not as it should be, the cause.
    pub found: String,
    /// The command that mends it.
    pub fix: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(id: &'static str, found: impl Into<String>) -> Self {
        Self { id, state: State::Ok, found: found.into(), fix: None }
    }

    /// Less than it could be, and what to do about it.
    pub fn warn(id: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    /// In the way of any sandbox, and what to do about it.
    pub fn fail(id: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, state: State::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

/// What the facts mean, in the order in which a sandbox needs them. What follows from a failure that is told is not
/// told again.
pub fn examine(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel::version(facts), kernel::landlock(facts), kernel::seccomp(facts)];
    checks.extend(namespaces::rights(facts));
    checks.extend(namespaces::namespaces(facts));
    checks.push(kernel::limits(facts));
    checks
}
