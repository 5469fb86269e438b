use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Words that cannot name a sandbox, because the command line reads them as commands.
pub const RESERVED_NAMES: &[&str] = &[
    "agent",
    "backup-all",
    "completion",
    "connect",
    "credentials",
    "daemon",
    "debug",
    "destroy",
    "doctor",
    "drill",
    "events",
    "exec",
    "gateway",
    "help",
    "inference",
    "init",
    "list",
    "logs",
    "metrics",
    "onboard",
    "policy",
    "pod",
    "rebuild",
    "recover",
    "service",
    "snapshot",
    "start",
    "status",
    "stop",
    "tui",
    "uninstall",
    "use",
    "version",
    "why",
];

/// A sandbox's name: lowercase, starts with a letter, letters, digits and single hyphens, ends alphanumeric,
/// at most 63 characters, no command word. So it is also a valid DNS label (RFC 1123) and file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SandboxName(String);

/// Why a text cannot name a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a sandbox name cannot be empty")]
    Empty,
    /// More than 63 characters.
    #[error("a sandbox name has at most 63 characters, this one has {0}")]
    TooLong(usize),
    /// A character, or a place for one, that names do not allow.
    #[error(
        "{0:?} is not a sandbox name: use lowercase letters, digits and single hyphens, start with a letter, end with a letter or digit"
    )]
    Malformed(String),
    /// A word of the command line.
    #[error("{0:?} is a command of clawkeep and cannot name a sandbox")]
    Reserved(String),
}

impl SandboxName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let length = text.chars().count();
        if length > 63 {
            return Err(NameError::TooLong(length));
        }
        let well_formed = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && !text.contains("--");
        if !well_formed {
            return Err(NameError::Malformed(text.to_owned()));
        }
        if RESERVED_NAMES.contains(&text) {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SandboxName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.parse() {
            // A word that became a command later goes on naming the sandbox that has it.
            Err(NameError::Reserved(name)) => Ok(Self(name)),
            parsed => parsed.map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_names_and_refuses_the_rest_with_the_reason() {
        for good in ["a", "my-assistant", "box7", "a-1-b", &"a".repeat(63)] {
            assert_eq!(good.parse::<SandboxName>().unwrap().as_str(), good);
        }
        for bad in ["A", "1a", "a-", "-a", "a--b", "a_b", "a b", "../x", "a/b", "é", "a\0", "a\n"] {
            assert!(matches!(bad.parse::<SandboxName>(), Err(NameError::Malformed(_))), "{bad:?}");
        }
        assert_eq!("".parse::<SandboxName>(), Err(NameError::Empty));
        assert_eq!("a".repeat(64).parse::<SandboxName>(), Err(NameError::TooLong(64)));
        assert_eq!("status".parse::<SandboxName>(), Err(NameError::Reserved("status".into())));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_a_plain_file_name(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<SandboxName>() {
                prop_assert!(!name.as_str().contains(['/', '.', '\0', ' ']));
                prop_assert!(name.as_str().len() <= 63);
            }
        }
    }
}
